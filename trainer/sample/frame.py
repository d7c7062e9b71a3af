"""One burst, drawn: the place, the light, the animal walking through, the sensor's noise."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from .animals import SPECIES, Pose, Species, random_pose
from .fur import Patch, paint_animal
from .habitats import Colour
from .light import Light, Window, make_light
from .plan import Burst, Camera
from .props import HEIGHT_PX, WIDTH_PX, shaded
from .scene import FOCAL_PX, Scene
from .strip import STRIP_PX, add_strip
from .texture import Field

_LENGTH_PX = (260.0, 420.0)
"""Nose to tail, before foreshortening: whichever animal it is, so that size does not tell the class."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """An animal's way through one burst.

    Attributes:
        species, coat: who it is.
        pose: in the first frame.
        length_px: nose to tail, before foreshortening.
        distance_m: from the camera.
        foot_row: where it stands.
        x: middle of its body in the middle of the burst.
        step_px: how far it gets from frame to frame, to the right where positive.
    """

    species: Species
    coat: Colour
    pose: Pose
    length_px: float
    distance_m: float
    foot_row: float
    x: float
    step_px: float


def draw_burst(scene: Scene, camera: Camera, burst: Burst, rng: np.random.Generator) -> Iterator[Image.Image]:
    """The frames of a burst, finished RGB pictures in the camera's size, in order.

    Args:
        scene: the camera's place.
        camera: white balance, size and what the info strip says.
        burst: what is seen, when and how often.
        rng: the burst's own randomness, so that bursts can be drawn in any order.
    """
    light = make_light(scene.distance_m, is_night=burst.is_night, warmth=camera.warmth, rng=rng)
    empty = light.fall_on(scene.albedo, scene.distance_m)
    visit = None if burst.label not in SPECIES else _plan_visit(SPECIES[burst.label], scene, rng)
    # Most lenses are sharp; some are off, some have dew on them.
    blur_px = float(rng.choice([0.0, 0.0, 0.0, 0.7, 1.2]))
    temperature_c = _temperature_c(burst, rng)
    for index, time in enumerate(burst.times):
        frame = empty.copy()
        if visit is not None:
            _put_animal(frame, visit, scene, light, offset=index - (len(burst.times) - 1) / 2, rng=rng)
        noise = rng.standard_normal((HEIGHT_PX, WIDTH_PX), np.float32) * np.float32(light.noise)
        frame += noise[..., None]
        picture = _developed(frame, blur_px=blur_px)
        if picture.size != camera.size_px:
            picture = picture.resize(camera.size_px, Image.Resampling.BICUBIC)
        picture = picture.convert("RGB")
        add_strip(picture, camera, time, temperature_c=temperature_c)
        yield picture


def _developed(frame: Field, *, blur_px: float) -> Image.Image:
    """The picture of what the sensor recorded, grey where the frame has one channel; uses up the frame."""
    np.clip(frame, 0, 1, out=frame)
    frame *= 255
    frame += 0.5
    picture = Image.fromarray(frame.astype(np.uint8).squeeze())
    # One box, not a Gaussian: a lens out of focus spreads a point to an even disc.
    return picture.filter(ImageFilter.BoxBlur(blur_px)) if blur_px else picture


def _plan_visit(species: Species, scene: Scene, rng: np.random.Generator) -> Visit:
    """Who comes, where it walks and how it looks; near the edge of the frame in one burst of four."""
    length_px = float(np.exp(rng.uniform(*np.log(_LENGTH_PX))))
    distance_m = FOCAL_PX * species.length_m / length_px
    pose = random_pose(species, rng)
    at_edge = rng.random() < 0.25
    share = float(rng.uniform(0.08, 0.2) if at_edge else rng.uniform(0.25, 0.5))
    x = WIDTH_PX * (share if rng.random() < 0.5 else 1 - share)
    walks = pose.swing > 0.15
    step_px = length_px * float(rng.uniform(0.1, 0.25) if walks else rng.uniform(-0.02, 0.02))
    coat = species.coats[int(rng.integers(len(species.coats)))]
    return Visit(
        species=species,
        coat=shaded(coat, float(rng.uniform(0.88, 1.14))),
        pose=pose,
        length_px=length_px,
        distance_m=distance_m,
        foot_row=min(scene.row_at(distance_m), HEIGHT_PX - STRIP_PX - 4.0),
        x=x,
        step_px=-step_px if pose.faces_left else step_px,
    )


def _temperature_c(burst: Burst, rng: np.random.Generator) -> int:
    """A temperature that fits the hour: coldest before dawn."""
    hour = burst.times[0].hour + burst.times[0].minute / 60
    return round(12 + 7 * math.sin((hour - 9.5) / 24 * 2 * math.pi) + float(rng.normal(0, 2)))


def _put_animal(
    frame: Field, visit: Visit, scene: Scene, light: Light, *, offset: float, rng: np.random.Generator
) -> None:
    """Draws the animal into a lit frame, `offset` frames away from the middle of the burst."""
    pose = replace(
        visit.pose,
        stride=visit.pose.stride + offset * 2.1,
        neck=visit.pose.neck + float(rng.normal(0, 0.06)),
        ear=visit.pose.ear + float(rng.normal(0, 0.15)),
        tail=visit.pose.tail + float(rng.normal(0, 0.12)),
    )
    # However far it walks, enough of it stays in the frame to be told.
    x = min(max(visit.x + offset * visit.step_px, 0.06 * WIDTH_PX), 0.94 * WIDTH_PX)
    patch = paint_animal(visit.species, pose, coat=visit.coat, length_px=visit.length_px, rng=rng)
    if light.is_night and pose.swing > 0.15:
        patch = _smeared(patch, width_px=int(rng.integers(1, 6)))
    left, top = round(x - patch.foot[0]), round(visit.foot_row - patch.foot[1])
    _put_shadow(frame, x=x, visit=visit, strength=light.shadow)
    height_px, width_px = patch.alpha.shape
    first_row, last_row = max(top, 0), min(top + height_px, HEIGHT_PX)
    first_column, last_column = max(left, 0), min(left + width_px, WIDTH_PX)
    window = (slice(first_row, last_row), slice(first_column, last_column))
    inside = (slice(first_row - top, last_row - top), slice(first_column - left, last_column - left))
    alpha = patch.alpha * _sunk(patch, depth_px=0.3 * scene.grass_m * visit.length_px / visit.species.length_m, rng=rng)
    alpha = (alpha[inside] * ~_hidden(scene, window, visit.foot_row))[..., None]
    fur = patch.albedo[inside] * np.float32(visit.species.infrared if light.is_night else 1.0)
    lit = light.fall_on(fur, np.full((1, 1), visit.distance_m, np.float32), window)
    frame[window] += alpha * (lit - frame[window])
    if light.is_night:
        _put_eyes(frame, (left + patch.eye[0], top + patch.eye[1]), scene, visit, rng)


def _hidden(scene: Scene, window: Window, foot_row: float) -> npt.NDArray[np.bool_]:
    """Where grass, trunks or rocks stand in front of feet at a row; boolean, as large as the window."""
    base_row = scene.base_row[window]
    own_row = np.arange(HEIGHT_PX, dtype=np.float32)[window[0], None]
    return (base_row > foot_row + 2) & (base_row > own_row + 1.5)


def _sunk(patch: Patch, *, depth_px: float, rng: np.random.Generator) -> Field:
    """What low grass at its feet leaves to be seen of an animal: 1 above, 0 below a ragged line of blades."""
    height_px, width_px = patch.alpha.shape
    blades = np.repeat(rng.random(width_px // 2 + 1, np.float32), 2)[:width_px]
    above_px = patch.foot[1] - np.arange(height_px, dtype=np.float32)[:, None]
    return np.asarray(((above_px - depth_px * blades) / 2 + 1).clip(0, 1), np.float32)


def _smeared(patch: Patch, *, width_px: int) -> Patch:
    """The patch as a slow night shutter sees it while the animal walks."""
    shifts = range(-(width_px // 2), width_px - width_px // 2)
    alpha = np.mean([np.roll(patch.alpha, shift, axis=1) for shift in shifts], axis=0)
    return replace(patch, alpha=np.asarray(alpha, np.float32))


def _put_shadow(frame: Field, *, x: float, visit: Visit, strength: float) -> None:
    """Darkens the ground below the animal."""
    half_length_px = visit.length_px * visit.pose.foreshortening * 0.34
    half_depth_px = half_length_px * 0.17
    # Between the near and the far legs.
    middle_row = visit.foot_row - 0.4 * half_depth_px
    first_row = max(0, int(middle_row - 3 * half_depth_px))
    last_row = min(HEIGHT_PX, int(middle_row + 3 * half_depth_px) + 1)
    first_column = min(max(0, int(x - 2.2 * half_length_px)), WIDTH_PX)
    last_column = max(min(WIDTH_PX, int(x + 2.2 * half_length_px)), first_column)
    rows = (np.arange(first_row, last_row, dtype=np.float32)[:, None] - middle_row) / half_depth_px
    columns = (np.arange(first_column, last_column, dtype=np.float32) - x) / half_length_px
    darkness = strength * np.exp(-(rows**2) - columns**4)
    frame[first_row:last_row, first_column:last_column] *= (1 - darkness)[..., None].astype(np.float32)


def _put_eyes(frame: Field, eye: tuple[float, float], scene: Scene, visit: Visit, rng: np.random.Generator) -> None:
    """Lets the eyes shine, both where the head is turned to the camera, unless something hides them."""
    radius_px = max(1.1, visit.length_px * 0.0085)
    faces_camera = rng.random() < 0.4
    apart_px = visit.length_px * 0.035 * (-1 if visit.pose.faces_left else 1)
    for x in (eye[0], eye[0] + apart_px)[: 2 if faces_camera else 1]:
        column, row = round(x), round(eye[1])
        if 0 <= column < WIDTH_PX and 0 <= row < HEIGHT_PX:
            at = (slice(row, row + 1), slice(column, column + 1))
            if not _hidden(scene, at, visit.foot_row).any():
                _put_eye(frame, (x, eye[1]), radius_px=radius_px)


def _put_eye(frame: Field, eye: tuple[float, float], *, radius_px: float) -> None:
    """Adds the flash's reflection in an eye at (x, y): a bright disc with a glow around it."""
    column, row = round(eye[0]), round(eye[1])
    reach = math.ceil(radius_px * 4)
    rows, columns = slice(max(0, row - reach), row + reach + 1), slice(max(0, column - reach), column + reach + 1)
    away = np.hypot(
        np.arange(HEIGHT_PX, dtype=np.float32)[rows, None] - np.float32(eye[1]),
        np.arange(WIDTH_PX, dtype=np.float32)[columns] - np.float32(eye[0]),
    )
    shine = np.exp(-((away / radius_px) ** 4)) + 0.25 * np.exp(-((away / (2 * radius_px)) ** 2))
    frame[rows, columns] = np.maximum(frame[rows, columns], shine[..., None].clip(0, 1))
