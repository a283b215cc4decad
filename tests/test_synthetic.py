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
from scipy.ndimage import uniform_filter

from fmlib.data import synthetic
from fmlib.data.biomes import BIOMES, COVER
from fmlib.data.parcels import subdivide
from fmlib.data.radar import LOOKS, speckle
from fmlib.data.scenes import CLASS_OF, classes_of, render_scene
from fmlib.data.sensors import BANDS, NATIVE
from fmlib.data.synthetic import generate, tile_origin

S2_NAME = re.compile(r"(S2[AB]_MSIL2A_\d{8}T\d{6}_N9999_R\d{3}_T(\d{2}[A-Z]{3}))_(\d{2})_(\d{2})")
S1_NAME = re.compile(r"(S1[AB]_IW_GRDH_1SDV_\d{8}T\d{6})_(\d{2}[A-Z]{3})_(\d{1,2})_(\d{1,2})")


def ndvi(scene: dict) -> np.ndarray:
    red, infrared = scene["B04"].astype(float), scene["B08"].astype(float)
    return (infrared - red) / (infrared + red)


def checksums(root: Path) -> dict:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("made") / "archive", 10, seed=3, jobs=1)


@pytest.fixture(scope="module")
def table(archive) -> list[dict]:
    return pq.read_table(archive / "metadata.parquet").to_pylist()


@pytest.fixture(scope="module")
def scenes() -> list[dict]:
    return [render_scene([11, k], biome=list(BIOMES)[k % 6], day=150 + 5 * k) for k in range(18)]


def test_every_file_has_the_published_name_size_type_and_grid(archive, table):
    assert len(table) == 10
    assert len(list(archive.rglob("*.tif"))) == 10 * (12 + 2 + 1)
    for index, row in enumerate(table):
        name = synthetic._names(index, 3, 120)
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
    names = [synthetic._names(index, 0, 120) for index in range(512)]
    places = {s: {n["patch_id"].split("_T")[1][:5] for n in names if n["split"] == s} for s in synthetic.SPLITS}
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
    whole = synthetic._write_scene

    def stop_at_two(job):
        if job[1] == 2:
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr(synthetic, "_write_scene", stop_at_two)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "made", 4, size=24, jobs=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(synthetic, "_write_scene", whole)
    dead = synthetic._fresh_part(tmp_path / "made")
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


def test_an_unknown_biome_is_refused():
    with pytest.raises(ValueError, match="unknown biome 'moon'; choose one of continental"):
        render_scene(0, 24, biome="moon")


def test_missing_scenes_have_no_radar_folder(tmp_path):
    root = generate(tmp_path / "made", 8, size=24, missing=0.25)
    rows = pq.read_table(root / "metadata.parquet").to_pylist()
    found = [any((root / "BigEarthNet-S1").glob(f"*/{row['s1_name']}")) for row in rows]
    assert found.count(False) == 2
    assert len(list((root / "BigEarthNet-S2").glob("*/*"))) == 8


@pytest.mark.parametrize("looks", [1.5, LOOKS, 7.0])
def test_speckle_has_the_stated_looks(looks):
    image = speckle(np.random.default_rng(0), (8, 240, 240), looks)
    assert image.mean() == pytest.approx(1, abs=0.01)
    assert image.mean() ** 2 / image.var() == pytest.approx(looks, rel=0.03)
    assert np.corrcoef(image[..., 1:].ravel(), image[..., :-1].ravel())[0, 1] == pytest.approx(0.77, abs=0.02)


def test_homogeneous_ground_has_the_stated_looks_in_power():
    power = []
    for seed in range(6):
        scene = render_scene([seed, 9], 240, biome="coast", day=200)
        calm = scene["map"] == 523
        level = np.median(scene["VV_clean"][calm]) if calm.any() else 0
        flat = calm & (np.abs(scene["VV_clean"] - level) < 0.15)  # the same ground to 0.15 dB
        linear = 10 ** (scene["VV"][flat].astype(float) / 10)
        power.append(linear / linear.mean() if len(linear) else linear)
    power = np.concatenate(power)
    assert len(power) > 30000
    assert 1 / power.var() == pytest.approx(LOOKS, rel=0.06)


def test_vegetation_soil_and_water_have_their_index(scenes):
    index = np.concatenate([ndvi(s).ravel() for s in scenes])
    cover = np.concatenate([s["cover"].ravel() for s in scenes])
    median = {name: np.median(index[cover == COVER[name]]) for name in ("conifer", "broadleaf", "grass", "lake", "sea")}
    assert 0.6 < median["conifer"] < 0.85
    assert 0.65 < median["broadleaf"] < 0.9
    assert 0.5 < median["grass"] < 0.85
    assert median["lake"] < 0
    assert median["sea"] < 0
    bare = render_scene(4, biome="continental", day=275)  # after harvest and ploughing
    fields = ndvi(bare)[bare["map"] == 211]
    assert 0.08 < np.quantile(fields, 0.1) < 0.3


def test_radar_sees_water_dark_and_towns_bright(scenes):
    vv = np.concatenate([s["VV"].ravel() for s in scenes])
    vh = np.concatenate([s["VH"].ravel() for s in scenes])
    code = np.concatenate([s["map"].ravel() for s in scenes])
    mean = {
        k: vv[np.isin(code, v)].mean() for k, v in {"water": (512, 523), "wood": (311, 312), "town": (111, 112)}.items()
    }
    assert mean["water"] + 4 < mean["wood"] < mean["town"] - 1
    assert 4 < (vv - vh).mean() < 10


