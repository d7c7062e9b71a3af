"""One thing that a run's figures say, and how figures are put into its sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .intervals import wilson_interval

Severity = Literal["serious", "advice", "fine"]
#: The gravest first.
SEVERITIES = ("serious", "advice", "fine")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the figures say.

    Attributes:
        code: Its kind, which stays the same from version to version.
        severity: How grave it is.
        sentence: What was found, with its figures, and what would help.
        facts: The figures of the sentence, as JSON values.
    """

    code: str
    severity: Severity
    sentence: str
    facts: dict[str, Any]


def recall_interval(part: Mapping[str, Any], label: str) -> tuple[float, float]:
    """The 95 % interval of a class's recall in a part's figures: the one that is given, else Wilson's."""
    row = part["classes"][label]
    low, high = row.get("recall_interval") or wilson_interval(round(row["recall"] * row["support"]), row["support"])
    return low, high


def listed(names: Sequence[str]) -> str:
    """At most five names, and how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
