"""An animal in a pose, painted: outline, limbs in light and shade, coat, ragged edge."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from .animals import ANTLERS, Limb, Pose, Species
from .habitats import Colour
from .props import Spine, edge, shaded, spine, to_bytes
from .texture import Field, fractal

_SUPERSAMPLING = 2
_FAR_SIDE = 0.62
"""How much darker the legs of the far side are."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A painted animal, cut out.

    Attributes:
        albedo: float32 (height, width, 3), reflectance 0 to 1.
        alpha: float32 (height, width), 1 inside the animal.
        foot: (x, y) pixel of the patch where the middle of the body stands on the ground.
        eye: (x, y) pixel of the patch where the eye reflects the flash.
        length_px: length of the body as it appears.
    """

    albedo: Field
    alpha: Field
    foot: tuple[float, float]
    eye: tuple[float, float]
    length_px: float


class _Skin:
    """The paper that one animal is painted on: colours, and a mask of all that is animal."""

    def __init__(self, pose: Pose, *, unit_px: float, coat: Colour) -> None:
        self.scale = unit_px * _SUPERSAMPLING
        # Room for the longest tail and the highest antlers, whichever way the animal turns.
        half_px, up_px, down_px = (math.ceil(unit_px * units) for units in (2.25, 2.05, 0.3))
        self.foot = (float(half_px), float(up_px))
        size_px = (2 * half_px * _SUPERSAMPLING, (up_px + down_px) * _SUPERSAMPLING)
        # The paper has the colour of the coat, so that blurring does not darken the animal's edge.
        self.colour = Image.new("RGB", size_px, to_bytes(coat))
        self.mask = Image.new("L", size_px)
        self._draw_colour = ImageDraw.Draw(self.colour)
        self._draw_mask = ImageDraw.Draw(self.mask)
        mirrored = -1.0 if pose.faces_left else 1.0
        cosine, sine = math.cos(pose.slope), math.sin(pose.slope)
        self._turn = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([pose.foreshortening, 1.0])
        self._turn = np.diag([mirrored, -1.0]) @ self._turn

    def place(self, points: Matrix) -> Matrix:
        """Body coordinates, (n, 2), as pixels of the enlarged paper."""
        return np.asarray(points @ self._turn.T * self.scale + np.array(self.foot) * _SUPERSAMPLING)

    def limb(self, points: Matrix, colour: Colour) -> Spine:
        """Paints one limb, rows of (x, y, radius), with discs at its joints; gives the line it follows."""
        line = spine(points, steps=4)
        corners: list[float] = self.place(edge(line)).ravel().tolist()
        ink = to_bytes(colour)
        self._draw_colour.polygon(corners, fill=ink)
        self._draw_mask.polygon(corners, fill=255)
        joints, radii = self.place(points[:, :2]).tolist(), (points[:, 2] * self.scale).tolist()
        for (x, y), radius in zip(joints, radii, strict=True):
            # The discs close the folds that a sharply bent outline leaves open.
            box = (x - radius * 0.88, y - radius, x + radius * 0.88, y + radius)
            self._draw_colour.ellipse(box, fill=ink)
            self._draw_mask.ellipse(box, fill=255)
        return line

    def rounded(self, points: Matrix, colour: Colour, belly: Colour | None = None) -> None:
        """Paints a limb as something round: dark edge, light from above, pale below where a belly is given."""
        line = self.limb(points, shaded(colour, 0.74))
        stripes = [(colour, 0.72, 0.14), (shaded(colour, 1.22), 0.38, 0.36)]
        if belly is not None:
            stripes.insert(0, (belly, 0.45, -0.42))
        for tone, width, rise in stripes:
            corners: list[float] = self.place(edge(line, width=width, rise=rise)).ravel().tolist()
            self._draw_colour.polygon(corners, fill=to_bytes(tone))

    def trim(self) -> tuple[int, int]:
        """Cuts the empty paper off and gives how many pixels, of the patch, went at the left and the top."""
        left, top, right, bottom = self.mask.getbbox() or (0, 0, *self.mask.size)
        margin = 4 * _SUPERSAMPLING
        left, top = (max(0, edge - margin) // _SUPERSAMPLING * _SUPERSAMPLING for edge in (left, top))
        box = (left, top, min(right + margin, self.mask.width), min(bottom + margin, self.mask.height))
        self.mask, self.colour = self.mask.crop(box), self.colour.crop(box)
        return left // _SUPERSAMPLING, top // _SUPERSAMPLING


def paint_animal(species: Species, pose: Pose, *, coat: Colour, length_px: float, rng: np.random.Generator) -> Patch:
    """An animal, cut out.

    Args:
        species: whose body.
        pose: how it stands.
        coat: colour of its back.
        length_px: how long it would be from nose to tail, seen exactly from the side.
        rng: decides the grain of the coat.
    """
    limbs = [species.torso, species.head, species.tail]
    reach = [x for limb in limbs for x, _, _ in limb]
    skin = _Skin(pose, unit_px=length_px / (max(reach) - min(reach)), coat=coat)
    head_turn = _turned_about(species.neck[0], -pose.neck)
    # The head turns less than the neck, so that a lowered nose points forward and not at the knees.
    face_turn = head_turn @ _turned_about(species.neck[-1], 0.35 * pose.neck)
    _paint_legs(skin, species, pose, coat, is_near=False)
    _paint_body(skin, species, pose, coat, head_turn)
    _paint_legs(skin, species, pose, coat, is_near=True)
    _paint_head(skin, species, pose, coat, face_turn)
    left, top = skin.trim()
    albedo, alpha = _finish(skin, species, rng)
    eye = skin.place((face_turn @ [*species.eye, 1.0])[None, :2])[0] / _SUPERSAMPLING
    return Patch(
        albedo=albedo,
        alpha=alpha,
        foot=(skin.foot[0] - left, skin.foot[1] - top),
        eye=(float(eye[0]) - left, float(eye[1]) - top),
        length_px=length_px * pose.foreshortening,
    )


def _paint_legs(skin: _Skin, species: Species, pose: Pose, coat: Colour, *, is_near: bool) -> None:
    """The two legs of one side. Diagonal legs swing together, as in a walk."""
    shade = 1.0 if is_near else _FAR_SIDE
    for leg, offset in ((species.hind_leg, 0.0), (species.front_leg, math.pi * 0.85)):
        phase = pose.stride + offset + (0.0 if is_near else math.pi)
        points = np.array(leg)
        swing = pose.swing * math.sin(phase)
        lift = max(0.0, math.cos(phase)) * pose.swing * 1.3
        points = _moved(points, _turned_about(leg[0], swing))
        # The lower leg bends back while the foot is in the air.
        points[3:] = _moved(points[3:], _turned_about(tuple(points[2]), -lift))
        if not is_near:
            points[:, :2] += [0.07, 0.025]
        lower = points[-4:] if len(points) > 4 else points[-3:]
        skin.rounded(points, shaded(coat, 0.95 * shade))
        skin.rounded(lower * [1, 1, 0.98], shaded(species.legs, shade))


def _paint_body(skin: _Skin, species: Species, pose: Pose, coat: Colour, head_turn: Matrix) -> None:
    """Tail, torso and neck."""
    tail = _moved(np.array(species.tail), _turned_about(species.tail[0], -pose.tail))
    skin.rounded(tail, coat)
    skin.limb(tail[-2:] * [1, 1, 0.9], species.tail_tip)
    skin.rounded(np.array(species.torso), coat, species.belly)
    neck = np.array(species.neck)
    neck[1:] = _moved(neck[1:], head_turn)
    skin.rounded(neck, coat)


def _paint_head(skin: _Skin, species: Species, pose: Pose, coat: Colour, face_turn: Matrix) -> None:
    """Ears, antlers, head, muzzle and eye; everything that turns with the face."""
    ear_turn = face_turn @ _turned_about(species.ear[0], pose.ear)
    skin.rounded(_moved(np.array(species.ear), ear_turn) + [0.06, -0.01, 0], shaded(coat, 0.55))
    if pose.has_antlers and species.name == "deer":
        for shift, shade in ((0.09, 0.6), (0.0, 1.0)):
            for limb in ANTLERS:
                skin.limb(_moved(np.array(limb) + [shift, 0, 0], face_turn), shaded((0.56, 0.49, 0.38), shade))
    skin.rounded(_moved(np.array(species.head), face_turn), coat, species.belly if species.name == "fox" else None)
    skin.rounded(_moved(np.array(species.muzzle), face_turn), species.muzzle_colour)
    skin.rounded(_moved(np.array(species.ear), ear_turn), shaded(coat, 0.85))
    eye: Limb = ((*species.eye, 0.022), (species.eye[0] + 0.005, species.eye[1], 0.022))
    skin.limb(_moved(np.array(eye), face_turn), (0.05, 0.04, 0.04))


def _finish(skin: _Skin, species: Species, rng: np.random.Generator) -> tuple[Field, Field]:
    """Albedo and alpha of the painted skin, with the coat's grain and a ragged outline."""
    unit_px = skin.scale / _SUPERSAMPLING
    soft = skin.colour.reduce(_SUPERSAMPLING).filter(ImageFilter.BoxBlur(unit_px * 0.03))
    shape = (soft.height, soft.width)
    grain = fractal(rng, shape, cell_px=3.0, octaves=2)
    mottle = fractal(rng, shape, cell_px=max(3.0, unit_px * 0.12), octaves=2)
    albedo = np.asarray(soft, np.float32) / 255 * (1 + 0.08 * grain + 0.05 * mottle)[..., None]
    blurred = skin.mask.reduce(_SUPERSAMPLING).filter(ImageFilter.BoxBlur(max(0.8, unit_px * 0.014)))
    inside = np.asarray(blurred, np.float32) / 255
    # Hair sticks out of the outline only where there is one.
    outside = inside - 0.5 + 0.16 * species.shaggy * grain * np.minimum(1, 8 * inside)
    return albedo.clip(0, 1).astype(np.float32), (outside * 2.6 + 0.5).clip(0, 1).astype(np.float32)


def _turned_about(centre: tuple[float, ...], angle: float) -> Matrix:
    """The 3 x 3 matrix that turns points about `centre`, counter-clockwise where the animal faces right."""
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = centre[0], centre[1]
    return np.array([[cosine, -sine, x - cosine * x + sine * y], [sine, cosine, y - sine * x - cosine * y], [0, 0, 1]])


def _moved(limb: Matrix, turn: Matrix) -> Matrix:
    """A limb after a turn; its radii stay."""
    flat = np.column_stack([limb[:, :2], np.ones(len(limb))]) @ turn.T
    return np.column_stack([flat[:, :2], limb[:, 2]])
