"""The scene generator: layout of its archive, physics of its images, and that equal arguments give equal bytes."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import rasterio

from fmlib.data import open_dataset
from fmlib.data.raster import tile_origin
from fmlib.scenes import archive as maker
from fmlib.scenes.archive import generate
from fmlib.scenes.biomes import BIOMES
from fmlib.scenes.render import CLASS_OF, classes_of, render_scene
from fmlib.scenes.sensors import BANDS, NATIVE

S2_NAME = re.compile(r"(S2[AB]_MSIL2A_\d{8}T\d{6}_N9999_R\d{3}_T(\d{2}[A-Z]{3}))_(\d{2})_(\d{2})")
S1_NAME = re.compile(r"(S1[AB]_IW_GRDH_1SDV_\d{8}T\d{6})_(\d{2}[A-Z]{3})_(\d{1,2})_(\d{1,2})")


def checksums(root: Path) -> dict:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("made") / "archive", 10, seed=3, jobs=1)


@pytest.fixture(scope="module")
def table(archive) -> list[dict]:
    return pq.read_table(archive / "metadata.parquet").to_pylist()


def test_every_file_has_the_published_name_size_type_and_grid(archive, table):
    assert len(table) == 10
    assert len(list(archive.rglob("*.tif"))) == 10 * (12 + 2 + 1)
    for index, row in enumerate(table):
        name = maker._names(index, 3, 120)
        truth = render_scene([3, index], biome=name["biome"], day=name["day"], ascending=name["ascending"])
        tile, square, col, row_index = S2_NAME.fullmatch(row["patch_id"]).groups()
        scene, *place = S1_NAME.fullmatch(row["s1_name"]).groups()
        assert place == [square, str(int(col)), str(int(row_index))]
        epsg, west, north = tile_origin(square)
        corner = (west + 1200 * int(col), north - 1200 * int(row_index))
        s2 = archive / "BigEarthNet-S2" / tile / row["patch_id"]
        wanted = {s2 / f"{row['patch_id']}_{band}.tif": ("uint16", NATIVE[band], 0, None) for band in BANDS}
        s1 = archive / "BigEarthNet-S1" / scene / row["s1_name"]
        wanted |= {s1 / f"{row['s1_name']}_{band}.tif": ("float32", 10, None, None) for band in ("VV", "VH")}
        maps = archive / "Reference_Maps" / tile / row["patch_id"]
        wanted[maps / f"{row['patch_id']}_reference_map.tif"] = ("uint16", 10, 0, "deflate")
        for path, (dtype, metres, nodata, compress) in wanted.items():
            with rasterio.open(path) as file:
                assert file.shape == (1200 // metres, 1200 // metres)
                assert (file.dtypes, file.nodata, file.profile.get("compress")) == ((dtype,), nodata, compress)
                assert (file.crs.to_epsg(), (file.transform.c, file.transform.f)) == (epsg, corner)
                assert (file.transform.a, file.transform.e) == (metres, -metres)
                image = file.read(1)
            assert np.array_equal(image, truth[path.stem.rsplit("_", 1)[1]])
            assert np.isfinite(image).all()
            assert image.min() != image.max() or "map" in path.name
            assert nodata is None or image.min() > 0


def test_files_have_the_same_header_as_real_ones(archive, real_data):
    for band in ("B02", "B05", "B01", "VV"):
        made, real = (
            next(root.glob(f"BigEarthNet-S?/*/*/*_{band}.tif")) for root in (archive, real_data / "bigearthnet-v2")
        )
        with rasterio.open(made) as a, rasterio.open(real) as b:
            for key in ("driver", "dtype", "nodata", "width", "height", "count", "tiled", "interleave"):
                assert a.profile.get(key) == b.profile.get(key), (band, key)
            assert a.tags() == b.tags()
            assert a.block_shapes == b.block_shapes


def test_table_has_the_published_columns_and_true_labels(archive, table, real_data):
    made = pq.read_schema(archive / "metadata.parquet")
    real = pq.read_schema(real_data / "bigearthnet-v2" / "metadata.parquet")
    assert made.names == real.names
    assert [made.field(n).type for n in made.names] == [real.field(n).type for n in real.names]
    for row in table:
        path = next((archive / "Reference_Maps").glob(f"*/{row['patch_id']}/*.tif"))
        with rasterio.open(path) as file:
            codes = file.read(1)
        shares = {name: np.isin(codes, [c for c in CLASS_OF if CLASS_OF[c] == name]).mean() for name in row["labels"]}
        assert shares, row
        assert min(shares.values()) >= 0.01
        assert row["labels"] == sorted(row["labels"]) == classes_of(codes)
        assert not row["contains_cloud_or_shadow"]


def test_class_names_are_those_of_the_real_table(real_data):
    real = pq.read_table(real_data / "bigearthnet-v2" / "metadata.parquet", columns=["labels"])["labels"]
    assert set(CLASS_OF.values()) == set(pc.unique(pc.list_flatten(real)).to_pylist())


def test_splits_are_by_place_and_in_proportion():
    names = [maker._names(index, 0, 120) for index in range(512)]
    places = {s: {n["patch_id"].split("_T")[1][:5] for n in names if n["split"] == s} for s in maker.SPLITS}
    assert not places["train"] & places["test"]
    assert not places["train"] & places["validation"]
    assert not places["validation"] & places["test"]
    counts = {split: sum(n["split"] == split for n in names) / 512 for split in places}
    assert counts == pytest.approx({"train": 0.6, "validation": 0.2, "test": 0.2}, abs=0.01)
    for split in places:
        assert {n["biome"] for n in names if n["split"] == split} == set(BIOMES)
    assert len({n["patch_id"] for n in names}) == len({n["s1_name"] for n in names}) == 512


def test_tile_origins_are_those_of_real_patches():
    # EPSG code and corner, measured on patches of BigEarthNet
    assert tile_origin("33UUP") == (32633, 300000, 5400000)
    assert tile_origin("35VPK") == (32635, 600000, 7000020)
    assert tile_origin("29SND") == (32629, 499980, 4400040)
    assert tile_origin("29UPU") == (32629, 600000, 5900040)


def test_equal_arguments_give_equal_bytes_whatever_the_jobs(tmp_path):
    one = checksums(generate(tmp_path / "one", 12, seed=5, size=24, clouds=0.2, missing=0.25, jobs=1))
    two = checksums(generate(tmp_path / "two", 12, seed=5, size=24, clouds=0.2, missing=0.25, jobs=2))
    assert one == two
    other = checksums(generate(tmp_path / "other", 1, seed=6, size=24, clouds=0.2, missing=0.25))
    images = [name for name in other if name.endswith("B08.tif")]
    assert all(one[name] != other[name] for name in images if name in one)


def test_a_scene_does_not_depend_on_how_many_there_are(tmp_path, archive):
    few = checksums(generate(tmp_path / "few", 2, seed=3))
    many = checksums(archive)
    images = [name for name in few if name.endswith(".tif")]
    assert len(images) == 30
    assert all(few[name] == many[name] for name in images)


def test_a_finished_folder_is_kept_and_other_arguments_are_refused(tmp_path):
    root = generate(tmp_path / "made", 1, size=24)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert generate(root, 1, size=24) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with pytest.raises(ValueError, match=r"seed=0 \(asked for: 4\).*choose another folder or delete"):
        generate(root, 1, seed=4, size=24)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("keep me")
    with pytest.raises(ValueError, match=r"no scenes\.json"):
        generate(foreign, 1, size=24)
    assert (foreign / "thesis.txt").read_text() == "keep me"


def test_an_interrupted_run_leaves_nothing_and_starts_again(tmp_path, monkeypatch):
    whole = maker._write_scene

    def stop_at_two(job):
        if job[1] == 2:
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr(maker, "_write_scene", stop_at_two)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "made", 4, size=24, jobs=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(maker, "_write_scene", whole)
    dead = maker._fresh_part(tmp_path / "made")
    dead = dead.rename(re.sub(r"-\d+\.part", "-999999999.part", str(dead)))  # as a killed run leaves it
    root = generate(tmp_path / "made", 4, size=24, jobs=1)
    assert list(tmp_path.iterdir()) == [root]
    assert json.loads((root / "scenes.json").read_text())["count"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count must be 1 or more"),
        ({"seed": -1}, "seed 0 or more"),
        ({"size": 100}, "multiple of 6"),
        ({"shift": (9, 0)}, "from -8 to 8"),
        ({"shift": (0.5, 0)}, "whole numbers"),
        ({"clouds": 1.5}, "clouds 1.5: must be a share"),
        ({"missing": -0.1}, "missing -0.1: must be a share"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "made", **{"count": 1, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_missing_scenes_have_no_radar_folder(tmp_path):
    root = generate(tmp_path / "made", 8, size=24, missing=0.25)
    rows = pq.read_table(root / "metadata.parquet").to_pylist()
    found = [any((root / "BigEarthNet-S1").glob(f"*/{row['s1_name']}")) for row in rows]
    assert found.count(False) == 2
    assert len(list((root / "BigEarthNet-S2").glob("*/*"))) == 8


def test_archive_with_clouds_says_so(tmp_path):
    root = generate(tmp_path / "made", 2, size=24, clouds=0.3)
    assert pq.read_table(root / "metadata.parquet").num_rows == 0
    cloudy = pq.read_table(root / "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
    assert cloudy["contains_cloud_or_shadow"].to_pylist() == [True, True]
    assert cloudy.schema == pq.read_schema(root / "metadata.parquet")


def test_the_reader_opens_what_is_made(tmp_path):
    generate(tmp_path / "synthetic", 5, missing=0.2)
    kept = open_dataset("synthetic", "train", root=tmp_path, on_missing="keep")
    whole = open_dataset("synthetic", "train", root=tmp_path, on_missing="skip")
    assert len(kept) == 3
    assert len(whole) >= 2
    assert whole[0]["s1"].shape == (2, 120, 120)
    assert whole[0]["s2"].shape == (12, 120, 120)
