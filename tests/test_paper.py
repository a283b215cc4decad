"""A paper's figures and tables: numbers are those of runs, the best is bold by the rule, what is absent is said."""

import csv
import io
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from figures import all_text, assert_tidy

from fmlib import latex, paper, viz
from fmlib import paper_figures as story
from fmlib.evaluate import partner_gains
from fmlib.latex import PaperTable, best_rows, latex_text
from fmlib.msift_study import score_table
from fmlib.paper_tables import tables
from fmlib.run import finish
from fmlib.tables import pivot

PUBLISHED = Path(__file__).resolve().parent.parent / "reports" / "published"
FIGURES = {
    "02_pretrain_fusmae": [(viz.partner_errors, story.partners)],
    "03_masking_ablation": [
        (viz.ablation_heat_map, story.band_errors),
        (viz.ablation_heat_map, story.strategy_scores),
        (viz.ablation_dots, story.variants),
    ],
    "05_evaluate": [(viz.sensor_gain, story.sensors), (viz.label_curves, story.labels)],
    "06_fuse_infrared_visible": [(viz.fusion_scores, story.fusion_scores)],
    "07_msift_three_tasks": [(viz.ablation_dots, story.tasks)],
    "08_misalignment": [(viz.displacement_curves, story.shifts)],
    "09_throughput": [(viz.cost_curves, story.costs)],
}
WITHOUT_RUNS = (viz.partner_errors, viz.cost_curves)  # figures that do not say how many
CLAIM = {"better": 0.72, "worse": 0.74, "difference": -0.02, "low": -0.03, "high": -0.01, "verdict": "refuted"}


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


def pretraining(seeds):
    rows = [
        {"fusion": fusion, "seed": s, "sensor": sensor, "partner": partner, "error": error + 0.01 * s}
        for fusion in ("xad", "xaed")
        for s in seeds
        for sensor in ("s1", "s2")
        for partner, error in (("true", 0.8), ("wrong", 0.9), ("none", 0.85))
    ]
    return {"table": partner_gains(rows), "errors": []}


def masking(seeds):
    std = 0.01 if len(seeds) > 1 else 0.0  # as `summarise` has it
    cells = [
        {"fusion": "xaed", "mask_strategy": strategy, "mask_ratio": ratio, "seed": s}
        for strategy in ("independent", "disjoint")
        for ratio in (0.5, 0.75)
        for s in seeds
    ]
    bands = [row | {"band": band, "error": 3 + 0.1 * row["seed"]} for row in cells for band in ("s1 VV", "s2 B03")]
    asked = [
        {"question": "target", "variant": variant, "what": what, "score": 0.7 + 0.01 * s}
        for variant in ("raw", "normalised")
        for what in ("mIoU, s1+s2", "mIoU, s1", "error, s1")
        for s in seeds
    ]
    return {
        "headline": {"independent, 0.5": [0.71, std], "independent, 0.75": [0.72, std], "disjoint, 0.5": [0.7, std]},
        "bands": pivot(bands, ("fusion", "mask_strategy", "mask_ratio"), lambda row: row["band"], "error"),
        "questions": pivot(asked, ("question", "variant"), lambda row: row["what"], "score"),
    }


def evaluation(seeds):
    rows = [
        {"task": task, "model": model, "sensors": sensors, "fraction": share, "score": 0.6 + 0.1 * share + 0.01 * s}
        for task in ("segmentation", "single")
        for model in ("Fus-MAE XAE&D", "random weights")
        for sensors in ("s1", "s1+s2")
        for share in (0.004, 1.0)
        for s in seeds
    ]
    table = pivot(rows, ("task", "model"), "{sensors}, {fraction:.0%} of labels".format_map, "score")
    touching = [{"model": "Fus-MAE XAE&D", "method": "linear", "35 touching": [0.75, 0.01], "35 apart": [0.69, 0.02]}]
    claims = [{"claim": "Fus-MAE XAE&D beats Fus-MAE XAD"} | CLAIM]
    return {"table": table, "claims": claims, "touching": touching}


