"""The epochs that a run's figures hold, also of a version whose rows have other columns."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from ..recipe.history import Epoch


def epochs(rows: Iterable[Mapping[str, Any]]) -> list[Epoch]:
    """Rows of `history` in `metrics.json` as epochs; columns that are not known are passed over."""
    names = {field.name for field in fields(Epoch)}
    return [Epoch(**{name: row[name] for name in names & row.keys()}) for row in rows]
