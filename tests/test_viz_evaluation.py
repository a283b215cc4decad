"""Figures of scores, ablations and maps: the right numbers in the right places, and no text over other text."""

import numpy as np
import pytest
import torch
from figures import MSI, VV, all_text, assert_tidy, images, shown
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from fmlib import viz
from fmlib.data.corine import LEVEL_1
from fmlib.viz.ablation import ablation_dots, ablation_heat_map
from fmlib.viz.evaluation import label_curves, missing_sensor, sensor_gain, spread
from fmlib.viz.images import class_colours
from fmlib.viz.maps import OUTCOME_COLOURS, UNKNOWN, iou, segmentation_gallery

NAMES = ("XAE&D", "XAD", "concatenate", "random features", "from scratch", "gated", "S1 alone", "S2 alone")
NAMES += ("late fusion of two encoders", "consistent masking", "dirichlet masking")
DRY = {"everything dry": 0.4}
TREES = {"gradient-boosted trees": {0.01: 0.45, 0.1: 0.5, 1.0: 0.55}}


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


def runs(models=3, seeds=3, **choice):
    """Made scores; model i has 0.8 − 0.03 i, a tenth less for each decade of labels, and seeds ± 0.01."""
    rows = [
        {"model": model, "sensors": sensors, "fraction": fraction, "seed": seed, "miou": 0.8 - 0.03 * i - lost + noise}
        for i, model in enumerate(NAMES[:models])
        for sensors, less in (("s1+s2", 0), ("s2", 0.02), ("s1", 0.1))
        for fraction, lost in ((1.0, less), (0.1, less + 0.1), (0.01, less + 0.2))
        for seed, noise in list(enumerate((0, -0.01, 0.01)))[: seeds if fraction < 1 else 1]
    ]
    return [row for row in rows if all(row[key] == value for key, value in choice.items())]


def without(models=3):
    return [
        {"model": model, "sensors": "s1+s2", "tested": sensors, "seed": seed, "miou": 0.8 - 0.03 * i + noise - lost}
        for i, model in enumerate(NAMES[:models])
        for seed, noise in enumerate((0, -0.1, 0.1))  # seeds differ by more than sensors, changes do not
        for sensors, lost in (("s1", 0.2), ("s1+s2", 0), ("s2", 0.05))
    ]


def masked(panels=3, seeds=3):
    """Made errors, least at ``independent`` and 0.75; one cell was not run."""
    return [
        {"fusion": fusion, "mask_strategy": strategy, "mask_ratio": ratio, "seed": seed, "mse": error + noise}
        for i, fusion in enumerate(NAMES[:panels])
        for j, strategy in enumerate(("independent", "consistent", "sensor"))
        for ratio, error in ((0.9, 0.45), (0.75, 0.3), (0.5, 0.55))
        for seed, noise in list(enumerate((0.05 * j - 0.01 * i + np.array([0, -0.02, 0.02])).tolist()))[:seeds]
        if (fusion, strategy, ratio) != ("XAD", "sensor", 0.9)
    ]


def small():
    questions = {"patch size": ("4", "8", "16"), "target": ("raw", "normalised in each patch")}
    return [
        {"question": question, "variant": variant, "seed": seed, "miou": 0.6 + 0.03 * i + noise}
        for question, variants in questions.items()
        for i, variant in enumerate(variants)
        for seed, noise in enumerate((0, -0.01, 0.01))
    ]


def bars(container):
    """Points and ends of an errorbar along its varying axis."""
    points, _, (lines,) = container
    return points.get_data(), [segment.tolist() for segment in lines.get_segments()]


# -- means over seeds ---------------------------------------------------------------------------------------------


def test_spread_is_that_of_the_seeds_and_none_for_one_run():
    table = spread(runs(1, sensors="s2"), ("model", "fraction"), "miou")
    assert [row["fraction"] for row in table] == [1.0, 0.1, 0.01]
    assert [row["miou"] for row in table] == pytest.approx([0.78, 0.68, 0.58])
    assert [row["std"] for row in table] == pytest.approx([np.nan, 0.01, 0.01], nan_ok=True)


