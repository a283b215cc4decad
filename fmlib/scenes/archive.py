"""A small archive of made scenes in the published layout of BigEarthNet v2, for work without a download.

Scene number i belongs to tile i mod 30: six regions (i mod 6) with five tiles each, and each tile belongs to one split
(i mod 5), so the splits are spatial and every region is in each of them. A tile has one date, as one image has. Scene i
is the same for every `count`.
"""

import json
import multiprocessing
import os
import re
import shutil
import socket
import struct
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import rasterio
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from tqdm import tqdm

from fmlib.data.raster import tile_origin
from fmlib.scenes.biomes import BIOMES
from fmlib.scenes.render import check_scene, classes_of, render_scene
from fmlib.scenes.sensors import BANDS, NATIVE

VERSION = 1  # of the pictures: raise it when equal arguments give other pixels
SPLITS = ("train", "validation", "train", "test", "train")  # by tile
COLUMNS = ("patch_id", "labels", "split", "country", "s1_name", "s2v1_name", "contains_seasonal_snow",
           "contains_cloud_or_shadow")  # fmt: skip
TILES = {
    "continental": (
        ("33UWQ", "Austria", "2017-06-21"), ("34TCR", "Serbia", "2017-08-03"), ("33UXP", "Austria", "2017-08-31"),
        ("34TCS", "Serbia", "2017-07-19"), ("35ULB", "Lithuania", "2018-05-07"),
    ),
    "boreal": (
        ("35VPK", "Finland", "2017-07-01"), ("35VNL", "Finland", "2017-09-05"), ("34VER", "Finland", "2018-05-22"),
        ("35WPN", "Finland", "2017-07-25"), ("34VDM", "Finland", "2017-09-24"),
    ),
    "atlantic": (
        ("29UPU", "Ireland", "2017-06-17"), ("29UPV", "Ireland", "2018-04-21"), ("31UGR", "Belgium", "2017-10-15"),
        ("29UNB", "Ireland", "2018-05-29"), ("31UGS", "Luxembourg", "2018-02-25"),
    ),
    "mediterranean": (
        ("29SNC", "Portugal", "2017-08-13"), ("29SND", "Portugal", "2018-05-15"), ("29SNB", "Portugal", "2018-03-26"),
        ("29TNE", "Portugal", "2017-07-04"), ("29TNF", "Portugal", "2017-11-21"),
    ),
    "alpine": (
        ("32TMT", "Switzerland", "2017-08-18"), ("33TWN", "Austria", "2017-09-23"), ("33TXN", "Austria", "2017-07-01"),
        ("33TWM", "Austria", "2017-08-24"), ("32TLT", "Switzerland", "2017-10-05"),
    ),
    "coast": (
        ("31UER", "Belgium", "2017-08-29"), ("31UES", "Belgium", "2018-05-06"), ("29UNU", "Ireland", "2017-07-17"),
        ("29UPA", "Ireland", "2018-06-02"), ("34VDN", "Finland", "2017-09-06"),
    ),
}  # fmt: skip


