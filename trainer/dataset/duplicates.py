"""Files with the very same bytes: one is kept, because a photo that is trained on twice may also be tested on."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..errors import DatasetError
from .layout import shown
from .photo import Photo, Rejected

# A copy in test/ is worth more than one in val/ or train/: test/ is what the user chose to be measured on.
_KEPT_FIRST = {"test": 0, "val": 1, "train": 2, "": 2}
_PAIRS_NAMED = 5


def without_duplicates(photos: Sequence[Photo]) -> tuple[list[Photo], list[Rejected]]:
    """The photos to keep, sorted by path, and the copies to leave out.

    Of copies in one part the first by path is kept; of copies in several parts one in test, else in val, else in train.

    Raises:
        DatasetError: The same bytes lie under two classes; names up to five pairs.
    """
    copies: dict[str, list[Photo]] = defaultdict(list)
    for photo in sorted(photos, key=lambda photo: photo.path):
        copies[photo.sha256].append(photo)
    _check_labels(copies.values())
    kept, repeated = [], []
    for group in copies.values():
        first, *others = sorted(group, key=lambda photo: (_KEPT_FIRST[photo.part], photo.path))
        kept.append(first)
        repeated += [
            Rejected(path=copy.path, label=copy.label, part=copy.part, status="duplicate", reason=_reason(copy, first))
            for copy in others
        ]
    return sorted(kept, key=lambda photo: photo.path), repeated


def _reason(copy: Photo, kept: Photo) -> str:
    reason = f"the same bytes as {shown(kept.path)}, which is kept"
    if copy.part != kept.part:
        reason += f", so that no photo is in both {kept.part}/ and {copy.part}/"
    return reason


def _check_labels(groups: Iterable[list[Photo]]) -> None:
    pairs = []
    for group in groups:
        other = next((photo for photo in group if photo.label != group[0].label), None)
        if other is not None:
            pairs.append(f"{shown(group[0].path)} = {shown(other.path)}")
    if pairs:
        more = f" and {len(pairs) - _PAIRS_NAMED} more" if len(pairs) > _PAIRS_NAMED else ""
        raise DatasetError(
            f"the same photo lies under two classes: {', '.join(pairs[:_PAIRS_NAMED])}{more}; decide which class each "
            "belongs to and remove the other copy"
        )
