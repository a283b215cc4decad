"""Fusing pictures with MaeFuse: arrays, files and folders of any size, grey or colour, 8 or 16 bit.

    report = fuse_folder("ir", "vi", "fused", "runs/maefuse/model")

Only the luma of the visible image is replaced; its Cb and Cr stay as they are, at full resolution.
"""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from PIL import Image
from tqdm import tqdm

from fmlib.convert import load_maefuse
from fmlib.data.pictures import ENDINGS, GEOTIFF, PICTURES, read_image
from fmlib.data.raster import Footprint, check_footprints
from fmlib.files import write_beside, write_json
from fmlib.fuse_strips import Pixels, check_windows, fuse_strips
from fmlib.models.maefuse import MaeFuse
from fmlib.progress import watched
from fmlib.weights import digest

MADE_BY = "fused_by.json"  # in a folder of results: what they were made with


class Report(NamedTuple):
    """What became of the pairs: files written, files that were there before, names that failed and why."""

    fused: list[Path]
    kept: list[Path]
    failed: dict[str, str]


def fuse_pair(
    model: MaeFuse,
    ir: np.ndarray,
    vi: np.ndarray,
    tile: int | None = None,
    overlap: int = 32,
    batch: int = 1,
    passes: int = 1,
) -> np.ndarray:
    """Fuse two images.

    Args:
        model: one that is `released`, without `tile`, squeezes whole images to one size, as its authors' script does.
        ir, vi: (H, W) or (C, H, W), C 1 or 3, of one size; uint8, uint16, or float32 from 0 to 255.
        tile: side in pixels of overlapping windows that are fused one by one and blended; None: of the size that the
            model was trained at, beyond which a small one knows no places; 0: the whole image at once.
        overlap: pixels that neighbouring windows share.
        batch: windows fused at a time.
        passes: fuse each window so many times, with patches that begin elsewhere, and take the mean: the grid of
            patches fades (after Coifman and Donoho's cycle spinning, 1995), in so many times the time.

    Returns:
        The fused image in the shape and type of `vi`.

    Raises:
        ValueError: sizes that differ, other shapes or types, floats beyond 0 to 255, an overlap that leaves no step.
    """
    strips = fuse_strips(model, Pixels(ir, "infrared"), Pixels(vi, "visible"), tile, overlap, batch, passes)
    return np.concatenate([strip for _, strip in strips], axis=1).reshape(vi.shape)


def fuse_folder(
    ir: str | Path,
    vi: str | Path,
    out: str | Path,
    weights: str | Path | MaeFuse,
    tile: int | None = None,
    overlap: int = 32,
    device: str = "cpu",
    batch: int = 1,
    passes: int = 1,
) -> Report:
    """Fuse two files, or two folders of files with equal names, where an interrupted call goes on where it stopped.

    Files are PNG, JPEG, BMP, NPY or GeoTIFF. A result has the visible file's name; a picture becomes a PNG, which
    loses nothing; a GeoTIFF keeps its place on the ground and is read and written in strips.

    Args:
        ir, vi: both files, or both folders; endings may differ.
        out: folder for results, made if need be; for two files also a file. Of folders, results are kept that are
            there and were made with the same weights, windows and passes, as `fused_by.json` in it says.
        weights: checkpoint folder, file of MaeFuse's authors (`fmlib.convert.load_maefuse`), or model.
        tile, overlap, batch, passes: as for `fuse_pair`.
        device: ``"cpu"``, ``"cuda"``, …

    Raises:
        FileNotFoundError: `ir` or `vi` is not there.
        ValueError: a file and a folder, no pair at all, results that would lie among the sources or are there and
            were made otherwise, or bad weights.
    """
    pairs, failed = _pair_up(Path(ir), Path(vi), Path(out))
    check_windows(tile, overlap, passes)  # here, and not for every pair
    model = weights if isinstance(weights, MaeFuse) else load_maefuse(weights)[0]
    model = model.to(device).eval()
    kept, fused = [], []
    if Path(ir).is_dir():
        kept = _kept(Path(out), pairs, {"weights": digest(model), "tile": tile, "overlap": overlap, "passes": passes})
    todo = {target: pair for target, pair in pairs.items() if target not in kept}
    for target, (ir_file, vi_file) in tqdm(todo.items(), unit="pair", disable=not watched()):
        try:
            _fuse_files(model, ir_file, vi_file, target, tile, overlap, batch, passes)
            fused.append(target)
        except (OSError, ValueError) as error:
            failed[vi_file.stem] = str(error)
    return Report(fused, kept, dict(sorted(failed.items())))


