"""Geometry of a landscape: fractal fields, meandering curves, and land cut into parcels the way land is divided.

Parcels are made by cutting a region again and again along nearly straight lines, not from random points: the borders
then meet in T's, run on from one field to the next, and turn together, as field borders do.
"""

from functools import lru_cache

import numpy as np
from scipy import fft, ndimage


def fractal(
    rng: np.random.Generator, shape: tuple[int, int], slope: float, longest: float, shortest: float = 0.0, stretch=None
):
    """A smooth random field of mean 0 and standard deviation 1.

    Args:
        shape: (rows, cols) in cells.
        slope: fall of amplitude with frequency; 1 rough, 3 very smooth.
        longest: wavelength in cells above which amplitude rises no more.
        shortest: wavelength in cells below which nothing is left.
        stretch: (angle in radians, factor) of an elongation, or none.

    Returns:
        (rows, cols) float32.
    """
    gain = _gain(shape, slope, longest, shortest, stretch)
    out = fft.irfft2(fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * gain, s=shape)
    return (out / out.std()).astype(np.float32)


@lru_cache(64)
def _gain(shape, slope, longest, shortest, stretch):
    """Amplitude at each frequency, (rows, cols / 2 + 1) float32."""
    fy = fft.fftfreq(shape[0])[:, None].astype(np.float32)
    fx = fft.rfftfreq(shape[1])[None].astype(np.float32)
    if stretch:
        cos, sin = np.cos(stretch[0]), np.sin(stretch[0])
        fx, fy = (cos * fx + sin * fy) * stretch[1], cos * fy - sin * fx
    squared = fx**2 + fy**2
    gain = (squared + longest**-2) ** (-slope / 2) * np.exp(-squared * shortest**2)
    gain[0, 0] = 0
    return gain.astype(np.float32)


