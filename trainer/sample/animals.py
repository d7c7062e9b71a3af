"""The animals as numbers: limbs along bent lines, and the poses they take.

Coordinates: x forward, y up, both in shoulder heights; the feet are at y = 0 and the middle of the body is near x = 0.
A limb is a row of (x, y, radius) control points.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .habitats import Colour

Limb: TypeAlias = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Species:
    """The body of one kind of animal.

    Attributes:
        name: its class.
        length_m: from the tip of the nose to the end of the tail.
        coat: usual colour of the back; `coats` are what single animals vary to.
        belly, legs, tail_tip: colours of those parts.
        torso, neck, head, ear, front_leg, hind_leg, tail: limbs. The neck starts at the shoulder; head and ear
            turn with it, about its first point.
        muzzle: the end of the head in another colour.
        eye: where the eye is.
        neck_range: how far the neck is lowered, radians, from carried high to nose at the ground.
        shaggy: how ragged the outline is, 0 to 1.
        infrared: how much brighter the coat is under the infra-red flash than by day.
    """

    name: str
    length_m: float
    coats: tuple[Colour, ...]
    belly: Colour
    legs: Colour
    tail_tip: Colour
    muzzle_colour: Colour
    torso: Limb
    neck: Limb
    head: Limb
    muzzle: Limb
    ear: Limb
    front_leg: Limb
    hind_leg: Limb
    tail: Limb
    eye: tuple[float, float]
    neck_range: tuple[float, float]
    shaggy: float
    infrared: float


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How an animal stands in one frame.

    Attributes:
        faces_left: it looks to the left of the frame.
        stride: where in the step it is, radians.
        swing: how far the legs swing, radians; near 0 when it stands.
        neck: how far the neck is lowered, radians.
        tail: how far the tail is raised, radians.
        ear: how far the ears are turned back, radians.
        foreshortening: how long the body looks, 1 when seen exactly from the side.
        slope: turn of the whole body, radians.
        has_antlers: only deer have.
    """

    faces_left: bool
    stride: float
    swing: float
    neck: float
    tail: float
    ear: float
    foreshortening: float
    slope: float
    has_antlers: bool


DEER = Species(
    name="deer",
    length_m=1.5,
    coats=((0.46, 0.31, 0.19), (0.40, 0.29, 0.20), (0.38, 0.33, 0.28), (0.52, 0.35, 0.20)),
    belly=(0.62, 0.54, 0.44),
    legs=(0.36, 0.26, 0.18),
    tail_tip=(0.80, 0.77, 0.72),
    muzzle_colour=(0.18, 0.15, 0.13),
    torso=((-0.60, 0.80, 0.17), (-0.42, 0.83, 0.19), (-0.08, 0.78, 0.185), (0.22, 0.79, 0.20), (0.38, 0.82, 0.17)),
    neck=((0.34, 0.84, 0.17), (0.50, 1.03, 0.11), (0.60, 1.20, 0.085), (0.65, 1.29, 0.08)),
    head=((0.63, 1.32, 0.075), (0.72, 1.31, 0.083), (0.83, 1.26, 0.058), (0.95, 1.20, 0.040)),
    muzzle=((0.93, 1.21, 0.036), (0.965, 1.195, 0.036)),
    ear=((0.62, 1.36, 0.022), (0.54, 1.45, 0.050), (0.45, 1.52, 0.012)),
    front_leg=((0.29, 0.74, 0.11), (0.30, 0.52, 0.062), (0.30, 0.36, 0.036), (0.29, 0.10, 0.024), (0.31, 0.03, 0.032)),
    hind_leg=(
        (-0.53, 0.76, 0.17),
        (-0.47, 0.56, 0.10),
        (-0.59, 0.38, 0.042),
        (-0.56, 0.10, 0.025),
        (-0.54, 0.03, 0.032),
    ),
    tail=((-0.72, 0.90, 0.045), (-0.79, 0.82, 0.055), (-0.80, 0.71, 0.025)),
    eye=(0.735, 1.335),
    neck_range=(-0.12, 2.0),
    shaggy=0.25,
    infrared=1.6,
)

