"""One made scene: a landscape rendered by every sensor."""

import numpy as np

from fmlib.scenes.biomes import BIOMES
from fmlib.scenes.landscape import make_landscape
from fmlib.scenes.optical import add_clouds, reflectance, sample_bands, sun, temperature
from fmlib.scenes.radar import LOOKS, backscatter, speckle
from fmlib.scenes.sensors import to_pixels

MAX_SHIFT = 8  # pixels
PAD = MAX_SHIFT + 4  # pixels of landscape around a scene: for shifts, shadows and blur

# CLC level-3 code: class of the 19-class legend of BigEarthNet; 332 (bare rock) has none.
CLASS_OF = {
    111: "Urban fabric",
    112: "Urban fabric",
    121: "Industrial or commercial units",
    211: "Arable land",
    221: "Permanent crops",
    222: "Permanent crops",
    223: "Permanent crops",
    231: "Pastures",
    242: "Complex cultivation patterns",
    243: "Land principally occupied by agriculture, with significant areas of natural vegetation",
    244: "Agro-forestry areas",
    311: "Broad-leaved forest",
    312: "Coniferous forest",
    313: "Mixed forest",
    321: "Natural grassland and sparsely vegetated areas",
    333: "Natural grassland and sparsely vegetated areas",
    322: "Moors, heathland and sclerophyllous vegetation",
    323: "Moors, heathland and sclerophyllous vegetation",
    324: "Transitional woodland, shrub",
    331: "Beaches, dunes, sands",
    411: "Inland wetlands",
    412: "Inland wetlands",
    421: "Coastal wetlands",
    511: "Inland waters",
    512: "Inland waters",
    523: "Marine waters",
}


def render_scene(
    seed: int | list[int] | np.random.Generator,
    size: int = 120,
    *,
    biome: str | None = None,
    day: float | None = None,
    shift: tuple[int, int] = (0, 0),
    clouds: float = 0.0,
    looks: float = LOOKS,
    ascending: bool = True,
) -> dict[str, np.ndarray]:
    """Make one landscape and the images that each sensor takes of it.

    Args:
        seed: an integer, several, or a generator from which one is drawn; decides everything that is not given.
        size: side of the 10 m images in pixels, a multiple of 6.
        biome: one of `BIOMES`; drawn if not given.
        day: day of the year, 1..365; drawn from April to October if not given.
        shift: (rows, cols) in whole pixels, ±8 at most, by which the ground lies further down and right in the radar
            image.
        clouds: share of the optical image under cloud, 0..1.
        looks: equivalent number of looks of the radar image; smaller means more speckle.
        ascending: whether the radar looks east (else west).

    Returns:
        The 12 optical bands by name, uint16 reflectance × 10,000, `size`, `size / 2` or `size / 6` pixels wide; and,
        all (size, size): "VV" and "VH", float32 dB; "VV_clean" and "VH_clean", the same without speckle; "map", uint16
        CLC level-3 codes; "cover", uint8 index into `fmlib.scenes.biomes.COVERS`; "cloud", bool; "thermal", float32
        kelvin; "elevation", float32 metres.

    Raises:
        ValueError: an argument out of its range.
    """
    check_scene(size, shift, clouds)
    (biome, day), (ground, light, radar, sky, warm) = _draw(seed, biome, day)
    land = make_landscape(ground, biome, day, 2 * (size + 2 * PAD))
    edge = 4  # pixels
    view = land.crop(2 * (PAD - edge), 2 * (PAD - edge), 2 * (size + 2 * edge))
    inner = (..., slice(edge, edge + size), slice(edge, edge + size))
    cube, cloud = reflectance(light, view)[inner], np.zeros((size, size), bool)
    if clouds > 0:
        cube, cloud = add_clouds(sky, cube, clouds, sun(land)[0])
    top, left = PAD - shift[0], PAD - shift[1]
    clean = backscatter(radar, land, 0.2 if ascending else np.pi - 0.2)[:, top : top + size, left : left + size]
    noisy = 10 * np.log10(clean * speckle(radar, clean.shape, looks))
    clean = 10 * np.log10(clean)
    return {
        **sample_bands(light, cube),
        "VV": noisy[0], "VH": noisy[1], "VV_clean": clean[0], "VH_clean": clean[1],
        "map": view.code[::2, ::2][inner], "cover": view.cover[::2, ::2][inner], "cloud": cloud,
        "thermal": temperature(warm, view)[inner], "elevation": to_pixels(view.elevation)[inner],
    }  # fmt: skip


def _draw(seed, biome: str | None, day: float | None):
    """Where and when, and one random stream a sensor: clouds, say, change nothing in the radar image."""
    if isinstance(seed, np.random.Generator):
        seed = int(seed.integers(2**63))
    first, *streams = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(6))
    drawn = list(BIOMES)[first.integers(len(BIOMES))], float(first.uniform(95, 300))
    biome, day = biome or drawn[0], drawn[1] if day is None else float(day)
    if biome not in BIOMES:
        raise ValueError(f"unknown biome {biome!r}; choose one of {', '.join(BIOMES)}")
    return (biome, day), streams


def check_scene(size: int, shift: tuple[int, int], clouds: float) -> None:
    """Raise if a scene cannot be made so.

    Raises:
        ValueError: size, shift or clouds out of range.
    """
    if size % 6 or not 24 <= size <= 600:
        raise ValueError(f"size {size}: must be a multiple of 6 from 24 to 600, so that 20 m and 60 m bands fit")
    if any(int(s) != s or abs(s) > MAX_SHIFT for s in shift) or len(shift) != 2:
        raise ValueError(f"shift {shift}: must be two whole numbers of pixels from -{MAX_SHIFT} to {MAX_SHIFT}")
    if not 0 <= clouds <= 1:
        raise ValueError(f"clouds {clouds}: must be a share from 0 to 1")


def classes_of(codes: np.ndarray, share: float = 0.01) -> list[str]:
    """The classes that a map holds, in alphabetical order.

    Args:
        codes: (rows, cols) CLC level-3 codes.
        share: part of the map that a class must cover to count; where none does, the largest class counts.

    Returns:
        Names of the 19-class legend.
    """
    values, counts = np.unique(codes, return_counts=True)
    covered: dict[str, int] = {}
    for code, count in zip(values.tolist(), counts.tolist(), strict=True):
        if name := CLASS_OF.get(code):
            covered[name] = covered.get(name, 0) + count
    large = [name for name, count in covered.items() if count >= share * codes.size]
    return sorted(large or sorted(covered, key=covered.get)[-1:])
