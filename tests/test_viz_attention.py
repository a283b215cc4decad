"""Figures of attention: the right colours in the right places, arrows that lead to the largest value, tidy text."""

import numpy as np
import pytest
import torch
from figures import MSI, VVVH, all_text, assert_tidy, images, shown
from matplotlib.colors import to_rgb
from matplotlib.patches import ConnectionPatch, Rectangle

from fmlib import viz
from fmlib.viz import attention, attention_charts

SENSORS = {"s1": VVVH, "s2": MSI}
GRID = (6, 6)


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


def pair(size=(48, 48)):
    return {name: images(modality, 1, size)[0] for name, modality in SENSORS.items()}


def peak(patch: int, grid=GRID, height=0.5) -> np.ndarray:
    weights = np.full(grid, 0.01)
    weights.flat[patch] = height
    return weights


def frames(ax):
    """Outer corners of the patches framed in a panel, as (column, row) of the first pixel."""
    return {tuple(np.round(np.array(box.get_xy()) + 0.5, 6)) for box in ax.patches if isinstance(box, Rectangle)}


def test_overlay_is_grey_where_nobody_looks_and_colour_at_the_peak():
    picture = np.full((12, 12, 3), 0.5)
    weights = np.zeros((2, 3))
    weights[0, 1], weights[1, 2] = 0.4, np.nan
    mixed = viz.overlay(picture, weights)
    assert np.ptp(mixed[0, 0]) == 0  # grey: the image
    assert (mixed[6:, 8:] == attention.REMOVED).all()
    top = np.array(attention.MAP(1.0)[:3])
    assert np.abs(mixed[2, 5] - top).max() < 0.12
    assert np.allclose(viz.overlay(picture, 10 * weights), mixed)  # the scale is the panel's own


def test_overlay_keeps_the_image_visible_and_takes_uneven_patches():
    picture = np.linspace(0, 1, 10 * 15)[:, None].repeat(3, 1).reshape(10, 15, 3)
    mixed = viz.overlay(picture, torch.zeros(3, 4))
    assert mixed.shape == (10, 15, 3)
    assert (np.diff(mixed[..., 0].ravel()) > 0).all()
    nothing = viz.overlay(picture, np.full((3, 4), np.nan))
    assert (nothing == attention.REMOVED).all()


@pytest.mark.parametrize("size", [(48, 48), (48, 72)])
def test_pairs_lead_from_the_query_to_what_it_looks_at_most(size):
    queries = {"object": 7, "background": 20}
    looks = {q: {"s1": {"s2": peak(15)}, "s2": {"s1": peak(3)}} for q in queries}
    fig = viz.attention_pairs(pair(size), SENSORS, queries, looks)
    assert_tidy(fig)
    panels = fig.axes
    assert len(panels) == 8
    side = (size[1] / 6, size[0] / 6)
    assert frames(panels[0]) == {(side[0], side[1])}  # patch 7 is row 1, column 1
    arrows = [a for a in fig.artists if isinstance(a, ConnectionPatch)]
    ends = {(a.axesA, a.axesB): a.xy2 for a in arrows}
    assert ends[panels[0], panels[1]] == pytest.approx((3.5 * side[0] - 0.5, 2.5 * side[1] - 0.5))  # patch 15
    assert ends[panels[6], panels[7]] == pytest.approx((3.5 * side[0] - 0.5, 0.5 * side[1] - 0.5))  # patch 3
    assert "0…50 %" in all_text(fig)
    assert "Sentinel-1 asks" in all_text(fig)


def test_pairs_say_who_does_not_ask():
    looks = {"here": {"s1": {}, "s2": {"s1": peak(3)}}}
    masks = {"s1": np.ones(GRID), "s2": np.zeros(GRID)}
    fig = viz.attention_pairs(pair(), SENSORS, {"here": 7}, looks, masks)
    assert_tidy(fig)
    assert "does not ask here" in all_text(fig)
    assert (shown(fig.axes[0]) == attention.REMOVED).all()
    assert len([a for a in fig.artists if isinstance(a, ConnectionPatch)]) == 2  # one arrow and its white rim


