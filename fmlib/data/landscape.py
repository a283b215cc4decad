"""A made landscape seen from above: what covers each 5 m cell, before any sensor looks at it.

Relief, rivers, lakes and coasts come first; roads cut the land into blocks; blocks become zones of the CORINE legend; zones are cut
into parcels, and each parcel is given a crop, a stage of growth, a soil moisture and a roughness. The zones are the reference
map; the covers are what the sensors of `fmlib.data.sensors` see.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fmlib.data.biomes import BIOMES, BLOOM, COVER, CROPS, Biome, drought, grow, leaves
from fmlib.data.parcels import borders, fractal, meander, moments, relabel, some_borders, subdivide, wavy_side
from fmlib.data.settlement import build_farms, build_town

CELL = 5.0  # metres; half a Sentinel pixel, so that borders fall inside pixels and mix there
HECTARE = 1e4 / CELL**2  # cells

FOREST, WATER = (311, 312, 313), (511, 512, 523)
# Wanted size of a parcel in hectares, where it is not the biome's field size.
PARCEL = {242: 0.35, 243: 0.9, 221: 0.8, 222: 1.0, 223: 2.5, 244: 9.0, 311: 5.0, 312: 4.0, 313: 4.0, 324: 3.0}
COVER_OF = {
    231: "grass", 221: "vine", 222: "orchard", 223: "olive", 244: "grass", 311: "broadleaf", 312: "conifer", 321: "grass",
    322: "heath", 323: "shrub", 324: "shrub", 331: "sand", 332: "rock", 333: "alpine_grass", 411: "reed", 412: "bog",
    421: "saltmarsh", 511: "river", 512: "lake", 523: "sea",
}  # fmt: skip


@dataclass
class Landscape:
    """Everything the sensors look at; arrays are (rows, cols) of 5 m cells, row 0 in the north."""

    biome: Biome
    day: float  # day of the year
    x: np.ndarray  # metres east of the middle
    y: np.ndarray  # metres south of the middle
    elevation: np.ndarray  # metres
    code: np.ndarray  # CLC level-3 code: the reference map
    cover: np.ndarray  # index into `COVERS`
    parcel: np.ndarray  # 0..K-1
    green: np.ndarray  # share of the cell under leaves, 0..1
    dry: np.ndarray  # 0 fresh leaves, 1 straw
    bloom: np.ndarray  # 0..1, rape in flower
    moisture: np.ndarray  # of the soil, 0..1
    rough: np.ndarray  # dB by which roughness and row direction raise the backscatter of soil
    volume: np.ndarray  # factor on the amount of plant matter
    rows: np.ndarray  # direction of the rows, radians
    tone: np.ndarray  # (3, rows, cols) log of brightness, greenness and wetness of the colour
    height: np.ndarray  # metres of trees and buildings
    axis: np.ndarray  # direction of the streets, radians

    def paint(self, where: np.ndarray, cover: str, **values) -> None:
        """Cover some cells with one thing."""
        self.cover[where] = COVER[cover]
        for name, value in values.items():
            getattr(self, name)[where] = value


def coarse(rng, shape, slope, longest, shortest=8.0, stretch=None) -> np.ndarray:
    """`fractal` drawn at a quarter of the resolution, for fields without fine detail."""
    small = (shape[0] // 4 + 2, shape[1] // 4 + 2)
    out = fractal(rng, small, slope, longest / 4, shortest / 4, stretch)
    return ndimage.zoom(out, 4, order=1)[: shape[0], : shape[1]]


def make_landscape(rng: np.random.Generator, biome: str, day: float, cells: int) -> Landscape:
    """Draw one landscape.

    Args:
        rng: source of every random choice.
        biome: one of `BIOMES`.
        day: day of the year, 1..365; decides what is green, ripe, mown or bare.
        cells: side in 5 m cells.

    Returns:
        The landscape, every array (cells, cells).
    """
    kind = BIOMES[biome]
    shape = (cells, cells)
    y, x = np.mgrid[:cells, :cells].astype(np.float32) * CELL - (cells - 1) * CELL / 2
    elevation, water, river, shore = _relief_and_water(rng, biome, kind, x, y)
    has_town = rng.random() < kind.town
    road = np.abs(wavy_side(rng, x, y, rng.uniform(20, 130), rng.uniform(900, 2200), rng.uniform(-250, 250)))
    road_side = wavy_side(rng, x, y, rng.uniform(20, 130), rng.uniform(900, 2200), rng.uniform(-300, 300))
    road, has_road = np.abs(road_side), has_town or rng.random() < (0.35 if biome in ("alpine", "boreal") else 0.6)
    bent = [axis + kind.bend * coarse(rng, shape, 2.0, 60, 10) for axis in (x, y)]
    flat = [axis.ravel() / CELL for axis in bent]
    start = ((road_side > 0) & has_road).astype(int) + 2 * (ndimage.label(water == 0)[0] % 7)
    blocks = subdivide(rng, *flat, start.ravel(), 24 * HECTARE * rng.uniform(0.7, 1.5), 1.2, 0.12)
    plots = subdivide(rng, *flat, blocks, 5 * HECTARE, 1.6, 0.1)
    code = _zones(rng, biome, kind, elevation, water, shore, plots.reshape(shape))
    axis = np.full(shape, rng.uniform(0, np.pi), np.float32)
    town = _town_zone(rng, code, x, y, road if has_road else np.hypot(x, y), has_town)
    land = Landscape(
        kind, day, x, y, elevation, code, np.zeros(shape, np.uint8), _parcels(rng, kind, x, y, bent, plots, code),
        *(np.zeros(shape, np.float32) for _ in range(3)), np.full(shape, 0.4, np.float32), np.zeros(shape, np.float32),
        np.ones(shape, np.float32), np.zeros(shape, np.float32), np.zeros((3, *shape), np.float32), np.zeros(shape, np.float32), axis,
    )  # fmt: skip
    _fill_parcels(rng, land)
    _mix_covers(rng, land, shore)
    _draw_lines(rng, land, blocks.reshape(shape), road if has_road else None, river, town)
    build_farms(rng, land, borders(blocks.reshape(shape)))
    if town.any():
        build_town(rng, land, town)
    _finish(rng, land)
    return land


def _relief_and_water(rng, biome, kind, x, y):
    """Elevation, water (0 none, else CLC code), distance to the river in metres, and to the shore."""
    shape = x.shape
    form = fractal(rng, shape, 2.3, 260, 3)
    if biome == "alpine":
        ridges = 1.2 - 1.6 * np.abs(coarse(rng, shape, 2.0, 300))
        form = 0.9 * form + ridges + rng.uniform(-1, 1) * x / 400 + rng.uniform(-1, 1) * y / 400
    base = kind.base + (rng.uniform(-550, 800) if biome == "alpine" else 0)
    elevation = base + kind.relief * rng.uniform(0.5, 1.4) * form
    water = np.zeros(shape, np.uint16)
    river = shore = np.full(shape, 1e4, np.float32)
    if biome == "coast" and rng.random() < 0.75:
        shore = -wavy_side(rng, x, y, rng.uniform(60, 260), rng.uniform(900, 2500), rng.uniform(-450, 500))
        shore = shore + rng.uniform(15, 70) * fractal(rng, shape, 1.5, 120, 2)
        water[shore < 0] = 523
        elevation = np.clip(np.maximum(elevation, 2) * np.clip(shore / 300, 0, 1) + np.minimum(shore, 60) * 0.06, 0, None)
    if rng.random() < kind.river:
        river = CELL * meander(rng, shape, rng.uniform(0.4, 1.5) * (0.5 if biome == "alpine" else 1), rng.uniform(70, 190))
        width = rng.uniform(4, 12) if rng.random() < 0.55 else rng.uniform(14, 55)
        elevation = elevation - 0.6 * kind.relief * np.exp(-((river / rng.uniform(120, 350)) ** 2))
        water[(river < width) & (water == 0)] = 511
    if rng.random() < kind.lake:
        share = 0.5 * rng.beta(1.0, 2.6) + 0.01
        stretch = (rng.uniform(0, np.pi), rng.uniform(1, 2.2))
        low = coarse(rng, shape, 2.0, 200, 6, stretch) - 0.5 * (elevation - elevation.mean()) / elevation.std()
        water[(low > np.quantile(low, 1 - share)) & (water == 0)] = 512
    return elevation.astype(np.float32), water, river, shore


def _draw_codes(rng, shape, weights: dict, plots=None, rough=60.0) -> np.ndarray:
    """Zones of some codes, with shares drawn around their weights; along plots where plots are given."""
    codes = np.array(list(weights))
    scores = []
    for weight in weights.values():
        score = coarse(rng, shape, 1.6, rough * 3, 8) + 1.3 * np.log(weight) + rng.normal(0, 1.0)
        scores.append(score if plots is None else _mean(score, plots))
    return codes[np.argmax(scores, axis=0)]


def _mean(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Each cell gets the mean of its region."""
    return (np.bincount(ids.ravel(), values.ravel()) / np.maximum(np.bincount(ids.ravel()), 1))[ids]