def _names(index: int, seed: int, size: int) -> dict:
    """Where scene `index` lies and what it is called."""
    biome, slot, turn = list(BIOMES)[index % 6], index % 5, index // 30
    tile, country, taken = TILES[biome][slot]
    steps = min(109_800 // (10 * size), 99)  # an index has two digits
    if turn >= steps**2:
        raise ValueError(
            f"count {index + 1}: a tile holds {steps**2} scenes of {size} pixels; ask for {30 * steps**2} at most"
        )
    col, row = divmod(int(np.random.default_rng([seed, index % 30]).permutation(steps**2)[turn]), steps)
    day, ascending = date.fromisoformat(taken), slot % 2 == 0
    seen = f"{day + timedelta(days=1):%Y%m%d}T{'16' if ascending else '05'}{10 + index % 30}33"
    sensed = f"S2{'AB'[slot % 2]}_MSIL2A_{day:%Y%m%d}T10{10 + index % 30}31"
    epsg, west, north = tile_origin(tile)
    tile_name, scene = f"{sensed}_N9999_R{7 + 4 * (index % 30):03d}_T{tile}", f"S1{'BA'[slot % 2]}_IW_GRDH_1SDV_{seen}"
    return {
        "biome": biome,
        "day": float(day.timetuple().tm_yday),
        "ascending": ascending,
        "country": country,
        "split": SPLITS[slot],
        "epsg": epsg,
        "west": west + col * size * 10,
        "north": north - row * size * 10,
        "tile": tile_name,
        "patch_id": f"{tile_name}_{col:02d}_{row:02d}",
        "s2v1_name": f"{sensed}_{col}_{row}",
        "scene": scene,
        "s1_name": f"{scene}_{tile}_{col}_{row}",
    }


@lru_cache
def _template(shape: tuple[int, int], dtype: str, metres: int, epsg: int, nodata: int | None) -> tuple[bytes, int, int]:
    """An uncompressed GeoTIFF of one kind, and where in it the pixels, and x and y of its corner, are to be put.

    Opening a file through GDAL takes longer than filling it, so one of each kind is written, in memory.
    """
    grid = {"crs": CRS.from_epsg(epsg), "transform": Affine(metres, 0, 1.25, 0, -metres, 2.75)}
    marks = (np.arange(shape[0] * shape[1]) % 241 + 1).astype(dtype).reshape(shape)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=1, height=shape[0], width=shape[1], dtype=dtype, nodata=nodata, **grid
        ) as file:
            file.write(marks, 1)
        whole = memory.read()
    return whole, whole.index(marks.tobytes()), whole.index(struct.pack("=2d", 1.25, 2.75))


def _write_band(path: Path, image: np.ndarray, name: dict, metres: int, nodata: int | None = None) -> None:
    """One band as an uncompressed GeoTIFF on the grid of its patch."""
    whole, pixels, corner = _template(image.shape, image.dtype.name, metres, name["epsg"], nodata)
    whole = bytearray(whole)
    whole[pixels : pixels + image.nbytes] = image.tobytes()
    whole[corner : corner + 16] = struct.pack("=2d", name["west"], name["north"])
    path.write_bytes(whole)


def _write_map(path: Path, codes: np.ndarray, name: dict) -> None:
    """The reference map as a compressed GeoTIFF."""
    height, width = codes.shape
    grid = {"crs": CRS.from_epsg(name["epsg"]), "transform": Affine(10, 0, name["west"], 0, -10, name["north"])}
    kind = {"driver": "GTiff", "compress": "deflate", "nodata": 0, "dtype": codes.dtype, "count": 1}
    with rasterio.open(path, "w", height=height, width=width, **kind, **grid) as file:
        file.write(codes, 1)


def _write_scene(job: tuple) -> dict:
    """Make scene `index` and write its files; returns its row of the metadata table."""
    root, index, seed, size, shift, clouds, lost = job
    name = _names(index, seed, size)
    scene = render_scene(
        [seed, index],
        size,
        biome=name["biome"],
        day=name["day"],
        ascending=name["ascending"],
        shift=shift,
        clouds=clouds,
    )
    s2 = root / "BigEarthNet-S2" / name["tile"] / name["patch_id"]
    s1 = root / "BigEarthNet-S1" / name["scene"] / name["s1_name"]
    reference = root / "Reference_Maps" / name["tile"] / name["patch_id"]
    for folder in (s2, reference) if lost else (s2, reference, s1):
        folder.mkdir(parents=True, exist_ok=True)
    for band in BANDS:
        _write_band(s2 / f"{name['patch_id']}_{band}.tif", scene[band], name, NATIVE[band], nodata=0)
    for band in () if lost else ("VV", "VH"):
        _write_band(s1 / f"{name['s1_name']}_{band}.tif", scene[band], name, 10)
    _write_map(reference / f"{name['patch_id']}_reference_map.tif", scene["map"], name)
    row = {key: name[key] for key in ("patch_id", "split", "country", "s1_name", "s2v1_name")}
    row |= {"labels": classes_of(scene["map"]), "contains_seasonal_snow": False, "contains_cloud_or_shadow": clouds > 0}
    return {key: row[key] for key in COLUMNS}


