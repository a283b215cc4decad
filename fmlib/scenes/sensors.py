"""What light and radar waves meet: the spectrum, backscatter and warmth of each cover.

Optical (`fmlib.scenes.optical`): covers are mixtures of leaves and ground (linear spectral mixing), lit by the sun over
the relief and blurred by the sensor. Radar (`fmlib.scenes.radar`): a layer of vegetation over soil (water-cloud model,
Attema and Ulaby 1978), corner reflectors in towns, slopes that face the radar, and speckle. The two share the
landscape, yet each depends on things the other does not see: flowering, straw and roof colours on one side; roughness,
row direction and plant structure on the other.
"""

from typing import NamedTuple

import numpy as np

from fmlib.scenes.biomes import COVER, COVERS

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
NATIVE = dict(zip(BANDS, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20), strict=True))  # metres

# Reflectance × 10,000 in the order of BANDS; round numbers after typical published curves of each material.
SPECTRA = {
    "crop": (260, 300, 640, 330, 1080, 3450, 4350, 4500, 4700, 4750, 1950, 980),
    "broad_crop": (270, 320, 760, 370, 1250, 3700, 4800, 4950, 5150, 5150, 2150, 1050),
    "maize": (240, 280, 560, 310, 930, 2900, 3750, 3900, 4050, 4100, 1800, 850),
    "pasture": (290, 350, 720, 430, 1200, 3250, 4000, 4150, 4350, 4400, 2200, 1180),
    "bloom": (420, 520, 1500, 1420, 2050, 3300, 3800, 4000, 4150, 4150, 2300, 1250),
    "straw": (620, 820, 1250, 1650, 2000, 2350, 2600, 2750, 2950, 3000, 3350, 2450),
    "broadleaf": (150, 190, 430, 230, 760, 2450, 3150, 3250, 3450, 3450, 1650, 760),
    "conifer": (120, 145, 290, 190, 460, 1260, 1560, 1650, 1750, 1750, 820, 390),
    "sclerophyll": (200, 240, 440, 370, 760, 1650, 2000, 2100, 2250, 2300, 1500, 800),
    "heath": (220, 260, 430, 440, 740, 1350, 1600, 1700, 1820, 1850, 1650, 950),
    "marsh": (220, 270, 480, 430, 800, 1700, 2050, 2150, 2300, 2300, 1500, 780),
    "litter": (260, 310, 420, 520, 760, 950, 1080, 1180, 1300, 1350, 1900, 1250),
    "peat": (180, 210, 300, 330, 480, 640, 720, 780, 850, 880, 900, 560),
    "light_soil": (820, 1080, 1500, 2000, 2250, 2400, 2550, 2700, 2800, 2850, 3450, 3000),
    "dark_soil": (380, 470, 640, 830, 980, 1080, 1170, 1260, 1350, 1400, 2000, 1700),
    "sand": (1350, 1750, 2250, 2700, 2900, 3050, 3150, 3300, 3350, 3350, 3950, 3600),
    "rock": (950, 1100, 1300, 1420, 1500, 1560, 1620, 1680, 1720, 1750, 1950, 1750),
    "asphalt": (620, 720, 830, 950, 1030, 1090, 1150, 1220, 1270, 1300, 1550, 1420),
    "gravel": (900, 1100, 1450, 1750, 1900, 2000, 2100, 2200, 2280, 2300, 2700, 2450),
    "red_tiles": (520, 620, 900, 1550, 1850, 1980, 2100, 2230, 2320, 2350, 2750, 2350),
    "slate": (680, 760, 850, 930, 980, 1030, 1090, 1150, 1200, 1230, 1450, 1350),
    "white": (2300, 2900, 3200, 3300, 3350, 3350, 3350, 3400, 3400, 3300, 2900, 2500),
    "snow": (8600, 8700, 8600, 8500, 8400, 8200, 8000, 7800, 7500, 6900, 1100, 900),
    "lake": (300, 270, 250, 150, 130, 95, 90, 75, 65, 60, 35, 25),
    "river": (420, 430, 520, 380, 340, 200, 190, 160, 140, 120, 60, 40),
    "sea": (430, 390, 290, 130, 110, 85, 80, 70, 60, 60, 40, 30),
    "turbid": (620, 760, 950, 750, 600, 300, 270, 220, 180, 150, 60, 45),
}  # fmt: skip
ENDMEMBERS = np.array(list(SPECTRA.values()), np.float32)
INDEX = {name: index for index, name in enumerate(SPECTRA)}


class Physics(NamedTuple):
    """How one cover reflects, scatters and warms."""

    leaves: str  # spectrum of the covered part
    ground: str  # spectrum of the rest; "soil" is mixed from light and dark soil
    vv: float  # backscatter of full vegetation, or of the bare surface where depth is 0, dB
    vh: float
    depth: float  # optical depth of full vegetation at 39°; 0: no vegetation
    warm: float  # kelvin above well-watered grass at noon in summer
    texture: float  # relative brightness variation from cell to cell


