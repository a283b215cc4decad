"""Geometry of a landscape: fractal fields, meandering curves, and land cut into parcels the way land is divided.

Parcels are made by cutting a region again and again along nearly straight lines, not from random points: the borders then meet in T's, run
on from one field to the next, and turn together, as field borders do.
"""

import numpy as np
from scipy import fft, ndimage


def fractal(rng: np.random.Generator, shape: tuple[int, int], slope: float, longest: float, shortest: float = 0.0, stretch=None):
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
    fy = fft.fftfreq(shape[0])[:, None].astype(np.float32)
    fx = fft.rfftfreq(shape[1])[None].astype(np.float32)
    if stretch:
        cos, sin = np.cos(stretch[0]), np.sin(stretch[0])
        fx, fy = (cos * fx + sin * fy) * stretch[1], cos * fy - sin * fx
    squared = fx**2 + fy**2
    gain = (squared + longest**-2) ** (-slope / 2)
    if shortest:
        gain = gain * np.exp(-squared * shortest**2)
    gain[0, 0] = 0
    out = fft.irfft2(fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * gain, s=shape)
    return (out / out.std()).astype(np.float32)


def moments(x: np.ndarray, y: np.ndarray, ids: np.ndarray):
    """Centre, direction of the long axis, and extents of each region.

    Args:
        x, y, ids: (N,) position of each cell and the region, 0..K-1, that it belongs to.

    Returns:
        Six arrays (K,): cells, centre x, centre y, angle in radians, and the standard deviations along and across it.
    """
    count = np.maximum(np.bincount(ids), 1)
    mean = lambda values: np.bincount(ids, values) / count  # noqa: E731
    cx, cy = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - cx**2, mean(y * y) - cy**2, mean(x * y) - cx * cy
    root = np.sqrt(np.maximum((xx - yy) ** 2 / 4 + xy**2, 0))
    middle = (xx + yy) / 2
    across = np.sqrt(np.maximum(middle - root, 1 / 12))
    return count, cx, cy, 0.5 * np.arctan2(2 * xy, xx - yy), np.sqrt(np.maximum(middle + root, 1 / 12)), across


def relabel(ids: np.ndarray) -> np.ndarray:
    """The same regions, numbered 0..K-1 without gaps."""
    return (np.cumsum(np.bincount(ids.ravel()) > 0) - 1)[ids]


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
    ids = relabel(ids)
    for _ in range(14):
        count, cx, cy, angle, along, across = moments(x, y, ids)
        wanted = area if np.isscalar(area) else np.bincount(ids, area) / count
        big = count > wanted * rng.uniform(0.8, 2.6, len(count))
        if not big.any():
            break
        lengthwise = along / across < elongation * rng.uniform(0.8, 1.25, len(count))
        normal = angle + np.where(lengthwise, np.pi / 2, 0) + rng.normal(0, jitter, len(count))
        width = np.where(lengthwise, across, along) * np.sqrt(12)
        offset = rng.uniform(-0.22, 0.22, len(count)) * width
        cos, sin = np.cos(normal), np.sin(normal)
        level = cx * cos + cy * sin + offset
        beyond = x * cos[ids] + y * sin[ids] > level[ids]
        ids = relabel(2 * ids + (beyond & big[ids]))
    return ids


def borders(ids: np.ndarray) -> np.ndarray:
    """(rows, cols) bool: cells whose right or lower neighbour belongs to another region."""
    out = np.zeros(ids.shape, bool)
    out[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    out[:-1] |= ids[:-1] != ids[1:]
    return out


def some_borders(rng: np.random.Generator, ids: np.ndarray, share: float) -> np.ndarray:
    """(rows, cols) bool: all cells of some of the borders; a border between two regions is taken whole or not at all."""
    seed = rng.integers(1, 2**31)
    out = np.zeros(ids.shape, bool)
    pairs = (
        (out[:, :-1], ids[:, :-1], ids[:, 1:]),
        (out[:-1], ids[:-1], ids[1:]),
    )
    for view, first, second in pairs:
        low, high = np.minimum(first, second), np.maximum(first, second)
        hashed = (low.astype(np.int64) * 73856093 + high.astype(np.int64) * 19349663 + seed) * 2654435761 % 1000003
        view |= (first != second) & (hashed < share * 1000003)
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
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    line, slope = np.full_like(u, offset), np.zeros_like(u)
    for k, part in ((1.0, 1.0), (2.3, 0.3), (5.1, 0.08)):
        phase, wave = rng.uniform(0, 2 * np.pi), 2 * np.pi * k / wavelength
        line += swing * part * np.sin(wave * u + phase)
        slope += swing * part * wave * np.cos(wave * u + phase)
    return (v - line) / np.sqrt(1 + slope**2)


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
    angle = strength * np.sin(phase) + rng.uniform(0, 2 * np.pi) + 0.25 * np.sin(2 * np.pi * s / (3 * size) + rng.uniform(0, 6.3))
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
