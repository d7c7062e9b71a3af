"""What a run's figures mean, in plain sentences, each with its numbers; docs/judge.md has the rules in words.

`serious` is what makes the figures or the model not to be relied on, `advice` what would make them better, `fine` what
is only told.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..dataset.layout import shown
from ..dataset.straddling import Duplicate
from .finding import SEVERITIES, Finding, listed
from .rules import RULES
from .suspects import Suspect

#: Share of photos that are confidently another class than their label: advice, serious.
MANY_SUSPECTS, VERY_MANY_SUSPECTS = 0.03, 0.1
#: Share of a part's photos that nearly repeat one of another part: any is advice, so many are serious.
MANY_DUPLICATES = 0.01
#: Pairs of near duplicates that a finding lists; `duplicates.csv` has them all.
LISTED_PAIRS = 100


def judge(metrics: Mapping[str, Any], *, duplicates: Sequence[Duplicate], suspects: Sequence[Suspect]) -> list[Finding]:
    """What the figures say, the gravest first; one finding `fine` where nothing calls for anything.

    Args:
        metrics: What `metrics.json` holds; a figure that is missing or None is passed over.
        duplicates: Near duplicates across parts.
        suspects: Photos whose label is doubted.
    """
    found = [finding for rule in RULES for finding in rule(metrics)]
    found += _duplicates(metrics, duplicates)
    found += _suspects(metrics, suspects)
    if all(finding.severity == "fine" for finding in found):
        found.append(_fine(metrics))
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _duplicates(metrics: Mapping[str, Any], duplicates: Sequence[Duplicate]) -> Iterator[Finding]:
    """Repeats within a group or across given parts are leaks; across groups that we divided, a fixed camera's view."""
    ungrouped = metrics["split"].get("rule") == "none"
    leaks = [one for one in duplicates if ungrouped or one.same_group or one.given]
    views = [one for one in duplicates if not (ungrouped or one.same_group or one.given)]
    if leaks:
        parts, many = _repeated(metrics, leaks)
        yield Finding(
            code="duplicates",
            severity="serious" if many else "advice",
            sentence=(
                f"{parts} nearly repeat a photo of another part (e.g. {_named(leaks[0])}), so figures flatter: "
                "duplicates.csv lists them; take one of each pair out"
            ),
            facts=_pairs(leaks),
        )
    if views:
        yield Finding(
            code="similar_views",
            severity="advice",
            sentence=(
                f"{_repeated(metrics, views)[0]} look nearly like a photo of another part that was grouped apart (e.g. "
                f"{_named(views[0])}), as frames of a fixed camera do: of a camera in another place expect less; "
                "duplicates.csv lists them"
            ),
            facts=_pairs(views),
        )


def _repeated(metrics: Mapping[str, Any], pairs: Sequence[Duplicate]) -> tuple[str, bool]:
    """How many photos of which parts, in words, and whether those are many."""
    counts = metrics["split"]["image_counts"]
    repeated = {part: len({one.path for one in pairs if one.part == part}) for part in ("test", "val")}
    words = listed([f"{repeated[part]:,} of {counts[part]:,} {part} photos" for part in repeated if repeated[part]])
    return words, any(repeated[part] > MANY_DUPLICATES * counts[part] for part in repeated)


def _named(pair: Duplicate) -> str:
    return f"{shown(pair.path)} and {shown(pair.other_path)}"


def _pairs(pairs: Sequence[Duplicate]) -> dict[str, Any]:
    return {"image_count": len({one.path for one in pairs}), "pairs": [asdict(one) for one in pairs[:LISTED_PAIRS]]}


def _suspects(metrics: Mapping[str, Any], suspects: Sequence[Suspect]) -> Iterator[Finding]:
    asked = (metrics.get("suspects") or {}).get("asked_image_count")
    count = sum(one.confident for one in suspects)
    if not asked or count <= MANY_SUSPECTS * asked:
        return
    yield Finding(
        code="suspects",
        severity="serious" if count > VERY_MANY_SUSPECTS * asked else "advice",
        sentence=(
            f"{count:,} of {asked:,} photos ({count / asked:.1%}) look more like another class than their label says, "
            "to heads that never saw them: go through suspects.csv from the top, mend wrong labels and train again"
        ),
        facts={"image_count": count, "asked_image_count": asked},
    )


def _fine(metrics: Mapping[str, Any]) -> Finding:
    test = metrics["test"]
    interval = test["accuracy_interval"]
    within = f" (95 % interval {interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
    return Finding(
        code="fine",
        severity="fine",
        sentence=(
            f"nothing that is looked for is wrong: {test['accuracy']:.1%} of {test['image_count']:,} test photos right"
            f"{within}"
        ),
        facts={"accuracy": test["accuracy"], "image_count": test["image_count"]},
    )