def fusion(seeds):
    values = {"CFM + MFM": 0.02, "token mean": 0.0, "mean": 0.01}
    rows = [
        {"method": method, "metric": metric, "value": 0.6 + more + 0.01 * s}
        for method, more in values.items()
        for metric in ("CC", "Nabf", "block noise")
        for s in (seeds if method != "mean" else [0])
    ]
    return {"table": pivot(rows, ("method",), lambda row: row["metric"], "value")}


def three_tasks(seeds):
    scores = {"parameters": 1000, "accuracy": 0.8, "kappa": 0.5, "miou": 0.6}
    rows = [
        {"task": task, "model": model, "class_accuracy": 0.7 + 0.01 * s} | scores
        for task in ("pixel", "segmentation")
        for model in ("MsIFT", "concatenation")
        for s in seeds
    ]
    classes = [{"class": "water & ice", "MsIFT": [0.9, 0.01], "concatenation": 0.8}]
    claims = [{"task": "pixel", "claim": "MsIFT beats concatenation"} | CLAIM]
    return {"table": score_table(rows), "classes": classes, "claims": claims, "splits": []}


def out_of_place(seeds):
    cells = itertools.product(("MsIFT", "concatenation", "S1 alone"), (0.0, 16.0), (0.0, 8.0), seeds)
    rows = [
        {"model": model, "shift_train": train, "amount": amount, "miou": 0.8 - 0.01 * amount + 0.01 * s}
        for model, train, amount, s in cells
    ]
    rows = [row | ({"miou": 0.6} if "alone" in row["model"] else {}) for row in rows]
    names = {"turned": "rotated {amount:g}°", "scaled": "scaled {amount:.0%}"}
    more = {k: pivot(rows, ("model", "shift_train"), text.format_map, "miou") for k, text in names.items()}
    claims = [{"claim": "MsIFT loses less than concatenation at 8 px", "measure": "loss of mIoU"} | CLAIM]
    table = pivot(rows, ("model", "shift_train"), "{amount:g} px".format_map, "miou")
    return {"table": table, "twins": [{"model": "trained aligned", "followed": 0.1}], "claims": claims} | more


def throughput(seeds):
    cost = [{"axis": "depth", "value": n, "count": n, "gflop": 3.0 * n, "ms": 5.0 * n} for n in (3, 6, 12)]
    slopes = [{"axis": "depth", "along": "encoder blocks", "gflop": 1.0, "ms": 1.0}]
    gains = [{"way": "fused", "alone": 1.2, "left_out": 1.1}, {"way": "all together", "alone": 1.3, "left_out": None}]
    return {"table": gains, "cost": cost, "exponents": slopes}


RESULTS = (pretraining, masking, evaluation, fusion, three_tasks, out_of_place, throughput)
MADE = dict(zip(FIGURES, RESULTS, strict=True))


def leave(folder: Path, notebook: str, seeds: int = 3, data: str = "ombria", started: str = "2026-01-01") -> None:
    """A run folder as `fmlib.run` leaves it."""
    finish({"title": f"Results on {data}", "headline": {}} | MADE[notebook](range(seeds)), folder)
    params = {"data": data, "seeds": seeds, "pixel_seeds": seeds, "fusions": ["xaed"], "fractions": [0.004, 1.0]}
    stamp = {"notebook": notebook, "commit": "0123456789abcdef", "dirty": False, "params": params, "started": started}
    (folder / "stamp.json").write_text(json.dumps(stamp))


@pytest.fixture(params=[1, 3], ids=["one seed", "three seeds"])
def results(request, tmp_path):
    for i, notebook in enumerate(MADE):
        leave(tmp_path / f"run{i}", notebook, request.param)
    return tmp_path


def test_runs_are_known_by_their_stamp_and_the_latest_counts(results):
    leave(results / "later", "05_evaluate", data="houston2013", started="2026-02-01")
    leave(results / ".half.running", "05_evaluate", started="2026-03-01")
    (results / "empty").mkdir()
    runs = paper.find_runs(results)
    assert list(runs) == list(FIGURES)
    assert runs["05_evaluate"].folder.name == "later"
    assert runs["06_fuse_infrared_visible"].folder.name == "run3"
    assert paper.find_runs(results, "ombria")["05_evaluate"].folder.name == "run2"
    assert list(paper.find_runs(results, "houston2013")) == ["05_evaluate"]


