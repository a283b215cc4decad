"""A made landscape seen from above: what covers each 5 m cell, before any sensor looks at it.

Relief, rivers, lakes and coasts come first; roads cut the land into blocks; blocks become zones of the CORINE legend;
zones are cut into parcels, and each parcel is given a crop, a stage of growth, a soil moisture and a roughness. The
zones are the reference map; the covers are what the sensors of `fmlib.scenes.sensors` see.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from fmlib.scenes.biomes import BIOMES, COVER, Biome
from fmlib.scenes.parcels import coarse, fractal, meander, subdivide, wavy_side
from fmlib.scenes.planting import mix_covers, plant, raise_heights
from fmlib.scenes.settlement import build_farms, build_town, draw_lines

CELL = 5.0  # metres; half a Sentinel pixel, so that borders fall inside pixels and mix there
HECTARE = 1e4 / CELL**2  # cells

WATER = (511, 512, 523)
# Wanted size of a parcel in hectares, where it is not the biome's field size.
PARCEL = {242: 0.35, 243: 0.9, 221: 0.8, 222: 1.0, 223: 2.5, 244: 9.0, 311: 5.0, 312: 4.0, 313: 4.0, 324: 3.0}


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

    def crop(self, row: int, col: int, cells: int) -> "Landscape":
        """The square of some cells whose north-west corner is at (row, col)."""
        cut = (..., slice(row, row + cells), slice(col, col + cells))
        arrays = {name: value[cut] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)

    def paint(self, where: np.ndarray, cover: str, **values) -> None:
        """Cover some cells with one thing."""
        self.cover[where] = COVER[cover]
        for name, value in values.items():
            getattr(self, name)[where] = value


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
    road_side = wavy_side(rng, x, y, rng.uniform(20, 130), rng.uniform(900, 2200), rng.uniform(-300, 300))
    road, has_road = np.abs(road_side), has_town or rng.random() < (0.35 if biome in ("alpine", "boreal") else 0.6)
    bent = [axis + kind.bend * coarse(rng, shape, 2.2, 150, 24) for axis in (x, y)]
    flat = [axis.ravel() / CELL for axis in bent]
    start = ((road_side > 0) & has_road).astype(int) + 2 * (ndimage.label(water == 0)[0] % 7)
    blocks = subdivide(rng, *flat, start.ravel(), 24 * HECTARE * rng.uniform(0.7, 1.5), 1.2, 0.12)
    plots = subdivide(rng, *flat, blocks, 5 * HECTARE, 1.6, 0.1)
    code = _zones(rng, biome, kind, elevation, water, shore, plots.reshape(shape))
    streets = rng.uniform(0, np.pi)
    town = _town_zone(rng, code, x, y, road if has_road else np.hypot(x, y), has_town)
    start = {"green": 0, "dry": 0, "bloom": 0, "moisture": 0.4, "rough": 0, "volume": 1, "rows": 0, "height": 0}
    layers = {name: np.full(shape, value, np.float32) for name, value in {**start, "axis": streets}.items()}
    layers |= {"cover": np.zeros(shape, np.uint8), "tone": np.zeros((3, *shape), np.float32)}
    parcel = _parcels(rng, kind, x, y, bent, plots, code)
    land = Landscape(biome=kind, day=day, x=x, y=y, elevation=elevation, code=code, parcel=parcel, **layers)
    plant(rng, land)
    mix_covers(rng, land, shore)
    draw_lines(rng, land, blocks.reshape(shape), road if has_road else None, river)
    build_farms(rng, land, blocks.reshape(shape))
    if town.any():
        build_town(rng, land, town)
    raise_heights(rng, land)
    return land


def _relief_and_water(rng, biome, kind, x, y):
    """Elevation, water (0 none, else CLC code), distance to the river in metres, and to the shore."""
    shape = x.shape
    form = coarse(rng, shape, 2.6, 320, 14)
    if biome == "alpine":
        ridges = 1.2 - 1.6 * np.sqrt(coarse(rng, shape, 2.8, 320, 30) ** 2 + 0.02)
        form = 0.9 * form + ridges + rng.uniform(-1, 1) * x / 400 + rng.uniform(-1, 1) * y / 400
    base = kind.base + (rng.uniform(-550, 800) if biome == "alpine" else 0)
    elevation = base + kind.relief * rng.uniform(0.5, 1.4) * form
    water = np.zeros(shape, np.uint16)
    river = shore = np.full(shape, 1e4, np.float32)
    if biome == "coast" and rng.random() < 0.75:
        shore = -wavy_side(rng, x, y, rng.uniform(60, 260), rng.uniform(900, 2500), rng.uniform(-450, 500))
        shore = shore + rng.uniform(8, 60) * fractal(rng, shape, 1.9, 150, 4)
        water[shore < 0] = 523
        elevation = np.clip(
            np.maximum(elevation, 2) * np.clip(shore / 300, 0, 1) + np.minimum(shore, 60) * 0.06, 0, None
        )
    if rng.random() < kind.river:
        river = CELL * meander(
            rng, shape, rng.uniform(0.4, 1.5) * (0.5 if biome == "alpine" else 1), rng.uniform(70, 190)
        )
        width = rng.uniform(4, 12) if rng.random() < 0.55 else rng.uniform(14, 55)
        elevation = elevation - 0.6 * kind.relief * np.exp(-((river / rng.uniform(120, 350)) ** 2))
        water[(river < width) & (water == 0)] = 511
    if rng.random() < kind.lake:
        share = 0.5 * rng.beta(1.0, 2.6) + 0.01
        stretch = (rng.uniform(0, np.pi), rng.uniform(1, 2.2))
        low = coarse(rng, shape, 2.0, 200, 6, stretch) - 0.5 * (elevation - elevation.mean()) / elevation.std()
        water[(low > np.quantile(low, 1 - share)) & (water == 0)] = 512
    return ndimage.gaussian_filter(elevation.astype(np.float32), 2), water, river, shore


def _draw_codes(rng, shape, weights: dict, most: int, plots=None, rough=60.0) -> np.ndarray:
    """A mosaic of at most some zones out of those with weights; along plots where plots are given."""
    names = np.array(list(weights))
    chance = np.array(list(weights.values())) / sum(weights.values())
    chosen = rng.choice(names, min(most, len(names)), replace=False, p=chance)
    best, code = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.uint16)
    for name in chosen.tolist():
        score = coarse(rng, shape, 1.6, rough * 3, 8) + float(0.6 * np.log(weights[name]) + rng.normal(0, 1.1))
        score = score if plots is None else _mean(score, plots)
        code[score > best] = name
        best = np.maximum(best, score)
    return code


def _mean(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Each cell gets the mean of its region."""
    return (np.bincount(ids.ravel(), values.ravel()) / np.maximum(np.bincount(ids.ravel()), 1))[ids]


