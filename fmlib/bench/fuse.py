"""How fast pairs are fused, and how much memory large ones take: `fmlib bench fuse`."""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch

from fmlib.convert import load_maefuse
from fmlib.fuse import fuse_folder, fuse_pair
from fmlib.models.maefuse import MaeFuse
from fmlib.recipe import pick_device
from fmlib.train_fusion import FusionParams, build
from fmlib.weights import save


def bench_fuse(
    weights: str = "",
    sides: tuple[int, ...] = (1024, 2048, 4096),
    device: str = "auto",
    rounds: int = 5,
    batch: int = 8,
) -> dict:
    """Time a pair of 640 × 480 pixels, and watch the memory of square ones read from GeoTIFFs.

    Args:
        weights: as of `fuse_folder`; empty: an untrained model of the smallest preset, which is as fast.
        sides: of the square images in pixels, each fused in a process of its own.
        device: where; auto: CUDA if there is one.
        rounds: fused pairs that are timed, after one to warm up; the median is reported.
        batch: windows fused at a time.

    Returns:
        {"device", "weights" (count), "pairs_per_s", "ms_per_pair", "memory": [{"side", "seconds", "peak_mb"}]}; the
        peak is the largest resident memory of the process, on a GPU its own without the card's.
    """
    device = pick_device(device)
    model = _model(weights).to(device)
    rng = np.random.default_rng(0)
    ir, vi = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((480, 640), (3, 480, 640)))
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        fuse_pair(model, ir, vi, batch=batch)
        times.append(time.perf_counter() - start)
    median = statistics.median(times[1:])
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model")
        memory = [_apart(Path(folder), side, str(device), batch) for side in sides]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    count = sum(p.numel() for p in model.parameters())
    speed = {"pairs_per_s": 1 / median, "ms_per_pair": 1e3 * median}
    return {"device": name, "weights": count} | speed | {"memory": memory}


def _model(weights: str) -> MaeFuse:
    return (load_maefuse(weights)[0] if weights else build(FusionParams())).eval()


def _apart(folder: Path, side: int, device: str, batch: int) -> dict:
    """`_large` in a process of its own: only so is its peak memory that of one image."""
    words = [sys.executable, "-m", "fmlib.bench.fuse", str(folder), str(side), device, str(batch)]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])


def _large(folder: Path, side: int, device: str, batch: int) -> dict:
    """Fuse one pair of GeoTIFFs, made row by row."""
    rng, files = np.random.default_rng(0), {name: folder / f"{name}.tif" for name in ("ir", "vi")}
    shape = {"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint8", "tiled": True}
    for path in files.values():
        with rasterio.open(path, "w", **shape) as image:
            for row in range(0, side, 256):
                rows = min(256, side - row)
                window = rasterio.windows.Window(0, row, side, rows)
                image.write(rng.integers(0, 256, (1, rows, side), dtype=np.uint8), window=window)
    start = time.perf_counter()
    report = fuse_folder(files["ir"], files["vi"], folder / f"{side}.tif", folder / "model", device=device, batch=batch)
    if report.failed:
        raise RuntimeError(f"the pair of side {side} was not fused: {report.failed}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"side": side, "seconds": time.perf_counter() - start, "peak_mb": peak / 1e6}


if __name__ == "__main__":
    print(json.dumps(_large(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
