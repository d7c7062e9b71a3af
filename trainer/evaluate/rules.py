"""What each figure of a run means: one rule a function, which says nothing where it lacks its figures.

docs/judge.md has the bounds in words.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..dataset.layout import shown
from ..recipe.history import rise, turning_point
from .epochs import epochs
from .finding import Finding, Severity, listed
from .intervals import NO_INTERVAL, wilson_interval

#: Recall of the weakest class: below the first, in at least so many test photos, is serious; below the last, advice.
POOR_RECALL, PHOTOS_FOR_POOR, GOOD_RECALL = 0.5, 10, 0.9
#: Width of a class's 95 % interval that is advice, and that is serious.
WIDE, VERY_WIDE = 0.2, 0.5
#: Test photos of a class below which they are called few.
FEW_PHOTOS = 30
#: Largest class over the smallest in training: advice, and serious where nothing is done about it.
UNEQUAL, VERY_UNEQUAL = 3.0, 10.0
#: Expected calibration error above what perfect scores would seem to have, beyond chance: advice, serious.
MISCALIBRATED, BADLY_MISCALIBRATED = 0.04, 0.15
#: Share of the test photos that one group holds: advice, serious.
LARGE_GROUP, DOMINANT_GROUP = 1 / 3, 1 / 2
#: Share of the test photos that thresholds leave to a person: above is advice.
MANY_LEFT = 1 / 2
#: AUROC of photos of classes never trained on: below is advice, serious.
UNKNOWNS_POOR, UNKNOWNS_UNSEEN = 0.8, 0.6


def _weakest(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    labels, test = metrics["labels"], metrics["test"]
    known = {label: row for label, row in test["classes"].items() if row["recall"] is not None}
    label = min(known, key=lambda name: known[name]["recall"], default=None)
    if label is None or known[label]["recall"] == 1:
        return
    recall, count = known[label]["recall"], known[label]["support"]
    row = test["confusion"][labels.index(label)]
    others = {name: taken for name, taken in zip(labels, row, strict=True) if name != label}
    other = max(others, key=lambda name: others[name])
    severity: Severity = "advice" if recall < GOOD_RECALL else "fine"
    if recall < POOR_RECALL and count >= PHOTOS_FOR_POOR:
        severity = "serious"
    interval = known[label].get("recall_interval")
    bounds = f"95 % interval {interval[0]:.0%} to {interval[1]:.0%}" if interval else NO_INTERVAL
    yield Finding(
        code="weakest_class",
        severity=severity,
        sentence=(
            f"the weakest class is {label}: {recall:.0%} of its {count:,} test photos are found ({bounds}), and it "
            f"is most often taken for {other} ({others[other]:,} times)"
        ),
        facts={
            "label": label,
            "recall": recall,
            "recall_interval": interval,
            "image_count": count,
            "taken_for": other,
            "taken_for_count": others[other],
        },
    )


def _over_training(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    history = epochs(metrics.get("history") or ())
    turned = turning_point(history)
    if turned is None:
        return
    last, kept = history[-1], metrics["epoch"]
    held = f"epoch {kept}" if kept else "what training began with" if metrics["head"] is None else "the head alone"
    yield Finding(
        code="over_training",
        severity="advice",
        sentence=(
            f"it was trained for too long: {rise(turned, last)}. The export holds {held}, so nothing is lost but "
            f"time; --epochs {turned.epoch} would do, and more photos or --augment mild would let it go on for longer"
        ),
        facts={
            "turned_at": turned.epoch,
            "kept": kept,
            "last": last.epoch,
            "rise": last.rise,
            "rise_error": last.rise_error,
        },
    )


def _few_images(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    test = metrics["test"]
    bounds = {label: _least_bounds(row) for label, row in test["classes"].items() if row["support"]}
    label = max(bounds, key=lambda name: bounds[name][1] - bounds[name][0], default=None)
    if label is None or bounds[label][1] - bounds[label][0] <= WIDE:
        return
    row, (low, high) = test["classes"][label], bounds[label]
    total = sum(counts.get(label, 0) for counts in metrics["split"].get("class_counts", {}).values())
    in_all = f", about {4 * total:,} photos of it in all at this split" if total else ""
    how, others = f"95 % interval of {row['recall']:.0%}", ""
    if not row.get("recall_interval"):
        how = f"{row['recall']:.0%} of single photos would have this interval, so it is at least so wide; {NO_INTERVAL}"
        others = " of other sites or visits"
    yield Finding(
        code="too_few_images",
        severity="serious" if high - low > VERY_WIDE else "advice",
        sentence=(
            f"too few photos to know how good it is at {label}: from its {row['support']:,} test photos the share "
            f"found may be anything from {low:.0%} to {high:.0%} ({how}). Four times as "
            f"many{others} ({4 * row['support']:,} test photos{in_all}) would about halve that width"
        ),
        facts={
            "label": label,
            "image_count": row["support"],
            "recall_interval": row.get("recall_interval"),
            "width_at_least": high - low,
            "image_count_for_half": 4 * row["support"],
        },
    )


def _least_bounds(row: Mapping[str, Any]) -> list[float]:
    """A class's recall interval; where none is honest Wilson's, which photos of groups have at least."""
    found = row.get("recall_interval") or wilson_interval(round(row["recall"] * row["support"]), row["support"])
    return list(found)


def _small_test(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    counts = {label: row["support"] for label, row in metrics["test"]["classes"].items()}
    absent = [label for label, count in counts.items() if count == 0]
    few = {label: count for label, count in counts.items() if 0 < count < FEW_PHOTOS}
    if absent:
        yield Finding(
            code="untested_class",
            severity="serious",
            sentence=(
                f"the test part has no photo of {listed(absent)}: nothing is known of how well it is told; add some"
            ),
            facts={"labels": absent},
        )
    if few:
        counted = listed([f"{label} {count}" for label, count in sorted(few.items(), key=lambda item: item[1])])
        yield Finding(
            code="small_test_part",
            severity="advice",
            sentence=(
                f"the test part has fewer than {FEW_PHOTOS} photos of {len(few)} of {len(counts)} classes ({counted}): "
                f"one photo more or less right moves such a class by {1 / max(few.values()):.0%} or more"
            ),
            facts={"image_counts": few},
        )


def _imbalance(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    counts = metrics["split"].get("class_counts", {}).get("train", {})
    if not counts or min(counts.values()) == 0:
        return
    largest, smallest = (pick(counts, key=lambda label: counts[label]) for pick in (max, min))
    ratio = counts[largest] / counts[smallest]
    if ratio <= UNEQUAL:
        return
    balance = metrics.get("balance", "none")
    severity: Severity = "fine" if balance != "none" else "serious" if ratio > VERY_UNEQUAL else "advice"
    done = (
        "nothing was done about it; --balance auto weighs rare classes up"
        if balance == "none"
        else f"--balance {balance} weighed rare classes up"
    )
    yield Finding(
        code="imbalance",
        severity=severity,
        sentence=(
            f"classes are unequal: {largest} has {counts[largest]:,} photos to train on, {smallest} has "
            f"{counts[smallest]:,}, {ratio:.1f} times fewer; {done}"
        ),
        facts={"largest": largest, "smallest": smallest, "ratio": ratio, "balance": balance},
    )


def _calibration(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    test = metrics["test"]
    error, chance, high = (test.get(name) for name in ("ece", "ece_by_chance", "ece_by_chance_high"))
    if error is None or chance is None or high is None or error <= high or error - chance <= MISCALIBRATED:
        return
    yield Finding(
        code="calibration",
        severity="serious" if error - chance > BADLY_MISCALIBRATED else "advice",
        sentence=(
            f"scores are off by {100 * error:.0f} points on average (expected calibration error, "
            f"{test['image_count']:,} test photos), where perfect ones would seem off by {100 * chance:.0f}: do not "
            "read a score as the chance of being right; more validation photos make the temperature better"
        ),
        facts={
            "ece": error,
            "ece_interval": test.get("ece_interval"),
            "ece_by_chance": chance,
            "ece_by_chance_high": high,
            "image_count": test["image_count"],
        },
    )


def _single_group(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    largest = metrics["split"].get("largest_test_group")
    count = metrics["test"]["image_count"]
    if not largest or largest["image_count"] <= LARGE_GROUP * count:
        return
    share = largest["image_count"] / count
    yield Finding(
        code="single_group",
        severity="serious" if share > DOMINANT_GROUP else "advice",
        sentence=(
            f"one group, {shown(largest['group'])}, holds {largest['image_count']:,} of the {count:,} test photos "
            f"({share:.0%}): the test figure is mostly about that one place or visit; add photos of others"
        ),
        facts={"group": largest["group"], "image_count": largest["image_count"], "share": share},
    )


def _left_to_person(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    thresholds = metrics.get("thresholds") or {}
    share = thresholds.get("left_to_person_share")
    if share is None or share <= MANY_LEFT:
        return
    lacking = [label for label, row in thresholds["classes"].items() if row["threshold"] is None]
    count, target = len(thresholds["classes"]), thresholds["target_precision"]
    why = f"{len(lacking)} of {count} classes have none ({listed(lacking)})" if lacking else "they are high"
    yield Finding(
        code="left_to_person",
        severity="advice",
        sentence=(
            f"the thresholds leave {share:.0%} of the {metrics['test']['image_count']:,} test photos to a person: "
            f"{why}; more photos, or a lower --target-precision than {target:g}, would leave fewer"
        ),
        facts={"share": share, "target_precision": target, "labels": lacking},
    )


def _unknowns(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    unknowns = metrics.get("unknowns") or {}
    value = (unknowns.get("auroc") or {}).get(unknowns.get("method"))
    if value is None or value >= UNKNOWNS_POOR:
        return
    yield Finding(
        code="unknowns",
        severity="serious" if value < UNKNOWNS_UNSEEN else "advice",
        sentence=(
            "photos of unknown classes are told poorly: with one class at a time left out, its photos were told from "
            f"known ones with an AUROC of {value:.2f} (0.5 is chance, 1 is always); collect them in a class of their "
            "own"
        ),
        facts={"method": unknowns["method"], "auroc": value},
    )


RULES: tuple[Callable[[Mapping[str, Any]], Iterator[Finding]], ...] = (
    _weakest,
    _over_training,
    _few_images,
    _small_test,
    _imbalance,
    _calibration,
    _single_group,
    _left_to_person,
    _unknowns,
)
