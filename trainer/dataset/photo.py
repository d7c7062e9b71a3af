"""What is known of each file of a data set: a photo that can be trained on, or a file left out and why."""

from dataclasses import dataclass
from typing import Literal

#: Why a file is no photo of the data set: broken, over a limit, the same bytes as another, or never meant as an image.
Status = Literal["unreadable", "too_large", "duplicate", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photo that can be trained on.

    Attributes:
        path: Relative to the data folder, with `/`; bytes that are no UTF-8 survive as surrogate escapes.
        label: The class, which is the class folder's name.
        part: `train`, `val` or `test` where the data folder is divided already, else empty.
        sha256: Of the file's bytes, in lower-case hex.
        camera: As `trapline.preprocessing.Exif` gives it; empty where unknown.
        taken: EXIF date and time, `YYYY:MM:DD HH:MM:SS`; empty where unknown.
        difference_hash: 64 bits, see `trainer.dataset.difference_hash`; 0 for a photo too flat to be compared.
        cache_row: Row of its pixels in the `PixelCache` of this run.
    """

    path: str
    label: str
    part: str
    sha256: str
    camera: str
    taken: str
    difference_hash: int
    cache_row: int

    @property
    def subfolder(self) -> str:
        """The folders between the class folder and the file, joined by `/`; empty where there are none."""
        folders = self.path.split("/")[:-1]
        return "/".join(folders[2 if self.part else 1 :])


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """One file (or folder that cannot be listed) that is left out; `path`, `label` and `part` as in `Photo`.

    Attributes:
        status: The kind of reason.
        reason: A sentence.
    """

    path: str
    label: str
    part: str
    status: Status
    reason: str
