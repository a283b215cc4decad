"""What people built on a landscape: roads and tracks, hedges, farms, towns and works."""

import numpy as np
from scipy import ndimage

from fmlib.scenes.biomes import COVER, leaves
from fmlib.scenes.parcels import borders, coarse, fractal, moments, some_borders, subdivide, widen
from fmlib.scenes.sensors import WATERS, is_cover

HOUSE, HALL = 26.0, 240.0  # cells of a lot: 650 m² for a house, 6,000 m² for a hall


def draw_lines(rng: np.random.Generator, land, blocks: np.ndarray, road: np.ndarray | None, river: np.ndarray) -> None:
    """Hedges between fields, tracks between blocks, woods along the river, and the road.

    Args:
        rng: source of randomness.
        land: the landscape to draw on.
        blocks: (rows, cols) block of each cell.
        road: (rows, cols) metres to the main road, or none.
        river: (rows, cols) metres to the river.
    """
    shape = blocks.shape
    crown = leaves(land.day, land.biome.latitude)[0]
    tree = {"green": 0.9 * crown, "dry": 0.1, "volume": 1.0}
    wet = is_cover(land, *WATERS)
    open_land = (land.code < 300) & ~wet
    gaps = coarse(rng, shape, 1.0, 30, 3) > -0.9
    hedge = some_borders(rng, land.parcel, land.biome.hedges * rng.uniform(0.5, 1.5)) & open_land & gaps
    hedge |= widen(some_borders(rng, land.parcel, 0.25 * land.biome.hedges)) & open_land & gaps
    land.paint(hedge, "broadleaf", **tree)
    baulk = borders(land.parcel) & np.isin(land.code, (211, 231, 242, 243)) & ~hedge
    land.tone[0][baulk] += 0.06
    land.green[baulk] = 0.5 * land.green[baulk] + 0.3
    if (river < 80).any():
        _draw_banks(rng, land, wet, river, tree)
    tracks = some_borders(rng, blocks, rng.uniform(0.2, 0.6))
    ground = ~wet & ~np.isin(land.code, (331, 332, 333, 412, 421))
    land.paint(tracks & ground, "track", green=0.15, height=0)
    paved = widen(some_borders(rng, blocks, rng.uniform(0.0, 0.25)))
    land.paint(paved & ground, "asphalt", green=0.0)
    if road is not None:
        width = rng.choice([3.0, 4.0, 5.0, 11.0])  # half of the road
        land.paint((road < 1.8 * width) & ~wet & (width > 10), "grass", green=0.7)
        land.paint((road < width) & ~wet, "asphalt", green=0.0)
        land.paint((road < 1.0) & ~wet & (width > 10), "grass", green=0.5)


def _draw_banks(rng, land, wet, river, tree) -> None:
    """Trees along a river, and gravel banks where it comes from the mountains."""
    fringe = rng.uniform(5, 25) + 12 * coarse(rng, wet.shape, 1.2, 60, 4)
    bank = (land.code == 511) | widen(wet & (river < 80))
    near = (river < 80) & ~wet & ~bank & (ndimage.distance_transform_edt(~bank) * 5 < fringe)
    land.paint(near, "broadleaf", **tree)
    gravel = bank & (land.biome.base > 900) & (fractal(rng, wet.shape, 1.0, 20, 1.5) > 0.4)
    land.paint(gravel, "rock", green=0.0)


def _lots(rng, x, y, ids, area):
    """Lots within streets, and where in its lot each cell lies.

    Returns:
        Three arrays (N,): lot, and position along and across it, -1..1 from edge to edge.
    """
    lots = subdivide(rng, x, y, ids, area, 1.0, 0.03)
    cx, cy, angle, along, across = moments(x, y, lots, int(lots.max()) + 1)
    cos, sin = np.cos(angle)[lots], np.sin(angle)[lots]
    dx, dy = x - cx[lots], y - cy[lots]
    return lots, (dx * cos + dy * sin) / (1.732 * along[lots]), (dy * cos - dx * sin) / (1.732 * across[lots])


def _roofs(rng, land, rows, cols, lots, kinds, where) -> None:
    """Roofs of a few colours, one a lot."""
    kind = rng.choice(len(kinds), int(lots.max()) + 1, p=np.array(list(kinds.values())) / sum(kinds.values()))[lots]
    shade = rng.normal(0, 0.16, int(lots.max()) + 1)[lots]
    for index, name in enumerate(kinds):
        here = where & (kind == index)
        land.cover[rows[here], cols[here]] = COVER[name]
        land.green[rows[here], cols[here]] = 0
        land.tone[0][rows[here], cols[here]] = shade[here]