def coarse(rng, shape, slope, longest, shortest=8.0, stretch=None) -> np.ndarray:
    """`fractal` drawn at a quarter of the resolution, for fields without fine detail."""
    small = fractal(rng, (shape[0] // 4 + 2, shape[1] // 4 + 2), slope, longest / 4, shortest / 4, stretch)
    for axis in (0, 1):
        small = np.moveaxis(small, axis, 0)
        fine = np.empty((4 * (len(small) - 1), small.shape[1]), np.float32)
        for k in range(4):
            fine[k::4] = small[:-1] + np.float32(k / 4) * (small[1:] - small[:-1])
        small = np.moveaxis(fine[: shape[axis]], 0, axis)
    return np.ascontiguousarray(small)


def moments(x: np.ndarray, y: np.ndarray, ids: np.ndarray, count: int):
    """Centre, direction of the long axis, and extents of each region.

    Args:
        x, y, ids: (N,) position of each cell and the region, 0..count-1, that it belongs to.
        count: number of regions.

    Returns:
        Five arrays (count,): centre x, centre y, angle in radians, and the standard deviations along and across it.
    """
    number = np.maximum(np.bincount(ids, minlength=count), 1)
    cx, cy, xx, yy, xy = (np.bincount(ids, v, count) / number for v in (x, y, x * x, y * y, x * y))
    xx, yy, xy = xx - cx**2, yy - cy**2, xy - cx * cy
    root = np.sqrt(np.maximum((xx - yy) ** 2 / 4 + xy**2, 0))
    along, across = (np.sqrt(np.maximum((xx + yy) / 2 + sign * root, 1 / 12)) for sign in (1, -1))
    return cx, cy, 0.5 * np.arctan2(2 * xy, xx - yy), along, across


def relabel(ids: np.ndarray) -> np.ndarray:
    """The same regions, numbered 0..K-1 without gaps."""
    return (np.cumsum(np.bincount(ids.ravel(), minlength=1) > 0) - 1)[ids]


def subdivide(rng: np.random.Generator, x, y, ids, area, elongation: float = 1.5, jitter: float = 0.06) -> np.ndarray:
    """Cut regions until each is about as large as wanted.

    Args:
        x, y, ids: (N,) position of each cell and its region.
        area: wanted cells of a parcel; one number, or (N,) one a cell.
        elongation: regions less elongated than this are cut lengthwise, into strips.
        jitter: standard deviation in radians of a cut's direction about the region's axis.

    Returns:
        (N,) new regions, 0..K-1.
    """
    out, first = np.zeros(len(ids), np.int64), 0  # a region that is small enough gets its final number
    cells, part, x, y = np.arange(len(ids)), relabel(ids), x.astype(float), y.astype(float)
    area = np.broadcast_to(np.float64(area), x.shape)
    while len(cells):
        count = np.bincount(part)
        wanted = np.bincount(part, area) / np.maximum(count, 1)
        big = count > wanted * rng.uniform(0.8, 2.6, len(count))
        keep = big[part]
        out[cells[~keep]] = part[~keep] + first
        first += len(count)
        cells, part, x, y, area = cells[keep], part[keep], x[keep], y[keep], area[keep]
        some = slice(None, None, 3 if len(cells) > 150 * big.sum() else 1)  # enough cells to know a region's shape
        cx, cy, angle, along, across = moments(x[some], y[some], part[some], len(count))
        lengthwise = along / across < elongation * rng.uniform(0.8, 1.25, len(count))
        normal = angle + np.where(lengthwise, np.pi / 2, 0) + rng.normal(0, jitter, len(count))
        width = np.where(lengthwise, across, along) * np.sqrt(12)
        cos, sin = np.cos(normal), np.sin(normal)
        level = cx * cos + cy * sin + rng.uniform(-0.22, 0.22, len(count)) * width
        part = relabel(2 * part + (x * cos[part] + y * sin[part] > level[part]))
    return relabel(out)


def borders(ids: np.ndarray) -> np.ndarray:
    """(rows, cols) bool: cells whose right or lower neighbour belongs to another region."""
    out = np.zeros(ids.shape, bool)
    out[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    out[:-1] |= ids[:-1] != ids[1:]
    return out


def some_borders(rng: np.random.Generator, ids: np.ndarray, share: float) -> np.ndarray:
    """(rows, cols) bool: all cells of some of the borders; each border is taken whole or not at all."""
    seed = rng.integers(1, 2**31)
    out = np.zeros(ids.shape, bool)
    pairs = (
        (out[:, :-1], ids[:, :-1], ids[:, 1:]),
        (out[:-1], ids[:-1], ids[1:]),
    )
    for view, first, second in pairs:
        here = np.nonzero(first != second)
        low, high = (pick(first[here], second[here]).astype(np.int64) for pick in (np.minimum, np.maximum))
        view[here] |= (low * 73856093 + high * 19349663 + seed) * 2654435761 % 1000003 < share * 1000003
    return out


def widen(lines: np.ndarray) -> np.ndarray:
    """(rows, cols) bool: lines one cell wider on each side."""
    out = lines.copy()
    out[1:] |= lines[:-1]
    out[:-1] |= lines[1:]
    out[:, 1:] |= lines[:, :-1]
    out[:, :-1] |= lines[:, 1:]
    return out


def wavy_side(rng: np.random.Generator, x, y, swing: float, wavelength: float, offset: float = 0.0) -> np.ndarray:
    """Signed distance, in the unit of x and y, to a gently winding line through the scene.

    Args:
        x, y: (rows, cols) positions, 0 in the middle.
        swing: amplitude of the winding.
        wavelength: of its longest wave.
        offset: distance of the line from the middle.
    """
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = cos * x + sin * y, cos * y - sin * x
    along = np.linspace(u.min(), u.max(), 600)
    line, slope = np.full_like(along, offset), np.zeros_like(along)
    for k, part in ((1.0, 1.0), (2.3, 0.3), (5.1, 0.08)):
        phase, wave = rng.uniform(0, 2 * np.pi), 2 * np.pi * k / wavelength
        line += swing * part * np.sin(wave * along + phase)
        slope += swing * part * wave * np.cos(wave * along + phase)
    upright = 1 / np.sqrt(1 + slope**2)
    return ((v - np.interp(u, along, line)) * np.interp(u, along, upright)).astype(np.float32)


def meander(rng: np.random.Generator, shape: tuple[int, int], bend: float, wavelength: float) -> np.ndarray:
    """Distance in cells to a river that crosses the scene (sine-generated curve, Langbein and Leopold 1966).

    Args:
        shape: (rows, cols).
        bend: largest angle, in radians, between the river and its valley; above about 1.2 loops form.
        wavelength: length of a bend along the river, in cells.
    """
    size = max(shape)
    s = np.arange(-4.0 * size, 4.0 * size, 0.5)
    wave = wavelength * np.exp(0.25 * np.sin(2 * np.pi * s / (3.7 * wavelength) + rng.uniform(0, 6.3)))
    phase = np.cumsum(2 * np.pi / wave) * 0.5 + rng.uniform(0, 6.3)
    strength = bend * (0.75 + 0.35 * np.sin(2 * np.pi * s / (2.6 * wavelength) + rng.uniform(0, 6.3)))
    angle = (
        strength * np.sin(phase)
        + rng.uniform(0, 2 * np.pi)
        + 0.25 * np.sin(2 * np.pi * s / (3 * size) + rng.uniform(0, 6.3))
    )
    px, py = np.cumsum(np.cos(angle)) * 0.5, np.cumsum(np.sin(angle)) * 0.5
    middle = len(s) // 2
    px += shape[1] * rng.uniform(0.3, 0.7) - px[middle]
    py += shape[0] * rng.uniform(0.3, 0.7) - py[middle]
    pad = 24  # a bend just outside still has its banks inside
    rows, cols = np.rint(py).astype(int) + pad, np.rint(px).astype(int) + pad
    free = np.ones((shape[0] + 2 * pad, shape[1] + 2 * pad), bool)
    inside = (rows >= 0) & (rows < free.shape[0]) & (cols >= 0) & (cols < free.shape[1])
    free[rows[inside], cols[inside]] = False
    return ndimage.distance_transform_edt(free)[pad:-pad, pad:-pad].astype(np.float32)
