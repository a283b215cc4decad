"""Scores of folders of fused images: several methods side by side, and trivial ones always among them.

rows = score_folders("tno/ir", "tno/vi", {"ours": "runs/fused"}, convention="toolbox")
write_csv(rows, "scores.csv")
"""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from fmlib.data.pictures import ENDINGS, read_image
from fmlib.files import write_beside
from fmlib.fusion_baselines import laplacian_pyramid, mean_image
from fmlib.fusion_metrics import CONVENTIONS, METRICS, luma, score
from fmlib.progress import watched

BASELINES = {  # what any method must beat
    "mean": mean_image,
    "max": np.maximum,
    "Laplacian pyramid": laplacian_pyramid,
    "infrared alone": lambda ir, vi: ir,
    "visible alone": lambda ir, vi: vi,
}


def score_folders(
    ir_dir: str | Path,
    vi_dir: str | Path,
    fused: Mapping[str, str | Path],
    convention: str = "standard",
    metrics: Sequence[str] | None = None,
    device: str = "cpu",
) -> list[dict]:
    """Score every fused image of every method, and the trivial ones of `BASELINES`.

    Pairs are files of one name without its ending, 8-bit PNG, JPEG, BMP, GeoTIFF or NPY; of colour images the luma
    counts (`fmlib.fusion_metrics.luma`). What cannot be scored is reported and left out. Means run over the images
    that all methods have, and over those of them for which a metric is defined.

    Args:
        ir_dir, vi_dir: folders of the infrared and the visible images.
        fused: name of a method → folder of its images.
        convention: one of `fmlib.fusion_metrics.CONVENTIONS`.
        metrics: names in `fmlib.fusion_metrics.METRICS`; default: all.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        Rows with ``"method"`` and ``"image"``: each image's metrics, NaN where one is not defined; then each method's
        means, whose image is ``"mean"`` and which say of how many ``"images"``. What could not be scored has a
        ``"problem"`` instead; its method is "" where it concerns the sources.

    Raises:
        FileNotFoundError: a folder that is not there.
        ValueError: no pair at all, nothing all methods have, an unknown metric or convention, a method's name taken.
    """
    names = list(METRICS) if metrics is None else list(dict.fromkeys(metrics))
    _check(names, convention, fused)
    ir_files, vi_files = by_stem(ir_dir), by_stem(vi_dir)
    methods = {name: by_stem(folder) for name, folder in fused.items()}
    pairs = sorted(ir_files.keys() & vi_files.keys())
    if not pairs:
        raise ValueError(f"no file in {ir_dir} and {vi_dir} has the same name; pairs are found by it, without ending")
    rows = [
        _problem("", stem, f"in {ir_dir if stem in ir_files else vi_dir} alone")
        for stem in sorted(ir_files.keys() ^ vi_files.keys())
    ]
    for stem in tqdm(pairs, unit="pair", disable=not watched()):
        files = {name: found.get(stem) for name, found in methods.items()}
        if methods and not any(files.values()):
            rows.append(_problem("", stem, "no method has an image of it"))
            continue
        rows += _score_pair(stem, ir_files[stem], vi_files[stem], files, convention, names, device)
    return rows + _means(rows, [*fused, *BASELINES], names)


def _check(names: list[str], convention: str, fused: Mapping) -> None:
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
    if convention not in CONVENTIONS:
        raise ValueError(f"convention {convention!r} is not one of {', '.join(CONVENTIONS)}")
    if taken := set(fused) & set(BASELINES):
        raise ValueError(f"{sorted(taken)} are names of the trivial methods; call yours otherwise")


def by_stem(folder: str | Path) -> dict[str, Path]:
    """Image files of a folder by their names without ending.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: two files of one name.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give one that holds images")
    found = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
            continue
        if found.setdefault(path.stem, path) != path:
            raise ValueError(f"{found[path.stem]} and {path} have one name; keep one of them")
    return found


def read_grey(path: Path) -> np.ndarray:
    """An 8-bit image as grey values, of colour its luma.

    Returns:
        (H, W) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unreadable, or not of 8 bits.
    """
    pixels = read_image(path, (1, 3)).pixels
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path}: {pixels.dtype}, but metrics are of 8 bits; bring it to 0 … 255 and save it as uint8")
    return luma(pixels) if len(pixels) == 3 else pixels[0]


def _score_pair(stem, ir_file, vi_file, files: dict[str, Path | None], convention, names, device) -> list[dict]:
    """Rows of one pair; `files` has each method's image, None where it has none."""
    try:
        ir, vi = read_grey(ir_file), read_grey(vi_file)
        _same_size(vi_file, vi, ir)
    except (OSError, ValueError) as error:
        return [_problem("", stem, error)]
    images, rows = {}, []
    for name, path in files.items():
        try:
            images[name] = _read_fused(path, ir)
        except (OSError, ValueError) as error:
            rows.append(_problem(name, stem, error))
    images |= {name: fuse(ir, vi) for name, fuse in BASELINES.items()}
    tensors = (torch.tensor(image, device=device) for image in (ir, vi, np.stack(list(images.values()))))
    try:
        scores = score(*tensors, convention, names)
    except ValueError as error:  # too small for one of the metrics
        return [*rows, _problem("", stem, error)]
    columns = {name: values.tolist() for name, values in scores.items()}
    return rows + [
        {"method": name, "image": stem, **{metric: values[number] for metric, values in columns.items()}}
        for number, name in enumerate(images)
    ]


def _read_fused(path: Path | None, ir: np.ndarray) -> np.ndarray:
    if path is None:
        raise ValueError("no fused image")
    image = read_grey(path)
    _same_size(path, image, ir)
    return image


def _same_size(path: Path, image: np.ndarray, ir: np.ndarray) -> None:
    if image.shape != ir.shape:
        (rows, cols), (height, width) = image.shape, ir.shape
        raise ValueError(f"{path}: {rows} × {cols} pixels, but the infrared image has {height} × {width}")


def _problem(method: str, image: str, problem) -> dict:
    return {"method": method, "image": image, "problem": str(problem)}


def _means(rows: list[dict], methods: list[str], names: list[str]) -> list[dict]:
    """A row of means for each method, over the images that all of them have."""
    scored = {name: {row["image"]: row for row in rows if row["method"] == name} for name in methods}
    scored = {name: {i: row for i, row in found.items() if "problem" not in row} for name, found in scored.items()}
    common = set.intersection(*(set(found) for found in scored.values()))
    if not common:
        found = [f"{row['method'] or 'sources'} {row['image']}: {row['problem']}" for row in rows if "problem" in row]
        why = "; ".join(found[:3])
        raise ValueError(f"there is no image that all methods have, so nothing can be compared: {why}")
    means = []
    for method, found in scored.items():
        values = {name: [found[image][name] for image in sorted(common)] for name in names}
        defined = {name: [x for x in column if not math.isnan(x)] for name, column in values.items()}
        mean = {name: statistics.fmean(column) if column else math.nan for name, column in defined.items()}
        means.append({"method": method, "image": "mean", **mean, "images": len(common)})
    return means


def write_csv(rows: list[dict], path: str | Path) -> None:
    """Write the rows of `score_folders` as CSV, whole or not at all; what is not defined stays empty.

    Args:
        rows: of `score_folders`.
        path: file to write; missing folders are made.
    """
    metrics = [name for name in METRICS if any(name in row for row in rows)]
    columns = ["method", "image", *metrics, "images", "problem"]

    def write(beside: Path) -> None:
        with open(beside, "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            for row in rows:
                table.writerow({key: "" if value != value else value for key, value in row.items()})

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_beside(Path(path), write)
