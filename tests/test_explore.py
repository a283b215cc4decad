"""Widgets: what they choose and draw; nothing of them in a batch run."""

import numpy as np
import pytest
import torch
from ipywidgets import Button, Dropdown, FloatSlider, GridBox, Image, IntSlider, SelectionSlider
from matplotlib.figure import Figure
from sensors import images, sensor, two_sensors

from fmlib import attention, explore, explore_model
from fmlib.masking import draw_masks
from fmlib.modality import Modality
from fmlib.models.fusmae import FusMAE

S1 = Modality("s1", ("VV",), "dB", (-50, 20), (-10.0,), (5.0,))


class Scenes:
    """Six radar images; number i shows class i mod 3. Reading is counted."""

    modalities, classes = {"s1": S1}, ("field", "wood", "water", "snow")

    def __init__(self):
        self.reads = []

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.reads.append(index)
        return {"s1": np.full((1, 8, 8), -10.0 - index), "label": np.eye(4)[index % 3], "id": f"scene {index}"}


def controls(box):
    top, pictures = box.children
    return top.children[0], top.children[1], pictures.children[0].children[0]


def test_a_batch_run_has_no_widgets(monkeypatch):
    monkeypatch.setenv("FMLIB_BATCH", "1")
    assert explore.browse_pairs(Scenes()) is None
    assert explore.browse(lambda: Figure()) is None


def test_choosing_a_label_leaves_its_samples(monkeypatch):
    monkeypatch.delenv("FMLIB_BATCH", raising=False)
    scenes = Scenes()
    label, note, slider = controls(explore.browse_pairs(scenes, count=5))
    assert list(slider.options) == [0, 1, 2, 3, 4]
    assert len(scenes.reads) <= 1  # only the sample that is drawn
    label.value = "wood"
    assert list(slider.options) == [1, 4]
    assert slider.value == 1
    label.value = "snow"
    assert "none of the first 5" in note.value
    assert list(slider.options) == [0, 1, 2, 3, 4]
    label.value = explore.ANY
    assert note.value == ""
    assert sorted(set(scenes.reads)) == sorted(scenes.reads)  # each was read once


def test_the_picture_is_that_of_the_chosen_sample():
    fig = explore.draw_pair(Scenes(), 4)
    texts = [text.get_text() for ax in fig.axes for text in ax.texts]
    assert any("scene 4" in text and "wood" in text for text in texts)


@pytest.mark.parametrize(
    ("label", "expected"),
    [(1, True), (np.array([0.0, 1]), True), (np.array([[0, 1]]), True), (0, False), (None, False)],
)
def test_labels_of_every_kind(label, expected):
    assert explore.has_label({"label": label}, ("dry", "flood"), "flood") is expected
    assert explore.has_label({"label": label}, ("dry", "flood"), explore.ANY)


# -- a live picture -------------------------------------------------------------------------------------------------


def all_widgets(widget) -> list:
    """A widget and all that it holds."""
    return [widget, *(w for child in getattr(widget, "children", ()) for w in all_widgets(child))]


def kind(widget, cls) -> list:
    return [w for w in all_widgets(widget) if type(w) is cls]


def test_a_live_picture_follows_its_controls_and_says_what_went_wrong(monkeypatch):
    monkeypatch.delenv("FMLIB_BATCH", raising=False)
    slider = IntSlider(2, 1, 9)
    drawn = []

    def draw(side):
        drawn.append(side)
        if side == 9:
            raise ValueError("9 is < 10")
        return Figure(figsize=(side, 1))

    picture, message = explore.browse(draw, side=slider).children[1].children
    assert bytes(picture.value).startswith(b"\x89PNG")
    assert picture.layout.width == "192px"
    before = picture.value
    slider.value = 3
    assert picture.value != before
    before = picture.value
    slider.value = 9
    assert message.value == "<b>ValueError</b>: 9 is &lt; 10"
    assert picture.value == before
    slider.value = 4
    assert message.value == ""
    assert drawn == [2, 3, 9, 4]


# -- a model by hand --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> FusMAE:
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "decoder_embed_dim": 16, "decoder_depth": 1}
    sizes |= {"decoder_num_heads": 4, "decoder_queries": "grid"}
    return FusMAE(two_sensors(), img_size=32, **sizes).eval()


@pytest.fixture
def pair() -> dict[str, torch.Tensor]:
    return {name: image[0] for name, image in images(two_sensors(), batch=1).items()}


@pytest.fixture
def watched(monkeypatch) -> list:
    """The settings of each pass of a model."""
    monkeypatch.delenv("FMLIB_BATCH", raising=False)
    settings, watch = [], attention.watch_sample
    monkeypatch.setattr(attention, "watch_sample", lambda *a, **k: (settings.append(k), watch(*a, **k))[1])
    return settings


def test_a_batch_run_explores_no_model(monkeypatch, model, pair):
    monkeypatch.setenv("FMLIB_BATCH", "1")
    for explorer in (explore_model.explore_model, explore_model.explore_attention, explore_model.explore_masks):
        assert explorer(model, pair) is None