def test_runs_of_several_kinds_are_not_mixed():
    with pytest.raises(ValueError, match=r"two rows have .*'XAE&D'.*'fraction': 1.0.*these differ in \['sensors'\]"):
        label_curves(runs())
    with pytest.raises(ValueError, match=r"these differ in \['fraction'\]"):
        sensor_gain(runs())
    with pytest.raises(ValueError, match=r"two rows have .*'seed': 0"):
        ablation_heat_map(masked() + masked(1), "mse")
    with pytest.raises(ValueError, match=r"a row has no \['accuracy'\]; it has \['fraction', 'miou'"):
        sensor_gain(runs(fraction=0.1), "accuracy")
    for draw in (label_curves, sensor_gain, missing_sensor):
        with pytest.raises(ValueError, match="no rows to draw"):
            draw([])


# -- scores -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [1, 3, 11])
def test_charts_are_tidy_with_few_models_and_many(models):
    assert_tidy(label_curves(runs(models, sensors="s1+s2"), ylabel="mean IoU (1)", baselines=TREES | DRY))
    assert_tidy(sensor_gain(runs(models, fraction=0.1), xlabel="mean IoU (1)", baselines=DRY))
    assert_tidy(missing_sensor(without(models), xlabel="mean IoU (1)"))


def test_names_at_the_lines_stay_apart_even_if_all_models_agree():
    rows = [row | {"miou": 0.5} for row in runs(11, sensors="s2")]
    fig = label_curves(rows, baselines=DRY)
    assert_tidy(fig)
    assert all(name in all_text(fig) for name in (*NAMES, "everything dry"))


def test_label_curves():
    fig = label_curves(runs(2, sensors="s1"), ylabel="mean IoU (1)", baselines=TREES | DRY)
    ax = fig.axes[0]
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == [f"{n}\u2009%" for n in (1, 10, 100)]
    (x, y), ends = bars(ax.containers[0])
    assert x == pytest.approx([0.01, 0.1, 1], rel=0.05)
    assert y == pytest.approx([0.5, 0.6, 0.7])
    assert np.array(ends[1])[:, 1] == pytest.approx([0.59, 0.61])
    assert len(ends[2]) == 0 or np.isnan(ends[2]).any()  # one run: no bar
    lines = [
        line.get_ydata().tolist() for line in ax.lines if line.get_color() == "0.45" and len(line.get_ydata()) == 3
    ]
    assert lines == [[0.45, 0.5, 0.55], [0.4, 0.4, 0.4]]
    text = all_text(fig)
    assert "over 3 runs; no spread for single runs" in text
    assert "one run each" in all_text(label_curves(runs(2, 1, sensors="s1")))
    heights = {t.get_text(): t.get_position()[1] for t in ax.texts if t.get_text()}
    assert heights["XAE&D"] > heights["XAD"] > heights["gradient-boosted trees"] > heights["everything dry"]


def test_sensor_gain():
    fig = sensor_gain(runs(2, fraction=0.1), baselines=DRY)
    ax = fig.axes[0]
    assert [entry.get_text() for entry in fig.legends[0].get_texts()] == ["S1", "S2", "S1 + S2", "everything dry"]
    (x, y), ends = bars(ax.containers[2])  # both sensors
    assert x == pytest.approx([0.7, 0.67])
    assert np.array(ends[0])[:, 0] == pytest.approx([0.69, 0.71])
    assert [round(float(place)) for place in y] == [0, 1]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first model is at the top
    spans = [line.get_xdata() for line in ax.lines if line.get_color() == "0.8"]
    assert spans[0] == pytest.approx([0.6, 0.7])


def test_losses_are_taken_seed_by_seed():
    fig = missing_sensor([*without(2), without(1)[0] | {"sensors": "s1", "miou": 0.0}])
    left, right = fig.axes
    scores, ends = bars(left.containers[0])
    assert scores[0] == pytest.approx([0.6, 0.57])
    assert np.array(ends[0])[:, 0] == pytest.approx([0.5, 0.7])
    losses, ends = bars(right.containers[0])
    assert losses[0] == pytest.approx([-0.2, -0.2])
    assert np.array(ends[0])[:, 0] == pytest.approx([-0.2, -0.2])
    assert "change from S1 + S2" in all_text(fig)
    with pytest.raises(ValueError, match=r"'XAE&D', seed 0: no row tested with 's1\+s2'"):
        missing_sensor([row for row in without(1) if (row["tested"], row["seed"]) != ("s1+s2", 0)])