def test_heads_are_a_row_a_layer_and_layers_may_have_fewer():
    looks = {"early.s1": np.stack([peak(i) for i in range(4)]), "late.s1": np.stack([peak(i) for i in range(3)])}
    fig = viz.attention_heads(pair()["s2"], MSI, looks, patch=35)
    assert_tidy(fig)
    drawn = [ax for ax in fig.axes if ax.get_visible()]
    assert len(drawn) == 7
    for head, ax in enumerate(drawn[:4]):
        picture = shown(ax)
        colour = np.ptp(picture, axis=2)  # grey has none
        row, col = np.unravel_index(colour.argmax(), colour.shape)
        assert (row // 8, col // 8) == divmod(head, 6)
        assert frames(ax) == {(40, 40)}


def test_sources_grey_out_what_is_removed_and_share_out_the_rest():
    masks = {"a": {"s1": np.zeros(GRID), "s2": np.zeros(GRID)}, "b": {"s1": np.zeros(GRID), "s2": np.ones(GRID)}}
    masks["b"]["s1"][0] = 1
    looks = {c: {"s1": np.full(GRID, 0.01), "s2": np.full(GRID, 0.03)} for c in masks}
    fig = viz.attention_sources(pair(), SENSORS, looks, dict.fromkeys(looks, ("s1", 2)), masks)
    assert_tidy(fig)
    texts = all_text(fig)
    assert "0…1 %, sum 25 %" in texts
    assert "0…3 %, sum 75 %" in texts
    assert "0…1 %, sum 100 %" in texts
    assert "does not answer" in texts
    assert (shown(fig.axes[2])[:8] == attention.REMOVED).all()
    assert (shown(fig.axes[2])[8:] != attention.REMOVED).any()
    assert frames(fig.axes[0]) == {(16, 0)}
    assert not frames(fig.axes[1])


def rows(models=("untrained", "trained"), stages=("early", "blocks.0", "blocks.1", "late")):
    made = []
    for m, model in enumerate(models):
        for s, stage in enumerate(stages):
            for query in SENSORS:
                for key in SENSORS if stage.startswith("blocks") else [n for n in SENSORS if n != query]:
                    row = {"model": model, "stage": stage, "layer": stage, "query": query, "key": key}
                    for head in range(3):
                        values = {"share": 0.1 * (head + s + m), "distance": 5.0 + head + s + 3 * m, "entropy": 2.0}
                        even = {f"even_{name}": 0.5 for name in values}
                        made.append(row | {"head": head} | values | even)
    return made


@pytest.mark.parametrize("value", ["share", "distance", "entropy"])
def test_by_layer_draws_each_head_and_the_even_share(value):
    fig = viz.attention_by_layer(rows(), SENSORS, value)
    assert_tidy(fig)
    assert attention_charts.LABELS[value] in all_text(fig)
    panel = next(ax for ax in fig.axes if ax.get_title(loc="left") == "Sentinel-1 looks at Sentinel-2")
    points = [line for line in panel.lines if line.get_linestyle() == "None"]
    assert [len(line.get_xdata()) for line in points] == [12, 12]  # 4 stages × 3 heads, of 2 models
    found = sorted(
        {row[value] for row in rows() if (row["query"], row["key"], row["model"]) == ("s1", "s2", "trained")}
    )
    assert sorted(set(np.round(points[1].get_ydata(), 6))) == pytest.approx(found)
    joined = [len(line.get_xdata()) for line in panel.lines if line.get_linestyle() != "None"]
    assert sorted(joined) == [1, 1, 1, 1, 2, 2]  # blocks are joined, early and late stand alone
    itself = next(ax for ax in fig.axes if ax.get_title(loc="left") == "Sentinel-1 looks at itself")
    assert len(itself.collections[0].get_segments()) == 2


def test_offsets_mark_where_the_content_went():
    still, moved = np.full((11, 11), 0.01), np.full((11, 11), 0.01)
    still[5, 5], moved[5, 7] = 0.2, 0.1
    fig = viz.attention_offsets({"in place": still, "moved": moved}, {"in place": (0, 0), "moved": (0, 2)}, reach=3)
    assert_tidy(fig)
    first, second, *_ = fig.axes
    assert (first.images[0].get_clim(), second.images[0].get_clim()) == ((0, 20), (0, 10))
    assert "moved\n0…10 % a patch" in second.get_title(loc="left")
    picture = np.asarray(second.images[0].get_array())
    assert picture.shape == (7, 7)
    assert picture[3, 5] == pytest.approx(10)
    (mark,) = second.lines
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (16, 0)
    assert second.patches[0].get_xy() == (-4, -4)


def test_tokens_that_are_alike_have_one_colour_in_all_sensors():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(3, 8))
    tokens = {"s1": kinds[np.arange(36) % 3], "s2": kinds[np.arange(36) // 12]}
    colours = attention_charts.token_colours(tokens)
    assert np.allclose(colours["s1"][1], colours["s2"][12])
    assert np.abs(colours["s1"][0] - colours["s1"][1]).max() > 0.5
    fig = viz.embedding_map(pair(), SENSORS, tokens, dict.fromkeys(SENSORS, GRID))
    assert_tidy(fig)
    assert np.allclose(shown(fig.axes[1]).reshape(-1, 3), colours["s1"])


def test_the_query_has_a_colour_that_the_map_has_not():
    colours = attention.MAP(np.linspace(0.25, 1, 50))[:, :3]
    assert np.abs(colours - to_rgb(attention.QUERY)).sum(1).min() > 0.3