def test_damaged_results_are_named(results):
    (results / "run0" / "metrics.json").write_text('{"title": ')
    with pytest.raises(ValueError, match=r"run0/metrics\.json is not JSON .* run its notebook again"):
        paper.find_runs(results)


@pytest.mark.parametrize("notebook", FIGURES)
def test_every_figure_is_drawn_and_says_its_spread(results, notebook):
    runs = paper.find_runs(results)
    for figure, choose in FIGURES[notebook]:
        fig = story.draw(runs, notebook, figure, choose)
        assert_tidy(fig)
        if figure not in WITHOUT_RUNS:
            seeds = runs[notebook].seeds()
            assert ("over 3 runs" if seeds == 3 else "one run each") in " ".join(all_text(fig).split())


def test_what_is_absent_is_said_and_not_drawn(tmp_path):
    assert paper.find_runs(tmp_path / "nowhere") == {}
    assert tables({}) == []
    rows = paper.inventory({}, "reports/quick")
    assert len(rows) == 7
    assert rows[0]["run"].endswith("make it with: fmlib run notebooks/02_pretrain_fusmae.ipynb --profile quick")
    fig = story.draw({}, "05_evaluate", viz.sensor_gain, story.sensors)
    assert not fig.axes
    assert "no run of 05_evaluate was found" in " ".join(all_text(fig).split())


def test_figures_show_the_mean_and_the_deviation_of_the_table():
    rows = story.each_seed({"model": "a"}, "miou", [0.7, 0.02], 3)
    [cell] = viz.evaluation.spread(rows, ["model"], "miou")
    assert (cell["miou"], cell["std"], cell["runs"]) == (pytest.approx(0.7), pytest.approx(0.02), 3)
    assert story.each_seed({}, "miou", 0.7, 3) == [{"seed": 0, "miou": 0.7}]
    assert story.each_seed({}, "miou", None, 3) == []


def test_the_published_results_give_their_figures_and_tables():
    runs = paper.find_runs(PUBLISHED)
    assert {"02_pretrain_fusmae", "03_masking_ablation", "05_evaluate"} <= set(runs)
    for notebook in runs:
        for figure, choose in FIGURES[notebook]:
            assert_tidy(story.draw(runs, notebook, figure, choose))
    [sensors] = [table for table in tables(runs) if table.name == "05_sensors"]
    row = next(row for row in sensors.rows if row["model"] == "boosted trees")
    assert row["s1+s2, 100% of labels"] == [pytest.approx(0.7658, abs=1e-4), pytest.approx(0.0024, abs=1e-4)]
    assert r"boosted trees & 0.515 $\pm$ 0.001 & \textbf{0.7494 $\pm$ 0.0003} & \textbf{0.7658 $\pm$ 0.0024}" in (
        latex.latex(sensors)
    )


def test_all_is_the_same_byte_by_byte(tmp_path):
    for i, notebook in enumerate(MADE):
        leave(tmp_path / f"run{i}", notebook)
    found = []
    for out in (tmp_path / "one", tmp_path / "two"):
        runs = paper.find_runs(tmp_path)
        figures = [story.draw(runs, name, *FIGURES[name][0]) for name in ("02_pretrain_fusmae", "03_masking_ablation")]
        files = latex.write_tables(tables(runs), out)
        files += [file for i, fig in enumerate(figures) for file in viz.save_figure(fig, out / f"figure{i}")]
        found.append({file.name: file.read_bytes() for file in files})
    assert len(found[0]) > 30
    assert found[0] == found[1]


# ---- tables -------------------------------------------------------------------------------------------------------


def test_the_best_is_bold_and_all_that_overlap_it():
    scores = {0: [0.70, 0.02], 1: [0.73, 0.02], 2: [0.60, 0.05], 3: [0.695]}
    assert best_rows(scores, higher=True) == {0, 1}
    assert best_rows(scores, higher=False) == {2}
    assert best_rows({0: [0.7], 1: [0.7001]}, higher=True) == {1}  # without a spread, one is best
    assert best_rows({}, higher=True) == set()


