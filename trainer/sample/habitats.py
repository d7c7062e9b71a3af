"""The kinds of place that the imagined cameras look at, as numbers."""

from dataclasses import dataclass
from typing import TypeAlias

Colour: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Habitat:
    """The kind of a place. Colours are RGB reflectance, 0 to 1.

    Attributes:
        ground, litter: the two colours the ground is mixed from.
        grass: colour of the blades.
        canopy: colour of the far foliage.
        bark: colour of the trunks.
        canopy_share: how much of the sky the far foliage hides, 0 to 1.
        trunk_count, bush_count, rock_count, blade_count: how many of each stand around.
        blade_m: typical height of the grass.
        has_path, has_log: a trodden path leads away; a fallen trunk lies there.
    """

    ground: Colour
    litter: Colour
    grass: Colour
    canopy: Colour
    bark: Colour
    canopy_share: float
    trunk_count: int
    bush_count: int
    rock_count: int
    blade_count: int
    blade_m: float
    has_path: bool = False
    has_log: bool = False


HABITATS = {
    "oak wood": Habitat(
        ground=(0.33, 0.27, 0.18), litter=(0.46, 0.35, 0.22), grass=(0.30, 0.38, 0.16),
        canopy=(0.22, 0.31, 0.13), bark=(0.30, 0.26, 0.21), canopy_share=0.95,
        trunk_count=16, bush_count=5, rock_count=2, blade_count=900, blade_m=0.16, has_log=True,
    ),
    "meadow": Habitat(
        ground=(0.31, 0.36, 0.17), litter=(0.45, 0.43, 0.22), grass=(0.40, 0.46, 0.20),
        canopy=(0.24, 0.33, 0.19), bark=(0.30, 0.27, 0.23), canopy_share=0.35,
        trunk_count=3, bush_count=6, rock_count=1, blade_count=3600, blade_m=0.26,
    ),
    "birch wood": Habitat(
        ground=(0.32, 0.31, 0.18), litter=(0.50, 0.44, 0.30), grass=(0.36, 0.43, 0.19),
        canopy=(0.30, 0.39, 0.18), bark=(0.68, 0.66, 0.61), canopy_share=0.7,
        trunk_count=18, bush_count=3, rock_count=0, blade_count=1500, blade_m=0.2, has_path=True,
    ),
    "stony slope": Habitat(
        ground=(0.43, 0.38, 0.30), litter=(0.55, 0.50, 0.42), grass=(0.42, 0.42, 0.22),
        canopy=(0.26, 0.31, 0.19), bark=(0.33, 0.28, 0.23), canopy_share=0.45,
        trunk_count=5, bush_count=6, rock_count=22, blade_count=900, blade_m=0.17,
    ),
    "fern gully": Habitat(
        ground=(0.23, 0.22, 0.14), litter=(0.32, 0.30, 0.19), grass=(0.25, 0.39, 0.14),
        canopy=(0.17, 0.27, 0.11), bark=(0.25, 0.23, 0.18), canopy_share=1.0,
        trunk_count=10, bush_count=13, rock_count=5, blade_count=1900, blade_m=0.24, has_log=True,
    ),
    "heath": Habitat(
        ground=(0.47, 0.38, 0.25), litter=(0.58, 0.49, 0.34), grass=(0.52, 0.45, 0.26),
        canopy=(0.33, 0.34, 0.25), bark=(0.35, 0.29, 0.23), canopy_share=0.25,
        trunk_count=2, bush_count=11, rock_count=6, blade_count=2100, blade_m=0.2, has_path=True,
    ),
}  # fmt: skip