def generate(
    root: str | Path,
    count: int = 512,
    seed: int = 0,
    *,
    size: int = 120,
    shift: tuple[int, int] = (0, 0),
    clouds: float = 0.0,
    missing: float = 0.0,
    jobs: int | None = None,
) -> Path:
    """Write an archive of made scenes in the layout of BigEarthNet v2.

    Equal arguments give equal bytes, whatever `jobs` is. A folder that already holds the archive is left as it is.

    Args:
        root: folder of the archive, made if absent.
        count: number of scenes.
        seed: 0 or above; another seed gives other landscapes.
        size: side of the 10 m images in pixels, a multiple of 6; the reader of BigEarthNet wants 120.
        shift: (rows, cols) in whole pixels between radar and optical image; see `render_scene`.
        clouds: share of each optical image under cloud, 0..1; above 0 the scenes are listed, as BigEarthNet lists such
            patches, in the table for snow and cloud, which readers leave out unless asked.
        missing: share of scenes without radar images, 0..1; their ``s1_name`` leads to no folder.
        jobs: processes; one a processor if not given.

    Returns:
        `root`.

    Raises:
        ValueError: an argument out of range, or a folder with other contents.
    """
    root = Path(root).absolute()
    settings = _settings(count, seed, size, shift, clouds, missing)
    if _is_finished(root, settings):
        return root
    part = _fresh_part(root)
    try:
        lost = set(np.random.default_rng([seed, 10**6]).permutation(count)[: round(missing * count)].tolist())
        rows = _run([(part, index, seed, size, tuple(shift), clouds, index in lost) for index in range(count)], jobs)
        _write_tables(part, rows)
        (part / "scenes.json").write_text(json.dumps(settings, indent=2) + "\n")
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()
        if not _is_finished(root, settings):  # another process may have been faster
            part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _settings(count: int, seed: int, size: int, shift: tuple[int, int], clouds: float, missing: float) -> dict:
    """What decides an archive's bytes, checked."""
    if count < 1 or seed < 0:
        raise ValueError(f"count {count}, seed {seed}: count must be 1 or more, seed 0 or more")
    if not 0 <= missing <= 1:
        raise ValueError(f"missing {missing}: must be a share from 0 to 1")
    check_scene(size, shift, clouds)
    settings = {"generator": VERSION, "count": int(count), "seed": int(seed), "size": int(size)}
    return settings | {"shift": [int(s) for s in shift], "clouds": float(clouds), "missing": float(missing)}


def _write_tables(part: Path, rows: list[dict]) -> None:
    """The table of clear scenes, and the one of cloudy scenes; either may be empty."""
    table = pa.Table.from_pylist(rows)
    for file, cloudy in (("metadata", False), ("metadata_for_patches_with_snow_cloud_or_shadow", True)):
        chosen = pc.equal(table["contains_cloud_or_shadow"], cloudy)
        pq.write_table(table.filter(chosen), part / f"{file}.parquet")


def _run(tasks: list[tuple], jobs: int | None) -> list[dict]:
    """Rows of the table, in order; in this process where more would not pay."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = jobs or allowed or 1
    bar = {"total": len(tasks), "desc": "making scenes", "unit": "scene", "disable": not sys.stderr.isatty()}
    if jobs == 1 or len(tasks) < 12:
        return [_write_scene(task) for task in tqdm(tasks, **bar)]
    # spawn: safe in a process that already runs threads, such as a notebook's
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(tqdm(pool.map(_write_scene, tasks, chunksize=4), **bar))


def _is_finished(root: Path, settings: dict) -> bool:
    """Whether `root` holds this very archive; raises if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / "scenes.json").is_file():
        raise ValueError(
            f"{root}: not empty, and holds no archive of made scenes (no scenes.json); choose another folder"
        )
    found = json.loads((root / "scenes.json").read_text())
    other = [
        f"{key}={found.get(key)} (asked for: {value})" for key, value in settings.items() if found.get(key) != value
    ]
    if other:
        raise ValueError(f"{root}: holds scenes made with {', '.join(other)}; choose another folder or delete this one")
    return True


def _fresh_part(root: Path) -> Path:
    """An empty folder beside `root` to write in; what killed runs of this machine left there is removed."""
    root.parent.mkdir(parents=True, exist_ok=True)
    host = re.sub(r"\W", "_", socket.gethostname())
    for left in root.parent.glob(f".{root.name}.{host}-*.part"):
        if not _is_running(int(left.stem.rsplit("-", 1)[1])):
            shutil.rmtree(left, ignore_errors=True)
    part = root.parent / f".{root.name}.{host}-{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    return part


def _is_running(pid: int) -> bool:
    """Whether a process of this machine lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to someone else
        return True
    return True