def test_statistics_are_of_the_order_of_bigearthnet(scenes):
    # mean of the training split of BigEarthNet v2, as published with ConfigILM
    published = {"B02": 438, "B03": 614, "B04": 588, "B08": 2193, "B11": 1568, "B12": 998}
    for band, mean in published.items():
        assert 0.6 < np.mean([s[band].mean() for s in scenes]) / mean < 1.6, band
    assert np.mean([s["VV"].mean() for s in scenes]) == pytest.approx(-12.6, abs=2)
    assert np.mean([s["VH"].mean() for s in scenes]) == pytest.approx(-19.4, abs=2.5)


def test_the_20_and_60_m_bands_show_the_same_ground(scenes):
    for scene in scenes[:4]:
        fine = scene["B08"].reshape(60, 2, 60, 2).mean((1, 3))
        assert np.corrcoef(fine.ravel(), scene["B8A"].ravel())[0, 1] > 0.98
        assert scene["B09"].shape == (20, 20)


def r2_of_least_squares(features, target, split) -> float:
    """R² on scenes not fitted; features and target are lists, one array a scene."""
    design = [np.stack([np.ones_like(t), *f], 1) for f, t in zip(features, target, strict=True)]
    fit = np.linalg.lstsq(np.concatenate(design[:split]), np.concatenate(target[:split]), rcond=None)[0]
    truth = np.concatenate(target[split:])
    return 1 - np.mean((np.concatenate(design[split:]) @ fit - truth) ** 2) / truth.var()


def test_each_sensor_tells_something_but_not_all_of_the_other(scenes):
    smooth = lambda image: uniform_filter(image.astype(float), 9)[4::9, 4::9].ravel()  # noqa: E731
    radar = [[smooth(s["VV"]), smooth(s["VH"])] for s in scenes]
    radar = [[vv, vh, vv - vh, vh**2, vv * vh] for vv, vh in radar]
    green = [smooth(ndvi(s)) for s in scenes]
    assert 0.25 < r2_of_least_squares(radar, green, 12) < 0.92
    optical = [[smooth(s[b]) / 1e4 for b in ("B02", "B03", "B04", "B08")] for s in scenes]
    optical = [[*bands, index, index**2] for bands, index in zip(optical, green, strict=True)]
    assert 0.25 < r2_of_least_squares(optical, [smooth(s["VH"]) for s in scenes], 12) < 0.92
    wrong = [*green[1:], green[0]]  # of another place
    assert r2_of_least_squares(radar, wrong, 12) < 0.15


def test_shift_moves_the_radar_image_and_nothing_else():
    straight, moved = (render_scene(2, 60, biome="continental", day=160, shift=s) for s in ((0, 0), (3, -5)))
    assert np.allclose(moved["VV_clean"][3:, :-5], straight["VV_clean"][:-3, 5:], atol=1e-4)
    assert not np.allclose(moved["VV_clean"], straight["VV_clean"], atol=0.5)
    for name in (*BANDS, "map", "thermal"):
        assert np.array_equal(moved[name], straight[name])


def test_clouds_cover_their_share_of_the_optical_image_only():
    clear, cloudy = (render_scene(2, 60, biome="atlantic", day=160, clouds=c) for c in (0.0, 0.4))
    cloud = cloudy["cloud"]
    assert cloud.mean() == pytest.approx(0.4, abs=0.01)
    assert not clear["cloud"].any()
    gain = cloudy["B02"].astype(float) - clear["B02"]
    assert gain[cloud].mean() > 1500
    darkened = gain[~cloud] < -60
    assert darkened.mean() > 0.02  # shadows
    for name in ("VV", "VH", "map"):
        assert np.array_equal(cloudy[name], clear[name])


def test_archive_with_clouds_says_so(tmp_path):
    root = generate(tmp_path / "made", 2, size=24, clouds=0.3)
    assert all(row["contains_cloud_or_shadow"] for row in pq.read_table(root / "metadata.parquet").to_pylist())


def test_heat_and_height_are_physical(scenes):
    for scene in scenes:
        assert scene["thermal"].shape == scene["elevation"].shape == (120, 120)
        assert scene["thermal"].min() > 255
        assert scene["thermal"].max() < 335
        assert scene["elevation"].min() > -60
        assert scene["elevation"].max() < 4000
    warm = np.mean([s["thermal"][np.isin(s["map"], (111, 112))].mean() - s["thermal"].mean()
                    for s in scenes if (s["map"] == 112).mean() > 0.03])  # fmt: skip
    assert warm > 0.5


def test_scenes_differ_and_a_generator_seeds_them(scenes):
    maps = {scene["map"].tobytes() for scene in scenes}
    assert len(maps) == len(scenes)
    one, two = (render_scene(np.random.default_rng(8), 24) for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_parcels_are_of_the_size_and_shape_asked_for():
    rows, cols = np.mgrid[:120, :120]
    strips = subdivide(np.random.default_rng(0), cols.ravel(), rows.ravel(), np.zeros(14400, int), 300, elongation=4.0)
    counts = np.bincount(strips)
    assert 200 < counts.mean() < 600
    assert counts.max() < 300 * 2.6 * 1.01
    again = subdivide(np.random.default_rng(0), cols.ravel(), rows.ravel(), np.zeros(14400, int), 300, elongation=4.0)
    assert np.array_equal(strips, again)