FOX = Species(
    name="fox",
    length_m=1.15,
    coats=((0.66, 0.33, 0.13), (0.58, 0.31, 0.15), (0.70, 0.40, 0.19), (0.50, 0.32, 0.20)),
    belly=(0.72, 0.66, 0.58),
    legs=(0.16, 0.12, 0.10),
    tail_tip=(0.85, 0.82, 0.78),
    muzzle_colour=(0.10, 0.09, 0.09),
    torso=((-0.72, 0.74, 0.20), (-0.45, 0.76, 0.215), (0.0, 0.72, 0.215), (0.34, 0.73, 0.24), (0.52, 0.78, 0.20)),
    neck=((0.46, 0.80, 0.22), (0.64, 0.96, 0.18), (0.74, 1.04, 0.17)),
    head=((0.74, 1.07, 0.165), (0.84, 1.08, 0.165), (1.00, 1.00, 0.095), (1.22, 0.92, 0.040)),
    muzzle=((1.20, 0.93, 0.042), (1.25, 0.925, 0.040)),
    ear=((0.73, 1.18, 0.095), (0.69, 1.32, 0.070), (0.65, 1.46, 0.008)),
    front_leg=((0.40, 0.66, 0.13), (0.41, 0.44, 0.085), (0.40, 0.26, 0.060), (0.40, 0.08, 0.050), (0.44, 0.04, 0.048)),
    hind_leg=(
        (-0.64, 0.68, 0.19),
        (-0.54, 0.46, 0.115),
        (-0.68, 0.28, 0.060),
        (-0.63, 0.08, 0.050),
        (-0.59, 0.04, 0.048),
    ),
    tail=((-0.86, 0.80, 0.08), (-1.10, 0.66, 0.14), (-1.42, 0.50, 0.18), (-1.72, 0.42, 0.14), (-1.95, 0.40, 0.03)),
    eye=(0.93, 1.09),
    neck_range=(-0.1, 0.95),
    shaggy=0.7,
    infrared=1.9,
)

HOG = Species(
    name="hog",
    length_m=1.4,
    coats=((0.19, 0.165, 0.145), (0.24, 0.20, 0.165), (0.15, 0.135, 0.125), (0.29, 0.235, 0.18)),
    belly=(0.21, 0.18, 0.16),
    legs=(0.12, 0.105, 0.095),
    tail_tip=(0.12, 0.10, 0.09),
    muzzle_colour=(0.36, 0.29, 0.26),
    torso=((-0.66, 0.60, 0.24), (-0.42, 0.63, 0.30), (-0.05, 0.64, 0.335), (0.26, 0.66, 0.36), (0.48, 0.66, 0.31)),
    neck=((0.42, 0.64, 0.33), (0.62, 0.62, 0.28), (0.76, 0.60, 0.235)),
    head=((0.76, 0.61, 0.225), (0.92, 0.57, 0.18), (1.12, 0.49, 0.115), (1.34, 0.41, 0.082)),
    muzzle=((1.33, 0.415, 0.085), (1.375, 0.40, 0.083)),
    ear=((0.78, 0.76, 0.075), (0.73, 0.89, 0.095), (0.69, 1.02, 0.015)),
    front_leg=((0.38, 0.46, 0.17), (0.39, 0.28, 0.085), (0.38, 0.10, 0.055), (0.40, 0.04, 0.055)),
    hind_leg=(
        (-0.56, 0.50, 0.22),
        (-0.50, 0.32, 0.115),
        (-0.59, 0.20, 0.062),
        (-0.56, 0.09, 0.052),
        (-0.54, 0.04, 0.055),
    ),
    tail=((-0.88, 0.70, 0.028), (-0.97, 0.58, 0.020), (-0.98, 0.40, 0.020), (-0.98, 0.31, 0.040)),
    eye=(0.95, 0.655),
    neck_range=(-0.12, 0.38),
    shaggy=0.9,
    infrared=0.7,
)

SPECIES = {species.name: species for species in (DEER, FOX, HOG)}
"""The animals by class."""

ANTLERS: tuple[Limb, ...] = (
    ((0.66, 1.38, 0.022), (0.57, 1.52, 0.020), (0.58, 1.70, 0.016), (0.70, 1.84, 0.006)),
    ((0.60, 1.47, 0.018), (0.72, 1.53, 0.012), (0.79, 1.62, 0.004)),
    ((0.57, 1.63, 0.016), (0.50, 1.74, 0.010), (0.48, 1.82, 0.004)),
)
"""One side's antler: the beam and two tines. They turn with the head."""


def random_pose(species: Species, rng: np.random.Generator) -> Pose:
    """A pose for the first frame of a burst: walking, standing or with the nose at the ground."""
    activity = str(rng.choice(["walk", "walk", "stand", "feed"]))
    low, high = species.neck_range
    neck = {"walk": rng.uniform(low, low + 0.25 * (high - low)), "stand": rng.uniform(low - 0.1, low + 0.1)}
    return Pose(
        faces_left=bool(rng.random() < 0.5),
        stride=float(rng.uniform(0, 2 * np.pi)),
        swing=float(rng.uniform(0.22, 0.42) if activity == "walk" else rng.uniform(0.02, 0.10)),
        neck=float(neck.get(activity, rng.uniform(high - 0.3 * (high - low), high))),
        tail=float(rng.normal(0.05, 0.2)),
        ear=float(rng.normal(0, 0.2)),
        foreshortening=float(rng.uniform(0.8, 1.0)),
        slope=float(rng.normal(0, 0.05)),
        has_antlers=bool(rng.random() < 0.45),
    )