def test_rows_are_compared_within_their_group_and_claims_with_zero():
    rows = [
        {"task": "a", "model": "x", "mIoU": 0.5, "difference": [0.1, -0.1, 0.3]},
        {"task": "a", "model": "y", "mIoU": 0.4, "difference": [0.1, 0.05, 0.3]},
        {"task": "b", "model": "x", "mIoU": None, "difference": [-0.1, -0.3, -0.05]},
        {"task": "b", "model": "y", "mIoU": 0.3, "difference": None},
    ]
    table = PaperTable("t", "Scores.", "run r", rows, {"mIoU": True}, "task")
    assert latex.bold_cells(table) == {(0, "mIoU"), (3, "mIoU"), (1, "difference"), (2, "difference")}
    text = latex.latex(table)
    assert "Bold: the best mean of its column among rows with the same task" in text
    assert "Bold: differences whose interval excludes 0." in text
    assert text.count(r"\midrule") == 2
    assert r"\textbf{+0.100 [+0.050, +0.300]}" in text


def test_lower_errors_and_higher_scores_are_better(results):
    direction = {(t.name, column): up for t in tables(paper.find_runs(results)) for column, up in t.higher.items()}
    assert direction["02_partners", "true partner"] is direction["03_questions", "error, s1"] is False
    assert direction["02_partners", "gain"] is direction["03_questions", "mIoU, s1"] is True
    assert direction["06_scores", "CC"] is True
    assert direction["06_scores", "Nabf"] is direction["06_pictures", "block noise"] is False
    assert ("02_partners", "wrong partner") not in direction
    assert ("07_scores", "parameters") not in direction


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_every_table_compiles_and_fits(results, tmp_path):
    page = [
        r"\documentclass[twocolumn]{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{booktabs,graphicx,textcomp}",
    ]
    page += [r"\textwidth506pt", r"\columnsep18pt", r"\oddsidemargin-9mm", r"\textheight680pt", r"\begin{document}"]
    files = [file for file in latex.write_tables(tables(paper.find_runs(results)), tmp_path) if file.suffix == ".tex"]
    page += [rf"\input{{{file.stem}}}\clearpage" for file in files]
    (tmp_path / "all.tex").write_text("\n".join([*page, r"\end{document}", ""]))
    command = ["pdflatex", "-draftmode", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, done.stdout


def test_latex_is_escaped_and_balanced(results):
    assert latex_text("50% & a_b #1 {x} $5 ~^\\") == (
        r"50\% \& a\_b \#1 \{x\} \$5 \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert latex_text("1.5 × 10^−5") == r"1.5 $\times$ $10^{-5}$"
    for table in tables(paper.find_runs(results)):
        text = latex.latex(table)
        assert text.isascii(), table.name
        for kind in ("tabular", "table"):
            assert len(re.findall(rf"\\begin{{{kind}\*?}}", text)) == len(re.findall(rf"\\end{{{kind}\*?}}", text)) > 0
        body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
        lines = [line for line in body.splitlines() if line and line != r"\midrule"]
        cells = {len(re.sub(r"\\&", "", line).split(" & ")) for line in lines}
        assert len(cells) == 1, table.name
        assert all(line.endswith(r" \\") for line in lines)


def test_csv_has_all_digits_and_columns_for_spreads_and_intervals():
    rows = [{"model": "a, b", "mIoU": [0.123456789, 0.01], "difference": [0.1, 0.05, 0.2]}, {"model": "c", "mIoU": 0.5}]
    found = list(csv.DictReader(io.StringIO(latex.sheet(PaperTable("t", "", "", rows)))))
    assert found[0] == {
        "model": "a, b",
        "mIoU": "0.123456789",
        "mIoU std": "0.01",
        "difference": "0.1",
        "difference low": "0.05",
        "difference high": "0.2",
    }
    assert (found[1]["mIoU"], found[1]["mIoU std"], found[1]["difference"]) == ("0.5", "", "")


def test_a_single_seed_has_no_spread(tmp_path):
    leave(tmp_path / "a", "02_pretrain_fusmae", seeds=1)
    [table] = tables(paper.find_runs(tmp_path))
    assert table.rows[0]["true partner"] == pytest.approx(0.8)
    assert "±" not in latex.sheet(table)
    assert "standard deviation over seeds" not in latex.latex(table)
    shutil.rmtree(tmp_path / "a")
    assert paper.find_runs(tmp_path) == {}
