"""One thing that a run's figures say, and how figures are put into its sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


def listed(names: Sequence[str]) -> str:
    """At most five names, and how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
