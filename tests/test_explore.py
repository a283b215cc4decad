"""Widgets: what they choose and draw; nothing of them in a batch run."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fmlib import explore
from fmlib.modality import Modality

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
