"""Scoring folders: pairs by name, trivial methods always in the table, bad files reported and left out."""

import csv
import itertools
import math
import statistics

import numpy as np
import pytest
from PIL import Image

from fmlib.fusion_baselines import laplacian_pyramid
from fmlib.fusion_metrics import luma, score
from fmlib.score_fusion import BASELINES, read_grey, score_folders, write_csv

METRICS = ["CC", "SCD", "PSNR"]


def save(path, pixels):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path):
    """Three pairs, the visible ones in colour, fused by two methods."""
    rng = np.random.default_rng(0)
    for number in range(3):
        ir, vi = rng.integers(0, 256, (20, 24), np.uint8), rng.integers(0, 256, (20, 24, 3), np.uint8)
        save(tmp_path / "ir" / f"{number}.png", ir)
        save(tmp_path / "vi" / f"{number}.bmp", vi)
        save(tmp_path / "half" / f"{number}.png", ir // 2 + vi[..., 0] // 2)
        save(tmp_path / "noise" / f"{number}.png", rng.integers(0, 256, (20, 24), np.uint8))
    return tmp_path


def run(folders, methods=("half", "noise"), **options) -> list[dict]:
    fused = {name: folders / name for name in methods}
    return score_folders(folders / "ir", folders / "vi", fused, **{"metrics": METRICS, **options})


def pick(rows, method, image) -> dict:
    return next(row for row in rows if (row["method"], row["image"]) == (method, image))


def problems(rows) -> dict:
    return {(row["method"], row["image"]): row["problem"] for row in rows if "problem" in row}


def test_rows_are_the_metrics_of_each_image_and_their_means(folders):
    rows = run(folders)
    assert len(rows) == (3 + 1) * (2 + len(BASELINES))
    ir, vi, half = (read_grey(folders / name) for name in ("ir/1.png", "vi/1.bmp", "half/1.png"))
    expected = {name: value.item() for name, value in score(ir, vi, half, metrics=METRICS).items()}
    assert pick(rows, "half", "1") == pytest.approx({"method": "half", "image": "1", **expected})
    means = [row for row in rows if "images" in row]
    assert [row["method"] for row in means] == ["half", "noise", *BASELINES]
    each = [pick(rows, "half", str(number))["PSNR"] for number in range(3)]
    assert means[0]["PSNR"] == pytest.approx(statistics.fmean(each))
    assert means[0]["images"] == 3


def test_trivial_methods(folders):
    rows = run(folders)
    ir, vi = read_grey(folders / "ir/0.png"), read_grey(folders / "vi/0.bmp")
    images = {
        "mean": np.floor((ir / 2 + vi / 2) + 0.5),
        "max": np.maximum(ir, vi),
        "Laplacian pyramid": laplacian_pyramid(ir, vi),
        "infrared alone": ir,
        "visible alone": vi,
    }
    for name, image in images.items():
        for metric, value in score(ir, vi, image, metrics=METRICS).items():
            assert pick(rows, name, "0")[metric] == pytest.approx(value.item(), nan_ok=True), (name, metric)
    best = max(row["PSNR"] for row in rows if row["image"] == "0")
    assert pick(rows, "mean", "0")["PSNR"] == best


def test_what_is_not_defined_is_left_out_of_means(folders):
    save(folders / "half" / "0.png", read_grey(folders / "ir/0.png"))
    rows = run(folders)
    assert math.isnan(pick(rows, "half", "0")["SCD"]), "fused − infrared is flat"
    each = [pick(rows, "half", number)["SCD"] for number in "12"]
    assert pick(rows, "half", "mean")["SCD"] == pytest.approx(statistics.fmean(each))
    assert math.isnan(pick(rows, "infrared alone", "mean")["SCD"])


def test_bad_files_are_reported_and_means_stay_comparable(folders):
    save(folders / "ir" / "lonely.png", np.zeros((20, 24), np.uint8))
    (folders / "noise" / "0.png").unlink()
    save(folders / "half" / "1.png", np.zeros((20, 25), np.uint8))
    rows = run(folders)
    found = problems(rows)
    assert found["", "lonely"] == f"in {folders / 'ir'} alone"
    assert found["noise", "0"] == "no fused image"
    assert found["half", "1"].endswith("1.png: 20 × 25 pixels, but the infrared image has 20 × 24")
    assert len(found) == 3
    for method in ("half", "noise", "mean"):
        assert pick(rows, method, "mean")["images"] == 1, "image 2 alone is there for all"
        assert pick(rows, method, "mean")["CC"] == pick(rows, method, "2")["CC"]


def test_damaged_and_deep_sources_are_reported(folders):
    (folders / "ir" / "0.png").write_bytes((folders / "ir" / "0.png").read_bytes()[:60])
    Image.fromarray(np.full((20, 24), 9000, np.uint16)).save(folders / "ir" / "1.png")
    found = problems(run(folders))
    assert set(found) == {("", "0"), ("", "1")}
    assert "0.png: cannot be read as a picture" in found["", "0"]
    assert found["", "1"].endswith("1.png: uint16, but metrics are of 8 bits; bring it to 0 … 255 and save it as uint8")


def test_pairs_too_small_for_a_metric(folders):
    big = np.random.default_rng(1).integers(0, 256, (48, 44), np.uint8)
    for folder in ("ir", "vi", "half", "noise"):
        save(folders / folder / "big.png", big)
    rows = run(folders, metrics=["VIF"])
    assert problems(rows)["", "0"] == "ir has 20 × 24 pixels; needed are 41 a side"
    assert pick(rows, "half", "mean")["VIF"] == pytest.approx(2)
    (folders / "ir" / "big.png").unlink()
    with pytest.raises(ValueError, match=r"no image that all methods have.* sources 0: ir has 20 × 24 pixels"):
        run(folders, metrics=["VIF"])


def test_conventions_reach_the_metrics(folders):
    plain, shifted = (pick(run(folders, convention=c), "half", "mean") for c in ("standard", "toolbox"))
    assert shifted["PSNR"] - plain["PSNR"] == pytest.approx(48.1308, abs=1e-4)


def test_colour_counts_by_its_luma(folders):
    with Image.open(folders / "vi" / "2.bmp") as image:
        assert (read_grey(folders / "vi" / "2.bmp") == luma(np.asarray(image).transpose(2, 0, 1))).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": ["PSRN"]}, ValueError, "no metric PSRN; there are CC"),
        ({"convention": "matlab"}, ValueError, "convention 'matlab' is not one of standard"),
        ({"methods": ["nothere"]}, FileNotFoundError, "nothere is no folder"),
        ({"methods": ["mean"]}, ValueError, "are names of the trivial methods"),
        (
            {"methods": ["other"]},
            ValueError,
            r"no image that all.* sources 0: no method has an image of it",
        ),
    ],
)
def test_bad_words(folders, options, error, message):
    save(folders / "other" / "9.png", np.zeros((20, 24), np.uint8))
    with pytest.raises(error, match=message):
        run(folders, **options)