def _zones(rng, biome, kind, elevation, water, shore, plots):
    """CLC codes: water, wild land (forest and open), and farmed land along plots."""
    shape = water.shape
    steep = np.hypot(*np.gradient(ndimage.uniform_filter(elevation, 25), CELL))
    suit = coarse(rng, shape, 1.8, 200, 8) + 0.7 * (steep - steep.mean()) / (steep.std() + 1e-6)
    square = 0.85 * (1 - kind.wild) + 0.1  # how far woods follow the borders of plots
    suit = square * _mean(suit, plots) + (1 - square) * suit
    if biome == "alpine":
        suit = suit + (elevation - 1150) / 250
        wild = suit > 0.3
    else:
        share = 1 / (1 + np.exp(-(np.log(kind.wild / (1 - kind.wild)) + rng.normal(0, 1.4))))
        wild = suit > np.quantile(suit, 1 - share)
    code = _draw_codes(rng, shape, kind.farmed, 2, plots)
    woods = coarse(rng, shape, 1.7, 140, 8)
    tree = woods < np.quantile(woods, np.clip(kind.wooded + 0.25 * rng.normal(), 0.1, 1))
    forest, open_land = _draw_codes(rng, shape, kind.forest, 2, rough=45), _draw_codes(rng, shape, kind.open_land, 1)
    if biome == "alpine":
        belt = elevation + 110 * coarse(rng, shape, 1.4, 80, 10)
        tree &= belt < 1950
        open_land = np.where(belt > 2420, 332, np.where(belt > 2200, 333, open_land))
    code = np.where(wild, np.where(tree, forest, open_land), code)
    marsh = np.isin(code, (421,)) & (elevation > 6)
    code[marsh] = 321
    beach = rng.uniform(0, 55) * (1 + 0.7 * coarse(rng, shape, 1.5, 120))
    code[(shore > 0) & (shore < beach)] = 331
    return np.where(water > 0, water, code).astype(np.uint16)


def _town_zone(rng, code, x, y, road, has_town):
    """Mark 112, 111 and 121 in `code`; returns where the town is."""
    if not has_town:
        return np.zeros(code.shape, bool)
    unfit = np.isin(code, (331, 332, 333, 421, *WATER))
    near = np.argmin(road + rng.uniform(0, 450) * coarse(rng, code.shape, 1.0, 100) ** 2 + 1e4 * unfit)
    cx, cy = x.flat[near], y.flat[near]
    radius = np.exp(rng.uniform(np.log(90), np.log(650)))
    far = np.hypot(x - cx, y - cy) + 0.6 * road + 0.28 * radius * coarse(rng, code.shape, 1.3, 70, 4)
    town = (far < radius) & ~unfit
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
    wander = [28 * coarse(rng, shape, 1.6, 80, 8) for _ in range(2)]
    px, py = (np.where(wild, axis + add, curve) / CELL for axis, add, curve in zip((x, y), wander, bent, strict=True))
    ids = np.where(codes[index] >= 500, 0, np.where(wild, 1, plots.reshape(shape) + 2)) * len(codes) + index
    return subdivide(rng, px.ravel(), py.ravel(), ids.ravel(), size[index].ravel(), kind.elongation).reshape(shape)