PHYSICS = {
    "lake": Physics("lake", "lake", -21.0, -31.5, 0, -2, 0.01),
    "river": Physics("river", "river", -19.5, -30.5, 0, -1, 0.015),
    "sea": Physics("sea", "sea", -19.0, -29.5, 0, -2, 0.015),
    "wheat": Physics("crop", "soil", -16.7, -22.5, 1.3, 1, 0.02),
    "rape": Physics("broad_crop", "soil", -11.2, -16.5, 1.5, 0, 0.025),
    "maize": Physics("maize", "soil", -10.5, -17.0, 1.4, 0, 0.025),
    "beet": Physics("broad_crop", "soil", -10.2, -16.8, 1.2, 0, 0.025),
    "ley": Physics("pasture", "soil", -13.2, -20.0, 0.9, 0, 0.02),
    "sunflower": Physics("maize", "soil", -9.7, -16.2, 1.3, 1, 0.03),
    "grass": Physics("pasture", "soil", -13.9, -21.0, 0.8, 0, 0.03),
    "orchard": Physics("broadleaf", "soil", -11.2, -17.3, 1.2, 0, 0.1),
    "vine": Physics("maize", "soil", -12.2, -19.2, 0.7, 3, 0.06),
    "olive": Physics("sclerophyll", "soil", -11.5, -17.8, 1.0, 4, 0.13),
    "broadleaf": Physics("broadleaf", "litter", -9.4, -15.0, 2.2, -3, 0.07),
    "conifer": Physics("conifer", "litter", -9.9, -15.8, 2.4, -3, 0.09),
    "shrub": Physics("sclerophyll", "litter", -11.5, -17.8, 1.4, 2, 0.1),
    "heath": Physics("heath", "litter", -12.7, -19.5, 1.0, 2, 0.07),
    "bog": Physics("marsh", "peat", -12.0, -19.2, 0.9, -1, 0.08),
    "reed": Physics("marsh", "peat", -10.5, -18.0, 1.3, -2, 0.06),
    "saltmarsh": Physics("marsh", "peat", -12.7, -21.0, 0.8, 0, 0.05),
    "alpine_grass": Physics("pasture", "rock", -12.2, -19.5, 0.8, 1, 0.08),
    "rock": Physics("rock", "rock", -10.2, -18.0, 0, 5, 0.13),
    "snow": Physics("snow", "snow", -14.7, -23.0, 0, -18, 0.04),
    "sand": Physics("sand", "sand", -16.7, -26.5, 0, 9, 0.03),
    "asphalt": Physics("asphalt", "asphalt", -16.7, -25.5, 0, 9, 0.04),
    "track": Physics("pasture", "gravel", -13.7, -21.5, 0.3, 5, 0.06),
    "yard": Physics("pasture", "slate", -9.7, -19.0, 0.3, 9, 0.12),
    "red_roof": Physics("red_tiles", "red_tiles", -4.0, -12.0, 0, 8, 0.1),
    "grey_roof": Physics("slate", "slate", -4.0, -12.5, 0, 9, 0.1),
    "white_roof": Physics("white", "white", -3.5, -13.0, 0, 4, 0.08),
    "garden": Physics("pasture", "soil", -10.2, -16.5, 1.0, 1, 0.12),
}
ROOFS = ("red_roof", "grey_roof", "white_roof")
WATERS = ("lake", "river", "sea")


def lookup(name: str, land) -> np.ndarray:
    """One number of `Physics` for each cell, (rows, cols) float32."""
    return np.array([getattr(PHYSICS[cover], name) for cover in COVERS], np.float32)[land.cover]


def is_cover(land, *names: str) -> np.ndarray:
    """(rows, cols) bool: cells under one of these covers."""
    table = np.zeros(len(COVERS), bool)
    table[[COVER[name] for name in names]] = True
    return table[land.cover]


def to_pixels(cells: np.ndarray) -> np.ndarray:
    """The 10 m grid as a sensor sees 5 m cells: a pixel also sees some of its neighbours.

    The weights 1, 5, 10, 10, 5, 1 in rows and columns are a box of one pixel blurred by 5 m (one standard deviation),
    for a modulation transfer of about 0.3 at Nyquist.

    Args:
        cells: (rows, cols), both even.

    Returns:
        (rows / 2, cols / 2).
    """
    for _ in range(2):
        padded = np.pad(cells, ((2, 2), (0, 0)), mode="edge")
        end = len(cells)
        pair = lambda k: padded[k : k + end : 2] + padded[5 - k : 5 - k + end : 2]  # noqa: B023, E731
        cells = ((pair(0) + 5 * pair(1) + 10 * pair(2)) / 32).T
    return cells