def build_town(rng: np.random.Generator, land, town: np.ndarray) -> None:
    """Streets, houses with gardens, a dense middle, and halls in the industrial quarter.

    Args:
        rng: source of randomness.
        land: the landscape to build on; `code` says 111, 112 or 121.
        town: (rows, cols) bool.
    """
    road = town & (land.cover == COVER["asphalt"])
    rows, cols = np.nonzero(town)
    x, y = cols.astype(float), rows.astype(float)
    bent = 3.0 * coarse(rng, town.shape, 2.0, 80, 10)[rows, cols]
    works = land.code[rows, cols] == 121
    area = np.where(works, 1200.0, rng.uniform(280, 520))
    streets = subdivide(rng, x + bent, y - bent, works.astype(int), area, 1.9, 0.05)
    plan = np.zeros(town.shape, np.int64)
    plan[rows, cols] = streets + 1
    street = borders(plan) & town
    land.axis[rows, cols] = moments(x, y, streets, int(streets.max()) + 1)[2][streets]
    lots, u, v = _lots(rng, x + bent, y - bent, streets, np.where(works, HALL, HOUSE))
    land.paint(town, "garden", green=np.float32(0.8), volume=1.0)
    land.green[rows, cols] *= rng.uniform(0.5, 1, int(lots.max()) + 1)[lots]
    trees = fractal(rng, town.shape, 0.5, 12, 1) > 1.3
    land.paint(town & trees & (land.code == 112), "broadleaf", green=0.9 * leaves(land.day, land.biome.latitude)[0])
    land.paint(town & (land.code == 121), "yard", green=0.1)
    dense = land.code[rows, cols] == 111
    fill = np.where(dense, 0.85, 0.62) * rng.uniform(0.8, 1.15, int(lots.max()) + 1)[lots]
    built = rng.random(int(lots.max()) + 1)[lots] < np.where(works, 0.7, 0.9)
    house = built & (np.abs(u) < fill) & (np.abs(v) < fill)
    tiles = {"red_roof": 5, "grey_roof": 2.5, "white_roof": 0.4 + 2.0 * (land.biome.latitude < 42)}
    _roofs(rng, land, rows, cols, lots, tiles, house & ~works)
    _roofs(rng, land, rows, cols, lots, {"grey_roof": 5, "white_roof": 1.5, "red_roof": 0.5}, house & works)
    land.paint((street | road) & (land.cover != COVER["river"]), "asphalt", green=0.05)


def build_farms(rng: np.random.Generator, land, blocks: np.ndarray) -> None:
    """A few farmsteads and hamlets beside the tracks, each some roofs, a yard and trees."""
    beside = borders(blocks) & (land.code < 300)
    spots = np.flatnonzero(beside)
    if not len(spots):
        return
    share = (land.code < 300).mean()
    number = rng.poisson(5 * share + 1)
    for spot in rng.choice(spots, number):
        radius, turn = rng.uniform(14, 45), rng.uniform(0, np.pi)
        row, col = divmod(int(spot), blocks.shape[1])
        near = tuple(slice(max(0, at - 12), at + 13) for at in (row, col))  # 60 m around
        x, y = land.x[near] - land.x[row, col], land.y[near] - land.y[row, col]
        u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        yard = (np.abs(u) < radius) & (np.abs(v) < 0.7 * radius) & (land.code[near] < 300)
        _farmstead(rng, land, near, yard, u / radius, v / radius, radius)
        land.axis[near][yard] = turn


def _farmstead(rng, land, near, yard, u, v, radius) -> None:
    """Garden, trees on the weather side, and some roofs; u and v are -1..1 across the yard."""
    place = np.zeros(land.cover.shape, bool)
    for cover, green, where in (
        ("garden", 0.75, yard),
        ("broadleaf", 0.8, yard & ((np.abs(u) > 0.75) | (v > 0.5))),
    ):
        place[near] = where
        land.paint(place, cover, green=green)
    for _ in range(rng.integers(1, 5)):
        a, b = rng.uniform(-0.6, 0.6, 2)
        half = rng.uniform(5, 15) / radius, rng.uniform(4, 7) / radius
        place[near] = yard & (np.abs(u - a) < half[0]) & (np.abs(v - b) < half[1])
        land.paint(place, str(rng.choice(["red_roof", "grey_roof", "white_roof"], p=[0.5, 0.3, 0.2])), green=0.0)
        land.tone[0][place] = rng.normal(0, 0.2)
