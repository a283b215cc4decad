"""What the scene generator knows of regions: how their land is divided, what grows there, and when.

The numbers are made for plausible pictures; they are not statistics of any country.
"""

from dataclasses import dataclass, field

import numpy as np

# What can cover a cell; the index is what `Landscape.cover` holds. Their physics: `fmlib.scenes.sensors.PHYSICS`.
COVERS = (
    "lake", "river", "sea", "wheat", "rape", "maize", "beet", "ley", "sunflower", "grass", "orchard", "vine", "olive",
    "broadleaf", "conifer", "shrub", "heath", "bog", "reed", "saltmarsh", "alpine_grass", "rock", "snow", "sand",
    "asphalt", "track", "yard", "red_roof", "grey_roof", "white_roof", "garden",
)  # fmt: skip
COVER = {name: index for index, name in enumerate(COVERS)}
CROPS = ("wheat", "rape", "maize", "beet", "ley", "sunflower")


@dataclass(frozen=True)
class Biome:
    """What makes the landscapes of one region alike: relief, shape of fields, shares of its zones, crops."""

    latitude: float  # degrees north
    relief: float  # metres, standard deviation within a scene
    base: float  # metres above the sea
    field_area: float  # hectares
    elongation: float  # fields are cut into strips until they are about this much longer than wide
    bend: float  # metres by which field borders leave the straight line
    hedges: float  # share of field borders with trees
    wild: float  # share of the land that is not farmed
    wooded: float  # share of the wild land that is forest
    river: float  # probability of a river
    lake: float  # probability of a lake
    town: float  # probability of a village or town
    soil: float  # 0 dark soil, 1 light soil
    farmed: dict = field(default_factory=dict)  # zone: weight, within farmed land
    forest: dict = field(default_factory=dict)  # CLC code: weight, within forest
    open_land: dict = field(default_factory=dict)  # CLC code: weight, within wild land without forest
    crops: dict = field(default_factory=dict)  # crop: weight


BIOMES = {
    "continental": Biome(
        48, 18, 300, 2.4, 2.6, 14, 0.06, 0.3, 0.88, 0.35, 0.12, 0.5, 0.55,
        {211: 6, 231: 1, 242: 1.3, 243: 1.0, 222: 0.3}, {311: 3, 313: 2, 312: 1}, {324: 3, 321: 1, 411: 0.5},
        {"wheat": 4, "rape": 1.2, "maize": 3, "beet": 1.2, "ley": 0.8, "sunflower": 1},
    ),
    "boreal": Biome(
        63, 14, 120, 2.2, 1.6, 22, 0.02, 0.82, 0.7, 0.25, 0.6, 0.25, 0.3,
        {211: 5, 243: 3, 231: 0.6}, {312: 5, 313: 3, 311: 0.8}, {324: 5, 412: 3, 322: 0.2},
        {"wheat": 4, "ley": 3, "rape": 0.6},
    ),
    "atlantic": Biome(
        53, 16, 80, 1.8, 1.5, 24, 0.5, 0.14, 0.6, 0.35, 0.12, 0.45, 0.35,
        {231: 7, 211: 2.2, 242: 0.7, 243: 1.2}, {312: 2, 311: 2, 313: 1.5}, {412: 3, 322: 1, 324: 2, 321: 0.5},
        {"wheat": 3, "ley": 3, "rape": 0.6, "beet": 1, "maize": 0.7},
    ),
    "mediterranean": Biome(
        39, 30, 160, 1.6, 1.5, 28, 0.05, 0.42, 0.55, 0.3, 0.15, 0.4, 0.75,
        {244: 3, 223: 1.6, 221: 1, 211: 2, 242: 1.6, 243: 1.6, 231: 0.5}, {311: 4, 312: 1.3, 313: 1.2},
        {323: 3, 324: 4, 321: 1.5}, {"wheat": 4, "maize": 1, "ley": 1, "sunflower": 1.5},
    ),
    "alpine": Biome(
        46.8, 105, 1350, 0.9, 2.2, 26, 0.1, 0.75, 0.6, 0.5, 0.1, 0.35, 0.45,
        {231: 7, 242: 1, 243: 2}, {312: 5, 313: 2, 311: 0.7}, {321: 4, 333: 2, 322: 1},
        {"ley": 3, "maize": 1, "wheat": 1},
    ),
    "coast": Biome(
        50, 10, 12, 2.2, 1.8, 20, 0.12, 0.3, 0.55, 0.2, 0.08, 0.5, 0.5,
        {211: 4, 231: 3, 242: 1.5, 243: 1.5}, {312: 2, 313: 2, 311: 1.5}, {322: 2, 421: 1.5, 321: 1.5, 324: 1, 411: 1},
        {"wheat": 4, "ley": 2, "beet": 1.5, "rape": 0.8, "maize": 1},
    ),
}  # fmt: skip

# Day of the year against green cover (0..1), and the days between which a standing crop is ripe and dry.
GROWTH = {
    "wheat": (
        (0, 70, 110, 150, 178, 192, 205, 275, 320),
        (0.4, 0.5, 0.85, 0.96, 0.85, 0.75, 0.04, 0.04, 0.35),
        (180, 203),
    ),
    "rape": ((0, 75, 105, 165, 185, 200, 205, 245, 290), (0.6, 0.65, 0.95, 0.9, 0.75, 0.7, 0.05, 0.1, 0.6), (183, 203)),
    "maize": ((0, 125, 150, 180, 230, 262, 280, 290), (0.02, 0.02, 0.25, 0.85, 0.95, 0.8, 0.5, 0.03), (258, 288)),
    "beet": ((0, 112, 140, 170, 270, 295, 302), (0.02, 0.02, 0.3, 0.9, 0.88, 0.7, 0.02), (400, 401)),
    "ley": (  # mown twice
        (0, 60, 120, 150, 156, 185, 192, 230, 300),
        (0.75, 0.75, 0.95, 0.95, 0.6, 0.92, 0.55, 0.9, 0.85),
        (400, 401),
    ),
    "sunflower": ((0, 115, 145, 180, 215, 240, 252), (0.03, 0.03, 0.3, 0.85, 0.85, 0.55, 0.04), (222, 250)),
}  # fmt: skip
BLOOM = (112, 133)  # rape in flower


def grow(crop: str, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """State of a crop at a day of its own calendar.

    Args:
        crop: one of `CROPS`.
        day: day of the year, any shape; parcels sown late have a smaller one.

    Returns:
        Green cover 0..1 and dryness 0..1 (1: straw), of the shape of `day`.
    """
    days, cover, (ripe, harvest) = GROWTH[crop]
    day = np.mod(day, 365)
    dry = np.clip((day - ripe) / 12, 0, 1) * (day < harvest)
    return np.interp(day, days, cover, period=365), dry


def leaves(day: float, latitude: float) -> tuple[float, float]:
    """Green cover 0..1 of deciduous crowns, and how autumn-coloured (dry) they are, at a day of the year."""
    late = (latitude - 48) * 1.2
    green = float(np.interp(day, (100 + late, 130 + late, 285 - late, 315 - late), (0.12, 1, 1, 0.12)))
    return green, float(np.interp(day, (262 - late, 290 - late, 320 - late), (0, 0.7, 0.9))) if day > 200 else 0.0


def drought(day: float, latitude: float) -> float:
    """Dryness 0..1 of grassland: summers of the south, little of it elsewhere."""
    summer = float(np.interp(day, (140, 190, 255, 300), (0, 1, 1, 0)))
    return summer * float(np.interp(latitude, (39, 46, 60), (0.85, 0.2, 0.08)))
