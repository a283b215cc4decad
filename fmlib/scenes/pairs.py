"""Infrared–visible pairs of made scenes, as PNG files in the layout of the published sets of pairs.

Both pictures are stretched by themselves, as cameras do: grey levels are no temperatures, and two pairs do not compare.
"""

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from fmlib.scenes.archive import SPLITS, _fresh_part, _is_finished
from fmlib.scenes.biomes import BIOMES
from fmlib.scenes.render import check_scene, render_scene

VERSION = 1  # of the pictures: raise it when equal arguments give other pixels
PERCENTILES = (1, 99)  # percentiles of an image between which grey levels lie


def generate_pairs(root: str | Path, count: int = 100, seed: int = 0, size: int = 120, jobs: int = 2) -> Path:
    """Write pairs of made scenes: ``{split}/ir/{number}.png`` (grey) and ``{split}/vi/{number}.png`` (colour).

    Equal arguments give equal bytes. A folder that already holds these pairs is left as it is.

    Args:
        root: folder of the pairs, made if absent.
        count: number of pairs: of each five, three to train, one to validate, one to test.
        seed: 0 or above; another seed gives other landscapes.
        size: side of the pictures in pixels, a multiple of 6.
        jobs: processes; 0 or 1: this one alone.

    Returns:
        `root`.

    Raises:
        ValueError: an argument out of range, or a folder with other contents.
    """
    root = Path(root).absolute()
    if count < 5 or seed < 0:
        raise ValueError(f"count {count}, seed {seed}: count must be 5 or more, one pair a split, seed 0 or more")
    check_scene(size, (0, 0), 0)
    settings = {"generator": VERSION, "pairs": count, "seed": seed, "size": size}
    if _is_finished(root, settings):
        return root
    part = _fresh_part(root)
    try:
        _run([(part, index, seed, size) for index in range(count)], jobs)
        (part / "scenes.json").write_text(json.dumps(settings, indent=2) + "\n")
        if not _is_finished(root, settings):  # another process may have been faster
            part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _run(tasks: list[tuple], jobs: int) -> None:
    if jobs <= 1:
        for task in tasks:
            _write_pair(task)
        return
    # spawn: safe in a process that already runs threads, such as a notebook's
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write_pair, tasks, chunksize=4))


def _write_pair(job: tuple[Path, int, int, int]) -> None:
    root, index, seed, size = job
    scene = render_scene([seed, index], size, biome=list(BIOMES)[index % len(BIOMES)])
    colour = np.stack([scene[band] for band in ("B04", "B03", "B02")], axis=-1)
    for sensor, image in (("ir", scene["thermal"]), ("vi", colour)):
        path = root / SPLITS[index % len(SPLITS)] / sensor / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_picture(image)).save(path)


def to_picture(image: np.ndarray) -> np.ndarray:
    """Grey levels 0 … 255 (uint8) between the 1st and 99th percentile of all values of an image, of any shape."""
    low, high = np.percentile(image, PERCENTILES)
    return np.rint(np.clip((image - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)
