"""Every exercise has a worked solution that runs, small, on made scenes, and says what the texts around it say."""

import json
import re
import shutil
from pathlib import Path

import pytest
from notebook_runs import run_here
from test_notebooks import FOLDER, SOLUTIONS, cells_of, is_parameters, lines_of, section

from fmlib.params import read_parameters
from fmlib.sources import FMLIB

REPO = FMLIB.parent

SMALL = {  # parameters that make a solution run in seconds
    "00_solutions": {},
    "01_solutions": {"samples": 6},
    "01b_solutions": {"samples": 6, "max_shift": 7},
    "02_solutions": {"jobs": 0, "steps": 2, "batch_size": 4, "test_samples": 8},
    "03_solutions": {"jobs": 0, "img_size": 24, "train_crop": 24, "steps": 2, "batch_size": 4, "test_samples": 8},
    "04_solutions": {"jobs": 0, "steps": 2, "batch_size": 4, "test_samples": 4},
    "05_solutions": {
        "jobs": 0,
        "img_size": 24,
        "train_crop": 24,
        "steps": 2,
        "batch_size": 4,
        "seeds": 2,
        "tune_steps": 1,
    },
    "06_solutions": {
        "jobs": 0,
        "made_pairs": 5,
        "test_pairs": 1,
        "encoder_steps": 2,
        "encoder_batch_size": 4,
        "steps": [2, 1, 2],
        "batch_size": 2,
    },
    "07_solutions": {"pixel_steps": 2, "image_steps": 1, "map_steps": 1, "warmup": 1, "batch_size": 4},
    "08_solutions": {"steps": 1, "twin_steps": 20, "warmup": 1, "batch_size": 4},
    "09_solutions": {"img_size": 32, "img_sizes": [16, 32], "batch_size": 4, "seconds": 0.02},
    "10_solutions": {"results": str(REPO / "reports" / "published")},
}
each_solution = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)


def lesson_of(path: Path) -> Path:
    return next(FOLDER.glob(f"{path.stem.partition('_')[0]}_*.ipynb"))


def in_one_line(text: str) -> str:
    return " ".join(re.sub(r"[*`]", "", text).split())


@each_solution
def test_it_restates_the_three_exercises_of_its_lesson(path):
    asked = re.findall(r"(?m)^\d\. (.*)$", section(lesson_of(path), "Exercises"))
    prose = in_one_line("\n".join(cell.source for cell in cells_of(path, "markdown")))
    titles = re.findall(r"(?m)^## (\d)\. \S", "\n".join(cell.source for cell in cells_of(path, "markdown")))
    assert titles == ["1", "2", "3"]
    for question in asked:  # the last sentence is what is asked
        last = re.split(r"(?<=[.?!]) (?=[A-Z])", in_one_line(question))[-1]
        assert last in prose, f"not restated: {question}"


@each_solution
def test_it_keeps_the_form(path):
    assert f"](../{lesson_of(path).name})" in cells_of(path, "markdown")[0].source
    for cell in cells_of(path, "code"):
        assert is_parameters(cell) or len(lines_of(cell)) <= 8, f"longer than 8 lines:\n{cell.source}"
        assert not re.search(r"(?m)^ *(def|class) ", cell.source)


@pytest.fixture(scope="module")
def metrics(scenes, tmp_path_factory):
    """Runs a solution once and returns what it found."""
    found = {}

    def run(name: str, **more) -> dict:
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            values = {"data_root": str(scenes), "out": str(folder / "run")} | SMALL[name] | more
            run_here(FOLDER / "exercises" / f"{name}.ipynb", values, folder)
            found[name] = json.loads((folder / "run" / "metrics.json").read_text())
        return found[name]

    return run


def test_a_slip_is_refused_and_a_picture_needs_no_statistics(metrics):
    found = metrics("00_solutions")
    assert found["headline"]["status of the slip"] == 1
    assert {"unit", "rgb", "title"} <= {*found["used"]}
    assert not {"mean", "std"} & {*found["used"]}


def test_smoothing_uncovers_information_and_large_windows_lower_the_looks(metrics):
    found = metrics("01_solutions")["headline"]
    assert found["information, sigma 0"] < found["information, sigma 2"]
    assert found["looks, window 5"] > found["looks, window 9"] > found["looks, window 25"]


def test_swapped_bands_are_found_and_the_ring_follows_the_shift(metrics):
    found = metrics("01b_solutions")
    assert found["headline"]["rows that the swap changed"] >= 1
    columns = {row["moved by, pixels"]: re.search(r"column ([+−]?\d+)", row["found"])[1] for row in found["alignment"]}
    columns = {shift: int(text.replace("−", "-")) for shift, text in columns.items()}
    assert columns[3] - columns[0] == 3
    assert next(row["verdict"] for row in found["alignment"] if row["moved by, pixels"] == 5) != "as expected"