def _zones(rng, biome, kind, elevation, water, shore, plots):
    """CLC codes: water, wild land (forest and open), and farmed land along plots."""
    shape = water.shape
    steep = np.hypot(*np.gradient(ndimage.gaussian_filter(elevation, 4), CELL))
    suit = coarse(rng, shape, 1.5, 150, 5) + 1.2 * (steep - steep.mean()) / (steep.std() + 1e-6)
    square = 0.85 * (1 - kind.wild) + 0.1  # how far woods follow the borders of plots
    suit = square * _mean(suit, plots) + (1 - square) * suit
    if biome == "alpine":
        suit = suit + (elevation - 1150) / 250
        wild = suit > 0.3
    else:
        share = 1 / (1 + np.exp(-(np.log(kind.wild / (1 - kind.wild)) + rng.normal(0, 0.9))))
        wild = suit > np.quantile(suit, 1 - share)
    code = _draw_codes(rng, shape, kind.farmed, plots)
    woods = coarse(rng, shape, 1.5, 110, 4) + 0.4 * rng.normal()
    tree = woods < np.quantile(woods, kind.wooded)
    forest, open_land = _draw_codes(rng, shape, kind.forest, rough=45), _draw_codes(rng, shape, kind.open_land)
    if biome == "alpine":
        belt = elevation + 130 * coarse(rng, shape, 1.0, 60, 2)
        tree &= belt < 1950
        open_land = np.where(belt > 2420, 332, np.where(belt > 2200, 333, open_land))
    code = np.where(wild, np.where(tree, forest, open_land), code)
    marsh = np.isin(code, (421,)) & (elevation > 6)
    code[marsh] = 321
    beach = rng.uniform(8, 60) * (1 + 0.7 * coarse(rng, shape, 1.5, 120))
    code[(shore > 0) & (shore < beach)] = 331
    return np.where(water > 0, water, code).astype(np.uint16)


