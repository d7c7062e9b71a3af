"""The sections of the report on where its figures come from: photos, layers, choices, versions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .evidence import Evidence
from .sections import sentence_of

View = dict[str, Any]


def data(evidence: Evidence) -> View:
    """How many photos of each class are in each part, and what was left out."""
    rows = [
        {"label": label, **{part: evidence.parts[label][part] for part in ("train", "val", "test")}}
        for label in sorted(evidence.parts)
    ]
    return {
        "missing": None if rows else evidence.missing("list of photos (split.csv)"),
        "rows": rows,
        "left_out": [f"{count:,} {status.replace('_', ' ')}" for status, count in sorted(evidence.left_out.items())],
    }


def model(evidence: Evidence) -> View:
    """The layers of the network, and the share of their outputs that is not zero."""
    summary = evidence.pictures.get("model_summary") or {}
    shares = evidence.pictures.get("non_zero_shares") or []
    rows = summary.get("rows") or []
    totals = {key: value for key, value in summary.items() if key != "rows"}
    return {
        "missing": None if rows or shares else evidence.missing("model summary (pictures.json)"),
        "columns": [name.replace("_", " ") for name in rows[0]] if rows else [],
        "rows": [[_value(value) for value in row.values()] for row in rows],
        "totals": _spoken(totals),
        "shares": shares,
        "sentence": sentence_of(evidence.pictures.get("non_zero_sentence") or ""),
    }


def choices(evidence: Evidence) -> View:
    """Every choice of the run, and the versions that made it; of a path only the last name."""
    options = evidence.state.get("config") or {}
    made = {name: value for name, value in evidence.plan.items() if name != "versions"}
    facts = {"data digest": evidence.metrics.get("data_digest") or evidence.state.get("data_digest")}
    facts["split digest"] = (evidence.metrics.get("split") or {}).get("digest")
    return {
        "missing": None if made or options else evidence.missing("plan"),
        "note": None if made else evidence.missing("plan (plan.json)"),
        "made": _spoken(made),
        "options": _spoken(options),
        "versions": _spoken(evidence.plan.get("versions") or {}),
        "digests": [(name, value) for name, value in facts.items() if value],
        "parity": evidence.metrics.get("parity"),
        "publication": evidence.metrics.get("publication"),
    }


def _spoken(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _value(value)) for name, value in values.items()]


def _value(value: object) -> str:  # noqa: PLR0911  # one line a kind
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        # A year or a seed has no groups of digits, a count of parameters has.
        return f"{value:,}" if value >= 100_000 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_value(inner)}" for name, inner in value.items()) or "–"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_value(inner) for inner in value) or "–"
    text = str(value)
    return Path(text).name if "/" in text else text