def test_without_fusion_no_partner_matters(metrics):
    found = metrics("02_solutions")["headline"]
    assert {found[f"no fusion, {sensor}: gain"] for sensor in ("s1", "s2")} == {0}
    assert any(found[f"as in the lesson, {sensor}: gain"] != 0 for sensor in ("s1", "s2"))


def test_ablations_cover_what_was_asked(metrics):
    found = metrics("03_solutions")
    assert {row["mask_strategy"] for row in found["table"]} == {"independent", "consistent", "disjoint"}
    assert {row["fusion"] for row in found["table"]} == {"xad", "xaed"}
    assert [row["variant"] for row in found["dropout"]] == ["0", "0.2", "0.4"]


def test_only_joint_layers_choose_where_to_look(metrics):
    found = metrics("04_solutions")
    share = {(row["stage"], row["query"]): row["ratio 0.9"][0] for row in found["share"]}
    assert {share[stage, sensor] for stage in ("early", "late") for sensor in ("s1", "s2")} == {1}
    assert all(0 < share[f"blocks.{number}", "s1"] < 1 for number in range(3))
    assert {row["stage"] for row in found["followed"]} == {
        "early",
        "late",
        *(f"blocks.{number}" for number in range(3)),
    }


def test_every_change_of_the_fusion_is_scored(metrics):
    rows = metrics("06_solutions")["table"]
    assert {(row["method"], row["study"]) for row in rows} == {
        ("CFM + MFM", "as in the lesson"),
        ("open decoder", "as in the lesson"),
        ("CFM + MFM", "with intensity"),
        ("CFM + MFM", "patches of 8"),
    }
    assert len({row["SD"] for row in rows}) == 4


def test_more_weights_more_steps_and_one_sensor_alone(metrics):
    found = metrics("07_solutions")
    weights = {row["model"]: row["parameters"] for row in found["table"]}
    assert weights["S1 alone"] < weights["concatenation"] < weights["MsIFT"]
    assert {row["task"] for row in found["longer"]} == {"pixel", "image", "segmentation"}
    assert all({"once", "twice"} <= row.keys() for row in found["longer"])
    ahead = [row["s1 less s2"] for row in found["recall"]]
    assert ahead == sorted(ahead, reverse=True)


def test_a_sensor_that_stays_loses_nothing(metrics):
    found = metrics("08_solutions")
    loss = {(row["model"], row["moved"]): row["loss"] for row in found["table"]}
    assert loss["S1 alone", "s2"] == loss["S2 alone", "s1"] == 0
    assert any(loss[model, "s2"] != 0 for model in ("MsIFT", "concatenation", "S2 alone"))
    assert [row["steps"] for row in found["twins"]] == [2, 2, 20, 20]


def test_claims_are_judged_twice_and_targets_compared(metrics):
    found = metrics("05_solutions")
    assert {"half", "all", "width, half", "width, all"} <= found["claims"][0].keys()
    assert {row["target"] for row in found["targets"]} == {"none", "patch"}
    assert {"linear", "finetuned"} <= found["targets"][0].keys()


def test_every_solution_is_run():
    assert {path.stem for path in SOLUTIONS} == SMALL.keys()
    for path in SOLUTIONS:
        assert SMALL[path.stem].keys() <= {p.name for p in read_parameters(path)}


def test_work_is_counted_and_falls_less_than_the_patches(metrics):
    found = metrics("09_solutions")
    assert 1 < found["headline"]["a quarter of the patches: work, counted"] < 4
    one, two, three = (row["GFLOP a step"] for row in found["sensors"])
    assert one < two < three
    assert all(row["times"] == pytest.approx(row["tiny"] / row["nano"]) for row in found["table"])


def test_a_verdict_that_differs_from_the_published_one_is_shown(metrics, tmp_path):
    run = tmp_path / "05_evaluate"
    shutil.copytree(REPO / "reports" / "published" / "05_evaluate_ombria", run)
    results = json.loads((run / "metrics.json").read_text())
    claim = results["claims"][0]
    claim["verdict"] = "confirmed" if claim["verdict"] != "confirmed" else "refuted"
    (run / "metrics.json").write_text(json.dumps(results))
    found = metrics("10_solutions", own=str(tmp_path))
    assert [row["claim"] for row in found["table"] if not row["same"]] == [claim["claim"]]
    assert len(found["table"]) == len(results["claims"])
    assert all(row["by the rule, at most"] >= row["by mean alone"] for row in found["bold"])