def test_two_files_of_one_name_and_no_pair(folders):
    save(folders / "ir" / "0.bmp", np.zeros((20, 24), np.uint8))
    with pytest.raises(ValueError, match=r"0\.bmp and .*0\.png have one name"):
        run(folders)
    save(folders / "other" / "9.png", np.zeros((20, 24), np.uint8))
    with pytest.raises(ValueError, match=r"no file in .* has the same name"):
        score_folders(folders / "half", folders / "other", {})


def test_csv(folders, tmp_path):
    (folders / "noise" / "0.png").unlink()
    rows = run(folders)
    write_csv(rows, tmp_path / "new" / "scores.csv")
    with open(tmp_path / "new" / "scores.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["method", "image", *METRICS, "images", "problem"]
    assert len(table) == len(rows)
    assert float(pick(table, "half", "1")["CC"]) == pick(rows, "half", "1")["CC"], "every digit"
    assert pick(table, "infrared alone", "1")["SCD"] == "", "not defined"
    assert pick(table, "noise", "0")["problem"] == "no fused image"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["scores.csv"], "nothing is left beside it"


def test_real_folders(real_data):
    """Two published methods beside the trivial ones; their mean is that of the published values."""
    root = real_data / "fusion-metrics"
    if not root.is_dir():
        pytest.skip(f"no fused images at {root}")
    fused = {name: root / name for name in ("DenseFuse", "U2Fusion")}
    rows = score_folders(real_data / "tno" / "ir", real_data / "tno" / "vi", fused, "toolbox", METRICS)
    with open(root / "published_values.csv", encoding="utf-8") as file:
        published = [row for row in csv.DictReader(file) if row["metric"] in METRICS]
    means = {row["method"]: row for row in rows if "images" in row}
    for method, metric in itertools.product(fused, METRICS):
        values = [float(row["value"]) for row in published if (row["method"], row["metric"]) == (method, metric)]
        assert means[method]["images"] == len(values) == 5
        assert means[method][metric] == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert set(problems(rows).values()) == {"no method has an image of it"}
    assert means["mean"]["PSNR"] > max(means[method]["PSNR"] for method in fused)