def _town_zone(rng, code, x, y, road, has_town):
    """Mark 112, 111 and 121 in `code`; returns where the town is."""
    if not has_town:
        return np.zeros(code.shape, bool)
    near = np.argmin(road + rng.uniform(0, 450) * coarse(rng, code.shape, 1.0, 100) ** 2 + 1e4 * (code > 500))
    cx, cy = x.flat[near], y.flat[near]
    radius = np.exp(rng.uniform(np.log(90), np.log(650)))
    far = np.hypot(x - cx, y - cy) + 0.6 * road + 0.28 * radius * coarse(rng, code.shape, 1.3, 70, 4)
    town = (far < radius) & ~np.isin(code, WATER)
    code[town] = 112
    if radius > 250:
        code[town & (far < 0.25 * radius)] = 111
        trade = coarse(rng, code.shape, 1.6, 90, 8)
        code[town & (far > 0.45 * radius) & (trade > rng.uniform(0.3, 1.4))] = 121
    return town


def _parcels(rng, kind, x, y, bent, plots, code):
    """Cut every zone into parcels of its size; wild land with more wandering borders than fields."""
    shape = code.shape
    codes, index = np.unique(code, return_inverse=True)
    index = index.reshape(shape)
    size = np.array([PARCEL.get(int(c), kind.field_area) for c in codes]) * HECTARE * rng.uniform(0.6, 1.8)
    size[codes >= 500] = 1e9
    wild = (codes >= 300)[index]
    wander = [coarse(rng, shape, 1.4, 60, 4) * 45 for _ in range(2)]
    px, py = (np.where(wild, axis + add, curve) / CELL for axis, add, curve in zip((x, y), wander, bent, strict=True))
    ids = np.where(codes[index] >= 500, 0, np.where(wild, 1, plots.reshape(shape) + 2)) * len(codes) + index
    return subdivide(rng, px.ravel(), py.ravel(), ids.ravel(), size[index].ravel(), kind.elongation).reshape(shape)