# -- ablations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("panels", [1, 4])
def test_heat_maps_are_tidy(panels):
    assert_tidy(ablation_heat_map(masked(panels), "mse", unit="MSE of z-scores"))


def test_heat_map():
    fig = ablation_heat_map(masked(2), "mse", unit="1", label="error")
    first, second = fig.axes[:2]
    assert [label.get_text() for label in first.get_xticklabels()] == ["0.5", "0.75", "0.9"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["independent", "consistent", "sensor"]
    assert first.get_ylim() == second.get_ylim() == (3, 0)  # the first strategy is at the top
    cells = {text.get_position(): text.get_text() for text in first.texts}
    assert cells[1.5, 0.5] == "0.300\n±0.020"
    assert cells[0.5, 2.5] == "0.650\n±0.020"
    assert {text.get_position(): text.get_text() for text in second.texts}[2.5, 2.5] == "not\nrun"
    assert second.collections[0].get_array().mask.sum() == 1
    assert first.collections[0].get_clim() == second.collections[0].get_clim() == pytest.approx((0.29, 0.65))
    assert first.patches[0].get_xy() == pytest.approx((1.04, 0.05))  # the frame of the best
    assert "error (1)" in all_text(fig)
    lightness = first.collections[0].to_rgba([0.29, 0.65])[:, :3].sum(axis=1)
    assert lightness[0] < lightness[1]


def test_heat_map_of_a_score_frames_the_highest_and_says_what_diverged():
    rows = [row | {"mse": np.nan} if row["mask_ratio"] == 0.5 else row for row in masked(1, seeds=1)]
    ax = ablation_heat_map(rows, "mse", better="higher").axes[0]
    assert ax.patches[0].get_xy() == pytest.approx((2.04, 2.05))
    assert [text.get_text() for text in ax.texts[:2]] == ["not\nfinite", "0.300"]
    lightness = ax.collections[0].to_rgba([0.3, 0.55])[:, :3].sum(axis=1)
    assert lightness[0] > lightness[1]
    with pytest.raises(ValueError, match="must be 'lower' or 'higher'"):
        ablation_heat_map(rows, "mse", better="more")
    with pytest.raises(ValueError, match="no 'mse' is a finite number"):
        ablation_heat_map([row | {"mse": np.inf} for row in rows], "mse")


def test_ablation_dots():
    fig = ablation_dots(small(), "miou", "1", defaults={"patch size": "8"}, label="mean IoU")
    assert_tidy(fig)
    first, second = fig.axes
    words = [text.get_text() for text in first.texts]
    assert words == ["0.600 ± 0.010", "−0.030", "0.630 ± 0.010", "default", "0.660 ± 0.010", "+0.030"]
    assert [text.get_text() for text in second.texts] == ["0.600 ± 0.010", "", "0.630 ± 0.010", ""]
    assert [to_rgb(c[0].get_markerfacecolor()) == (1, 1, 1) for c in first.containers] == [True, False, True]
    assert first.patches[0].get_bbox().intervalx == pytest.approx([0.62, 0.64])  # the spread of the default
    assert first.get_xlim() == second.get_xlim()
    assert all(word in all_text(fig) for word in ("patch size", "mean IoU (1)", "normalised in each patch"))
    with pytest.raises(ValueError, match=r"'target': default 'z-scores' is not among \['raw', 'normalised"):
        ablation_dots(small(), "miou", defaults={"target": "z-scores"})


# -- maps ---------------------------------------------------------------------------------------------------------


def columns(count):
    return {
        "S1 before": {"image": images(VV, count), "modality": VV},
        "S2 after": {"image": images(MSI, count), "modality": MSI},
    }


def test_maps_of_two_classes_show_hits_misses_and_false_alarms():
    truth = np.zeros((2, 48, 48), np.uint8)
    truth[0, :24], truth[0, 40:] = 1, 255
    predicted = np.zeros_like(truth)
    predicted[0, 12:36] = 1
    fig = segmentation_gallery(columns(2), truth, {"XAD": torch.from_numpy(predicted)}, ("dry", "flood"), ("a", "b"))
    assert_tidy(fig)
    text = all_text(fig)
    assert all(word in text for word in ("S1 before", "truth", "XAD", "IoU 0.33", "IoU –", "VV −25…0 dB", "no data"))
    true, mine = fig.axes[2], fig.axes[3]
    colours = [to_rgb(colour) for colour in mine.images[0].cmap.colors]
    assert colours == [to_rgb(colour) for colour in (*OUTCOME_COLOURS, UNKNOWN)]
    assert [shown(mine)[row, 0] for row in (0, 12, 24, 36, 40)] == [2, 1, 3, 0, 4]
    assert [shown(true)[row, 0] for row in (0, 12, 24, 36, 40)] == [1, 1, 0, 0, 4]
    assert shown(fig.axes[0]) == pytest.approx(viz.stretch(columns(2)["S1 before"]["image"][0], VV)[0])
    given = segmentation_gallery(columns(2), truth, {"XAD": predicted}, ("dry", "flood"), scores={"XAD": [0.11, 0.22]})
    assert "IoU 0.11" in all_text(given)


def test_maps_of_more_classes_have_their_colours():
    truth = np.random.default_rng(0).integers(0, 5, (2, 48, 96))
    names = ("Water", "Trees", "Crops", "Built area", "Bare ground")
    fig = segmentation_gallery({}, truth, {"MsIFT": truth, "CNN": 0 * truth}, names)
    assert_tidy(fig)
    assert all(name in all_text(fig) for name in (*names, "mean IoU 1.00"))
    assert "no data" not in all_text(fig)
    assert (shown(fig.axes[0]) == truth[0]).all()
    assert (shown(fig.axes[2]) == 0).all()


def test_water_is_blue_wherever_it_stands_among_coarse_classes():
    for names in (tuple(LEVEL_1.values()), ("Water bodies", "Agricultural areas")):
        colours = dict(zip(names, class_colours(names), strict=True))
        assert (colours["Water bodies"], colours["Agricultural areas"]) == ("#0072B2", "#E69F00")
        assert len(set(colours.values())) == len(names)
    assert class_colours(("dry", "Water bodies")) == ["#D9D9D9", "#0072b2"]  # others: by their place


@pytest.mark.parametrize("models", [3, 11])
def test_maps_of_many_models_take_several_lines(models):
    truth = np.random.default_rng(0).integers(0, 2, (2, 48, 48))
    fig = segmentation_gallery(columns(2), truth, dict.fromkeys(NAMES[:models], truth), ("dry", "flood"), ("a", "b"))
    assert_tidy(fig)
    assert len([ax for ax in fig.axes if ax.get_visible()]) == 2 * (3 + models)
    assert all_text(fig).count("IoU 1.00") == 2 * models


def test_iou_beneath_a_map():
    truth, predicted = np.array([[1, 1, 0, 255]]), np.array([[1, 0, 0, 1]])
    assert iou(truth, predicted, 2) == 0.5
    assert iou(truth, predicted, 3) == 0.5  # mean of 1/2 and 1/2; class 2 does not occur
    assert np.isnan(iou(0 * truth, 0 * truth, 2))


def test_maps_must_agree():
    truth = np.zeros((2, 48, 48), int)
    with pytest.raises(ValueError, match=r"maps of 'XAD' are \(2, 24, 24\), the true ones \(2, 48, 48\)"):
        segmentation_gallery({}, truth, {"XAD": truth[:, ::2, ::2]}, ("dry", "flood"))
    with pytest.raises(ValueError, match="3 images 'S1 before' for 2 true maps"):
        segmentation_gallery(columns(3), truth, {"XAD": truth}, ("dry", "flood"))


# -- files --------------------------------------------------------------------------------------------------------

FIGURES = {
    "curves": lambda: label_curves(runs(3, sensors="s2"), baselines=TREES),
    "sensors": lambda: sensor_gain(runs(3, fraction=0.1)),
    "missing": lambda: missing_sensor(without()),
    "heat map": lambda: ablation_heat_map(masked(), "mse"),
    "dots": lambda: ablation_dots(small(), "miou"),
    "maps": lambda: segmentation_gallery(columns(1), np.eye(48)[None], {"XAD": np.eye(48)[None]}, ("dry", "flood")),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_the_same_figure_gives_the_same_bytes(make, tmp_path):
    first = viz.save_figure(make(), tmp_path / "a")
    fig = make()
    FigureCanvasAgg(fig).draw()  # shown before it is saved
    for one, two in zip(first, viz.save_figure(fig, tmp_path / "b"), strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
