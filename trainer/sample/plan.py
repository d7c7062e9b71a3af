"""What the imagined cameras saw, and when: every burst of the sample, decided before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import numpy as np

LABELS = ("deer", "empty", "fox", "hog")
"""The classes, in the order in which their folders sort."""

_FIRST_DAY = datetime(2024, 5, 3)  # noqa: DTZ001  # cameras, like EXIF, keep local time and know no zone
# Frames a burst, dealt out again and again: 19 frames in 12 bursts. Many short bursts teach more than few long ones.
_PHOTO_SIZES = (1, 1, 2, 1, 3, 1, 1, 2, 1, 1, 4, 1)
_UNSEEN_SIZES = (1, 3, 2)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera and the place it looks at.

    Attributes:
        name: short name, part of every file name.
        site: what the info strip calls the place.
        make, model, serial: what the camera writes into EXIF; the serial is its own.
        habitat: key of `scene.HABITATS`.
        size_px: width and height of its pictures. A larger size is interpolated, as cheap cameras do.
        warmth: white balance, above 0 redder, below 0 bluer.
    """

    name: str
    site: str
    make: str
    model: str
    serial: str
    habitat: str
    size_px: tuple[int, int] = (640, 480)
    warmth: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Burst:
    """Some frames that one trigger made, seconds apart.

    Attributes:
        number: position in the whole plan; with the seed it decides everything drawn.
        camera: index into `CAMERAS`.
        label: what is in every frame of it.
        is_night: taken by infra-red flash.
        is_unseen: goes to `unseen/`, not to `photos/`.
        times: when each frame was taken, to the second, rising.
    """

    number: int
    camera: int
    label: str
    is_night: bool
    is_unseen: bool
    times: tuple[datetime, ...]


_woodline = partial(Camera, make="Woodline", model="Scout 5")
_kestrel = partial(Camera, make="Kestrel Optics", model="KT-20 IR")

CAMERAS = (
    _woodline(name="cam1", site="OAK HOLLOW", serial="WL5-20417", habitat="oak wood"),
    _woodline(name="cam2", site="LONG MEADOW", serial="WL5-20422", habitat="meadow", warmth=0.03),
    _kestrel(name="cam3", site="BIRCH TRACK", serial="KT-003188", habitat="birch wood"),
    _woodline(name="cam4", site="STONE SLOPE", serial="WL5-20530", habitat="stony slope", warmth=0.02),
    _kestrel(name="cam5", site="FERN CREEK", serial="KT-003240", habitat="fern gully", warmth=-0.02),
    _kestrel(name="cam6", site="DRY HEATH", serial="KT-003266", habitat="heath", size_px=(1280, 960)),
)
"""The cameras. Each sees each class, by day and by night."""


def plan_bursts(*, seed: int, burst_count: int, unseen_burst_count: int) -> list[Burst]:
    """Every burst of the sample: first those of `photos/`, then those of `unseen/`, which are all later.

    Classes take turns, so their burst counts differ by at most one. Within a class the cameras take turns, and
    at each camera day and night do. On one camera there is at most one burst a day, so bursts of one camera are
    hours apart, while frames within one are seconds apart.

    Args:
        seed: decides times, order and sizes.
        burst_count: bursts in `photos/`, over all classes.
        unseen_burst_count: bursts in `unseen/`, over all classes.
    """
    rng = np.random.default_rng([seed, 0])
    total = burst_count + unseen_burst_count
    turns = [(number % len(LABELS), number // len(LABELS)) for number in range(burst_count)]
    turns += [(number % len(LABELS), number // len(LABELS)) for number in range(unseen_burst_count)]
    # Neither camera nor light may tell the class: each class starts its round of the cameras elsewhere.
    cameras = [(turn + 2 * label) % len(CAMERAS) for label, turn in turns]
    nights = [
        (turn // len(CAMERAS) + camera + label) % 2 == 1 for (label, turn), camera in zip(turns, cameras, strict=True)
    ]
    days = _days(cameras, burst_count, rng)
    sizes = _sizes(turns[:burst_count], _PHOTO_SIZES, rng) + _sizes(turns[burst_count:], _UNSEEN_SIZES, rng)
    return [
        Burst(
            number=number,
            camera=cameras[number],
            label=LABELS[turns[number][0]],
            is_night=nights[number],
            is_unseen=number >= burst_count,
            times=_times(days[number], sizes[number], nights[number], rng),
        )
        for number in range(total)
    ]


def _days(cameras: Sequence[int], burst_count: int, rng: np.random.Generator) -> list[int]:
    """A day number for each burst: another day for each burst of one camera, unseen ones after all others."""
    days = [0] * len(cameras)
    photo_day_count = max(cameras[:burst_count].count(camera) for camera in range(len(CAMERAS))) * 2
    for camera in range(len(CAMERAS)):
        photos = [number for number in range(burst_count) if cameras[number] == camera]
        unseen = [number for number in range(burst_count, len(cameras)) if cameras[number] == camera]
        for numbers, first_day in ((photos, 0), (unseen, photo_day_count + 3)):
            # Every other day on average, in an order that has nothing to do with the class.
            chosen = first_day + rng.permutation(2 * len(numbers))[: len(numbers)]
            for number, day in zip(numbers, chosen, strict=True):
                days[number] = int(day)
    return days


def _sizes(turns: Sequence[tuple[int, int]], cycle: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Frames in each burst, such that every class gets the same sizes, each class in another order."""
    sizes = [0] * len(turns)
    for label in range(len(LABELS)):
        numbers = [number for number, (turn_label, _) in enumerate(turns) if turn_label == label]
        pool = [cycle[position % len(cycle)] for position in range(len(numbers))]
        for number, size in zip(numbers, rng.permutation(pool), strict=True):
            sizes[number] = int(size)
    return sizes


def _times(day: int, frame_count: int, is_night: bool, rng: np.random.Generator) -> tuple[datetime, ...]:
    """Times of a burst's frames: 07:00-18:59 by day, 22:00-03:59 by night, 2 to 5 seconds between frames."""
    first_hour, hour_count = (22, 6) if is_night else (7, 12)
    start = _FIRST_DAY + timedelta(days=day, hours=first_hour, seconds=int(rng.integers(hour_count * 3600)))
    gaps = [0, *rng.integers(2, 6, frame_count - 1)]
    return tuple(start + timedelta(seconds=int(seconds)) for seconds in np.cumsum(gaps))