def test_a_click_moves_the_query_and_needs_no_pass_of_the_model(model, pair, watched):
    widget = explore_model.explore_attention(model, pair)
    [picture], [buttons], passes = kind(widget, Image), kind(widget, GridBox), len(watched)
    [patch] = [w for w in kind(widget, IntSlider) if w.description == "patch"]
    before = picture.value
    assert len(buttons.children) == 16
    assert [b.description for b in buttons.children].index("●") == patch.value == 10
    buttons.children[3].click()
    assert patch.value == 3
    assert picture.value != before
    assert [i for i, b in enumerate(buttons.children) if b.description.strip()] == [3]
    before = picture.value
    stage, head = kind(widget, SelectionSlider)
    assert stage.value == "late"
    stage.value, head.value = "early", 2
    assert picture.value != before
    assert len(watched) == passes


def test_masks_and_displacements_are_passes_that_are_kept(model, pair, watched):
    widget = explore_model.explore_attention(model, pair)
    [picture], [ratio] = kind(widget, Image), kind(widget, FloatSlider)
    right = next(w for w in kind(widget, IntSlider) if w.description == "s2 right")
    removed = next(w for w in kind(widget, Dropdown) if w.description == "removed")
    pictures = {bytes(picture.value)}
    for control, value in ((ratio, 0.75), (right, 8), (removed, "s1")):
        before = len(watched)
        control.value = value
        pictures.add(bytes(picture.value))
        assert len(watched) == before + 1
    assert len(pictures) == 4
    assert watched[-1] == {"mask_ratio": 0.75, "strategy": "independent", "removed": "s1", "down": 0, "right": 8}
    passes = len(watched)
    removed.value = ""
    assert len(watched) == passes  # that one was kept


def test_one_sample_under_settings(model, pair):
    shown, masks, seen = attention.watch_sample(model, pair, seed=3, mask_ratio=0.5, removed="s1", right=8)
    assert torch.equal(shown["s2"][..., 8:], pair["s2"][..., :-8])
    assert torch.equal(shown["s1"], pair["s1"])
    assert masks["s1"].all()
    drawn = draw_masks(model.grids, 1, mask_ratio=0.5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(masks["s2"].flatten(), drawn["s2"].mask[0])
    assert attention.look(seen, "late.s1", "s1", 0)["s2"].isnan()[0].equal(masks["s2"].bool())
    fig = explore_model.draw_looks(model, shown, masks, seen, "early", "mean", 0)
    assert [ax.get_ylabel() for ax in fig.axes] == ["s1 asks", "", "s2 asks", ""]
    nothing = explore_model.draw_looks(model, shown, masks, seen, "no such stage", 0, 0)
    assert [ax.get_xlabel() for ax in nothing.axes] == ["does not ask here"] * 4


def test_clicks_draw_a_mask_and_something_stays_visible(model, pair, monkeypatch):
    monkeypatch.delenv("FMLIB_BATCH", raising=False)
    drawn, draw = [], explore_model.draw_reconstruction
    copy = lambda masks: {name: mask.copy() for name, mask in masks.items()}  # noqa: E731
    monkeypatch.setattr(explore_model, "draw_reconstruction", lambda *a: (drawn.append(copy(a[2])), draw(*a))[1])
    widget = explore_model.explore_masks(model, pair)
    [picture], boxes, before = kind(widget, Image), kind(widget, GridBox), kind(widget, Image)[0].value
    hidden = drawn[0]["s2"]
    greys = [button.style.button_color == explore_model.HIDDEN for button in boxes[1].children]
    assert greys == hidden.astype(bool).tolist()
    boxes[1].children[5].click()
    assert drawn[1]["s2"][5] == 1 - hidden[5]
    assert drawn[1]["s1"].tolist() == drawn[0]["s1"].tolist()
    assert picture.value != before
    for box, name in zip(boxes, ("s1", "s2"), strict=True):
        for patch, button in enumerate(box.children):
            if not drawn[-1][name][patch]:
                button.click()
    assert sum((1 - mask).sum() for mask in drawn[-1].values()) == 1


def test_too_many_patches_are_not_made_buttons(model, monkeypatch):
    monkeypatch.delenv("FMLIB_BATCH", raising=False)
    large = {name: image[0] for name, image in images(two_sensors(), (136, 136), 1).items()}
    assert not kind(explore_model.explore_attention(model, large), Button)
    assert "more than 256 patches" in explore_model.explore_masks(model, large).value


def test_buttons_have_the_mean_colours_of_their_patches():
    clicked = []
    image = torch.zeros(1, 16, 16)
    image[:, :8, 8:] = 1.0
    box = explore_model.patch_buttons(image, sensor("s1", 1), (2, 2), clicked.append)
    assert [button.style.button_color for button in box.children] == ["#000000", "#ffffff", "#000000", "#000000"]
    assert box.children[2].tooltip == "row 1, column 0"
    box.children[2].click()
    assert clicked == [2]


def test_the_wipe_moves_with_its_slider(monkeypatch):
    before, after = np.zeros((20, 30), np.uint8), np.full((20, 30, 3), 9, np.uint8)
    monkeypatch.delenv("FMLIB_BATCH", raising=False)
    seen = []
    monkeypatch.setattr(explore.viz, "wipe", lambda *given: seen.append(given) or Figure())
    top, _ = explore.before_after(before, after, ("visible", "fused")).children
    top.children[0].value = 0.8
    assert [given[2:] for given in seen] == [(0.5, ("visible", "fused")), (0.8, ("visible", "fused"))]
    assert seen[0][0] is before
    assert seen[0][1] is after
    monkeypatch.setenv("FMLIB_BATCH", "1")
    assert explore.before_after(before, after) is None
