"""Each check finds its fault, and finds none where there is none."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fmlib import quality
from fmlib.data import open_dataset
from fmlib.modality import Modality

VVVH = Modality("s1", ("VV", "VH"), "dB", (-50, 20), (-11.0, -18.0), (5.0, 5.0), title="Sentinel-1")
MSI = Modality(
    "s2", ("B03", "B04", "B08"), "reflectance × 10000", (0, 10000), (750.0, 600.0, 1600.0), (250.0, 250.0, 1200.0),
    title="Sentinel-2",
)  # fmt: skip
SENSORS = {"s1": VVVH, "s2": MSI}
CLASSES = ("Arable land", "Coniferous forest", "Inland waters", "Transitional woodland, shrub", "Inland wetlands")
SPECTRA = np.array([(1000, 900, 2500), (500, 300, 2600), (600, 400, 200)], float)  # of the first three classes
BACKSCATTER = np.array([(-11, -18), (-9, -15), (-20, -28)], float)


def scene(seed, size=72):
    """A landscape of fields, forest and water, seen by both sensors, with speckle."""
    rng = np.random.default_rng(seed)
    cover = np.digitize(gaussian_filter(rng.normal(size=(size, size)), 4, mode="wrap"), (-0.02, 0.02))  # 0, 1, 2
    noise = 10 * np.log10(rng.gamma(8, 1 / 8, (2, size, size)))
    return {
        "s1": np.moveaxis(BACKSCATTER[cover], -1, 0) + noise,
        "s2": np.moveaxis(SPECTRA[cover], -1, 0) * rng.normal(1, 0.05, (3, size, size)).clip(0.5, 1.5),
        "map": cover.astype(np.uint8),
        "id": f"scene {seed}",
    }


@pytest.fixture
def scenes():
    return [scene(seed) for seed in range(8)]


def table_of(samples, sensors=SENSORS, classes=CLASSES):
    """Rows of all checks but that of speed, by check."""
    rows = quality.check_ndvi(quality.ndvi_by_cover(samples, sensors, classes))
    rows += quality.check_polarisations(quality.polarisations(samples, sensors))
    rows += quality.check_alignment(*quality.information_maps(samples, sensors))
    rows += quality.check_statistics(quality.compare_with_manifest(samples, sensors))
    rows += quality.check_pixels(samples, sensors) + quality.check_copies(samples, sensors)
    assert all(row.keys() == {"check", "found", "expected", "verdict"} for row in rows)
    return {row["check"]: row for row in rows}


def suspects(samples, **options):
    return {check for check, row in table_of(samples, **options).items() if row["verdict"] == "look at this"}


def test_nothing_is_wrong_with_good_data(scenes):
    table = table_of(scenes)
    assert {row["verdict"] for row in table.values()} == {"as expected"}
    assert len(table) == 15
    assert quality.count_verdicts(list(table.values()))["as expected"] == 15


def test_swapped_polarisations(scenes):
    swapped = [sample | {"s1": sample["s1"][::-1]} for sample in scenes]
    assert "VV less VH, Sentinel-1" in suspects(swapped)
    assert table_of(swapped)["VV less VH, Sentinel-1"]["found"].startswith("median −")


def test_linear_power_and_amplitude(scenes):
    power = [sample | {"s1": 10 ** (sample["s1"] / 10)} for sample in scenes]
    assert {"VV less VH, Sentinel-1", "median level, Sentinel-1", "mean and deviation, Sentinel-1"} <= suspects(power)
    declared = SENSORS | {"s1": VVVH.replace(unit="linear power", mean=(0.1, 0.02), std=(0.1, 0.02))}
    assert not {"VV less VH, Sentinel-1", "median level, Sentinel-1"} & suspects(power, sensors=declared)
    halved = [sample | {"s1": sample["s1"] / 2} for sample in scenes]  # 10 · log10 of an amplitude
    assert "VV less VH, Sentinel-1" in suspects(halved)


def test_swapped_red_and_near_infrared(scenes):
    swapped = [sample | {"s2": sample["s2"][[0, 2, 1]]} for sample in scenes]
    assert {"NDVI of forest, Sentinel-2", "NDVI of water, Sentinel-2"} <= suspects(swapped)
    without_map = [{key: sample[key] for key in ("s1", "s2", "id")} for sample in swapped]
    assert "NDVI, Sentinel-2" in suspects(without_map)


def test_an_offset_left_in_the_values(scenes):
    raised = [sample | {"s2": sample["s2"] + 1000} for sample in scenes]
    assert {"NDVI of forest, Sentinel-2", "mean and deviation, Sentinel-2"} <= suspects(raised)


@pytest.mark.parametrize("move", [(0, 5), (-5, 0), (3, -3)])
def test_a_shifted_sensor(scenes, move):
    moved = [sample | {"s2": np.roll(sample["s2"], move, (1, 2))} for sample in scenes]
    found = table_of(moved)["best shift, Sentinel-1 and Sentinel-2"]
    assert found["verdict"] == "look at this"
    row, column = (f"{step:+d}".replace("-", "−").replace("+0", "0") for step in move)
    assert found["found"].startswith(f"row {row}, column {column};")


def test_mistaken_partners(scenes):
    mixed = [one | {"s2": other["s2"]} for one, other in zip(scenes, scenes[3:] + scenes[:3], strict=True)]
    table = table_of(mixed)
    assert table["shared information, Sentinel-1 and Sentinel-2"]["verdict"] == "look at this"
    assert table["best shift, Sentinel-1 and Sentinel-2"]["verdict"] == "not applicable"


def test_wrong_statistics(scenes):
    scaled = SENSORS | {"s2": MSI.replace(mean=(0.079, 0.063, 0.22), std=(0.025, 0.02, 0.13))}
    assert "mean and deviation, Sentinel-2" in suspects(scenes, sensors=scaled)
    assert "mean and deviation, Sentinel-2" in suspects(scenes[:2], sensors=scaled)  # few samples find a wrong unit
    swapped = SENSORS | {"s1": VVVH.replace(mean=(-18.0, -11.0), std=(2.0, 2.0))}
    assert "mean and deviation, Sentinel-1" in suspects(scenes, sensors=swapped)


def test_copies_and_dead_bands(scenes):
    scenes[5] = scenes[2] | {"id": "again"}
    scenes[6]["s2"] = scenes[6]["s2"].copy()
    scenes[6]["s2"][1] = 7
    table = table_of(scenes)
    assert table["exact copies of images"]["found"] == "again = scene 2 (Sentinel-1), again = scene 2 (Sentinel-2)"
    assert table["bands of one value"]["found"] == "B04 in scene 6"
    assert table["bands that equal another"]["verdict"] == "as expected"
    grey = [sample | {"s2": np.repeat(sample["s2"][:1], 3, axis=0)} for sample in scenes]
    assert "B03 = B04 (Sentinel-2)" in table_of(grey)["bands that equal another"]["found"]
    assert (
        quality.exact_copies([{"s2": np.zeros((1, 2, 8)), "id": 0}, {"s2": np.zeros((1, 4, 4)), "id": 1}], "s2") == []
    )


def test_holes_missing_sensors_and_clipped_values(scenes):
    del scenes[0]["s1"]
    scenes[1]["valid"] = np.arange(72 * 72).reshape(72, 72) >= 72 * 36  # half of it
    table = table_of(scenes)
    assert table["samples that lack a sensor"]["found"] == "1 of 8"
    assert table["samples that lack a sensor"]["verdict"] == "look at this"
    assert table["pixels without data"]["found"] == "6.25 %, in 1 of 8 samples"
    assert table["pixels without data"]["verdict"] == "look at this"
    capped = [sample | {"s2": sample["s2"].clip(0, 2800)} for sample in scenes]
    [check] = [row for row in suspects(capped) if row.startswith("values beyond")]
    assert check.endswith("cut off, Sentinel-2")
    assert table[check]["verdict"] == "as expected"
    narrow = SENSORS | {"s1": VVVH.replace(valid_range=(-20, 0))}
    assert any(row.startswith("values beyond −20…0 dB") for row in suspects(scenes, sensors=narrow))


def test_holes_do_not_count_as_values(scenes):
    filled = []
    for sample in scenes:
        hole = np.zeros((72, 72), bool)
        hole[:20] = True
        filled.append({"id": sample["id"], "map": sample["map"], "valid": ~hole}
                      | {key: np.where(hole, 30000.0, sample[key]) for key in SENSORS})  # fmt: skip
    table = table_of(filled)
    assert {check for check, row in table.items() if row["verdict"] == "look at this"} == {"pixels without data"}
    assert table["alignment"]["verdict"] == "not applicable"  # equal holes would lie over each other at no shift


def test_the_sea_may_be_one_value():
    dem = Modality("dem", ("elevation",), "m", (-500, 9000), (100.0,), (100.0,), on_nodata="keep")
    samples = [{"dem": np.where(np.eye(16), 3.0, 0.0)[None], "id": i} for i in range(2)]
    assert [row["verdict"] for row in quality.check_pixels(samples, {"dem": dem})] == ["as expected"] * 3
    samples = [{"dem": np.zeros((1, 16, 16)) + i, "id": i} for i in range(2)]
    assert quality.check_copies(samples, {"dem": dem})[1]["found"] == "none"


def test_what_does_not_apply_says_so():
    grey = Modality("ir", ("IR",), "digital number", (0, 255), (120.0,), (50.0,), title="Infrared")
    stretched = VVVH.replace(unit="digital number", valid_range=(0, 255))
    samples = [{"ir": np.random.default_rng(i).normal(120, 50, (1, 40, 50 + i)), "id": i} for i in range(3)]
    table = table_of(samples, sensors={"ir": grey}, classes=())
    assert [table[check]["verdict"] for check in ("NDVI", "polarisations", "alignment")] == ["not applicable"] * 3
    assert quality.polarisations([{"s1": np.ones((2, 4, 4)), "id": 0}], {"s1": stretched}) == {}
    bare = {"Sentinel-2": {"everything": np.full(900, 0.1)}}  # desert: nothing tells red from near infrared
    assert quality.check_ndvi(bare)[0]["verdict"] == "not applicable"


# -- what covers a sample, how fast it came, where it lies --------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "covers"),
    [
        (np.array([0, 1, 0, 0, 0]), {"forest"}),
        (np.array([0, 1, 1, 0, 0]), set()),  # forest and water: which pixel is which is not known
        (np.array([0, 0, 0, 0, 1]), set()),  # wetlands are no water
        (np.int64(2), {"water"}),
        (np.int64(3), set()),
        (None, set()),
        (np.array([[1, 2], [2, 255]], np.uint8), {"forest", "water"}),  # a coarser map
    ],
)
def test_cover_is_read_from_labels_of_every_kind(label, covers):
    sample = scene(0) | ({"label": label} if label is not None else {})
    del sample["map"]
    assert set(quality.ndvi_by_cover([sample], SENSORS, CLASSES)["Sentinel-2"]) == covers | {"everything"}


@dataclasses.dataclass
class Scenes:
    """Made scenes with labels that are known before reading; reads are noted."""

    labels: np.ndarray | None = None
    name: str = "mine"
    split: str = "train"
    classes: tuple = CLASSES
    modalities: dict = dataclasses.field(default_factory=lambda: SENSORS)
    reads: list = dataclasses.field(default_factory=list)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.reads.append(index)
        return scene(index) | {"label": np.eye(5)[index % 5], "lonlat": np.array([10.0 + index, 50.0]), "place": "x"}


def test_examples_of_covers_are_those_that_show_nothing_else():
    hot = np.array([[0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0] * 5])
    data = Scenes(hot)
    quality.cover_examples(data, most=1)
    assert len(data.reads) == 2
    assert data.reads[1] == 0
    assert data.reads[0] in (2, 3)  # water first
    assert len(quality.cover_examples(data, most=9)) == 3
    assert len(quality.cover_examples(Scenes(np.array([0, 1, 1, 2, 3, 4])))) == 3
    assert quality.cover_examples(Scenes(None)) == []


def test_classes_are_counted_in_the_whole_split_where_labels_are_known():
    hot = np.eye(5)[[0, 0, 0, 1, 2, 2]]
    data = Scenes(hot)
    counts, what = quality.class_counts(data, [])
    assert counts.tolist() == [3, 1, 2, 0, 0]
    assert what == "samples, of 6 in the whole split"
    assert data.reads == []
    counts, what = quality.class_counts(Scenes(None), [data[0], data[1]])
    assert counts.tolist() == [1, 1, 0, 0, 0]
    assert what.startswith("samples, of 2 samples read")
    maps = [{"label": np.array([[0, 1], [1, 255]])}]
    counts, what = quality.class_counts(Scenes(None), maps)
    assert counts.tolist() == [1, 2, 0, 0, 0]
    assert what.startswith("pixels")


def test_samples_are_read_twice_and_timed():
    data = Scenes()
    samples, speed = quality.read_twice(data, 4, seed=1)
    assert data.reads[:4] == data.reads[4:]
    assert [sample["id"] for sample in samples] == [f"scene {index}" for index in data.reads[:4]]
    assert speed.keys() == {"first read", "second read"}
    size = sum(samples[0][key].nbytes for key in SENSORS) / 1e6
    for rate in speed.values():
        assert rate["MB/s"] == pytest.approx(rate["samples/s"] * size)
    slow, fast = ({"second read": {"samples/s": rate, "MB/s": rate}} for rate in (1.0, 500.0))
    assert quality.check_speed(slow)[0]["verdict"] == "look at this"
    assert quality.check_speed(fast)[0]["verdict"] == "as expected"


def test_coordinates_by_place():
    where = [("a", 1.0), ("b", 2.0), ("a", 3.0), ("c", np.nan), ("d", 4.0), ("a", 5.0)]
    samples = [{"id": i, "place": place, "lonlat": np.array([x, 50.0])} for i, (place, x) in enumerate(where)]
    found = quality.coordinates([*samples, {"id": 9}], most=2)
    assert list(found) == ["a", "2 other places"]
    assert found["a"][:, 0].tolist() == [1, 3, 5]
    assert found["2 other places"].shape == (2, 2)
    assert list(quality.coordinates(samples)) == ["a", "b", "d"]
    assert quality.coordinates([{"id": 9}]) == {}


def test_a_data_set_is_described_by_its_manifest_only_if_it_is_that_one():
    from fmlib.manifest import load_manifest

    manifest = load_manifest("ombria")
    real = quality.describe(Scenes(name="ombria", modalities=manifest.sensors))
    assert real[0] == {"what": "title", "here": manifest.title}
    assert any(row["here"] == manifest.traps[0] for row in real)
    mine = {row["what"]: row["here"] for row in quality.describe(Scenes(name="ombria"))}
    assert mine == {
        "title": "ombria",
        "samples (train)": "6",
        "Sentinel-1": "VV, VH in dB",
        "Sentinel-2": "B03, B04, B08 in reflectance × 10000",
    }


def test_real_pairs_are_read_right(real_data):
    """BigEarthNet's own patches: bands in order, sensors in register."""
    if not (real_data / "bigearthnet-v1").is_dir():
        pytest.skip(f"no bigearthnet-v1 under {real_data}")
    data = open_dataset("bigearthnet-v1", "train", real_data)
    samples = [data[index] for index in range(len(data))]
    table = table_of(samples, sensors=data.modalities, classes=data.classes)
    told = [row for check, row in table.items() if check.startswith(("NDVI", "VV less", "median", "best", "shared"))]
    assert {row["verdict"] for row in told} == {"as expected"}