def _pair_up(ir: Path, vi: Path, out: Path) -> tuple[dict[Path, tuple[Path, Path]], dict[str, str]]:
    """Result file → its two sources; and names without a partner → why they are left out."""
    for path in (ir, vi):
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; give two files, or two folders")
    if ir.is_dir() != vi.is_dir():
        raise ValueError(f"{ir} and {vi}: one is a folder, the other is not; give two files, or two folders")
    if not ir.is_dir():
        is_file = out.suffix[1:].isalpha() and not out.is_dir()  # a folder may be called v1.0
        return {_apart(out if is_file else out / _result_name(vi), ir, vi): (ir, vi)}, {}
    here, there = _by_stem(ir), _by_stem(vi)
    failed = {stem: f"in {ir if stem in here else vi} alone" for stem in here.keys() ^ there.keys()}
    both = sorted(here.keys() & there.keys())
    if not both:
        raise ValueError(f"no file in {ir} and {vi} has the same name; pairs are found by name without its ending")
    pairs = [(here[stem], there[stem]) for stem in both]
    return {_apart(out / _result_name(pair[1]), *pair): pair for pair in pairs}, failed


def _kept(out: Path, targets: Iterable[Path], made_by: dict) -> list[Path]:
    """Which results are there; notes in `out` what makes the others. Raises ValueError if these were made otherwise."""
    there = [target for target in targets if target.exists()]
    note = out / MADE_BY
    known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    changed = [key for key in made_by if known.get(key) != made_by[key]]
    if there and changed:
        why = f"other {', '.join(changed)}" if known else "unknown weights"
        raise ValueError(f"{out} holds {len(there)} pictures fused with {why}; choose another folder or empty it")
    out.mkdir(parents=True, exist_ok=True)
    write_json(note, made_by)
    return there


def _by_stem(folder: Path) -> dict[str, Path]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS]
    named = {path.stem: path for path in files}
    if len(named) < len(files):
        twice = next(path for path in files if named[path.stem] != path)
        raise ValueError(f"{twice} and {named[twice.stem]} have one name; keep one of them")
    return named


def _result_name(vi: Path) -> str:
    return vi.name if vi.suffix.lower() in (*GEOTIFF, ".npy") else f"{vi.stem}.png"


def _apart(target: Path, *sources: Path) -> Path:
    if target.resolve() in [source.resolve() for source in sources]:
        raise ValueError(f"{target} would overwrite its source; choose another folder for results")
    return target


def _fuse_files(model: MaeFuse, ir_file: Path, vi_file: Path, target: Path, *options) -> None:
    with ExitStack() as stack:
        ir, vi = (_open(path, stack) for path in (ir_file, vi_file))
        _check_grids(ir, vi)
        target.parent.mkdir(parents=True, exist_ok=True)
        strips = fuse_strips(model, ir, vi, *options)
        write_beside(target, lambda path: _write(path, target, vi, strips))


def _open(path: Path, stack: ExitStack) -> "Pixels | _GeoTiff":
    if path.suffix.lower() not in GEOTIFF:
        return Pixels(read_image(path, (1, 3)).pixels, str(path))
    return _GeoTiff(stack.enter_context(rasterio.open(path)), str(path))


class _GeoTiff:
    """What `Pixels` is for an array, for an open GeoTIFF."""

    def __init__(self, source, name: str):
        self.source, self.name = source, name
        self.shape, self.dtype = (source.count, source.height, source.width), source.dtypes[0]
        self.footprint = Footprint(str(source.crs), *source.bounds)

    def rows(self, rows: slice) -> np.ndarray:
        return self.source.read(window=((rows.start, rows.stop), (0, self.shape[2])))


def _check_grids(ir, vi) -> None:
    """Raise if both say where they lie, and it is not the same ground."""
    tifs = [image for image in (ir, vi) if isinstance(image, _GeoTiff) and image.source.crs]
    if len(tifs) == 2:
        check_footprints({image.name: image.footprint for image in tifs}, 0.5 * min(vi.source.res))


def _write(path: Path, target: Path, vi, strips) -> None:
    """Write strips as the kind of file that the target's ending names."""
    ending = target.suffix.lower()
    if ending in GEOTIFF:
        return _write_geotiff(path, vi, strips)
    pixels = np.concatenate([strip for _, strip in strips], axis=1)
    if ending == ".npy":
        with open(path, "wb") as file:
            return np.save(file, pixels)
    if ending not in PICTURES:
        raise ValueError(f"{target}: results end in one of {', '.join(ENDINGS)}")
    if pixels.dtype != np.uint8 and (len(pixels) == 3 or ending != ".png"):
        raise ValueError(f"{target}: {len(pixels)} bands of {pixels.dtype} do not fit; end it in .tif or .npy")
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(path, Image.registered_extensions()[ending], quality=95)


def _write_geotiff(path: Path, vi, strips) -> None:
    count, height, width = vi.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": vi.dtype}
    if isinstance(vi, _GeoTiff):
        profile |= {"crs": vi.source.crs, "transform": vi.source.transform}
    with rasterio.open(path, "w", **profile, compress="deflate") as out:
        for top, strip in strips:
            out.write(strip, window=((top, top + strip.shape[1]), (0, width)))
