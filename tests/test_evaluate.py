"""Reconstruction scores on cases with a known answer."""

import subprocess
import sys

import pytest
import torch
from sensors import generator, images, two_sensors
from torch import nn

from fmlib.evaluate import (
    baseline_errors,
    partner_gains,
    partner_masks,
    partner_pictures,
    partner_test,
    reconstruction_error,
    summarise,
    with_partner,
    wrong_partner,
)
from fmlib.layers import gather_tokens
from fmlib.masking import draw_masks
from fmlib.models.fusmae import fusmae

PLACES = ["a", "a", "b", "b", "c", "c"]


class Oracle(nn.Module):
    """Stands in for a model: knows the image, blended with its patches' own means."""

    def __init__(self, blend: float, norm_target: str = "none"):
        super().__init__()
        model = fusmae("nano", two_sensors(), img_size=32, fusion="xad", norm_target=norm_target)
        self.embed, self.grids, self.patches, self.fusion = model.embed, model.grids, model.patches, "xad"
        self.blend = blend
        self.eval()

    def predict(self, images, masks):
        patches, grids = self.patches(images)
        pred = {}
        for name, mask in masks.items():
            true = gather_tokens(patches[name], mask.ids_remove)
            bands = true.unflatten(-1, (self.embed[name].modality.in_chans, -1))
            flat = bands.mean(-1, keepdim=True).expand_as(bands).flatten(-2)
            mean, std = self.embed[name].target_stats(true)
            pred[name] = (self.blend * true + (1 - self.blend) * flat - mean) / std
        return patches, pred, grids


@pytest.mark.parametrize("norm_target", ["none", "patch", "group"])
@pytest.mark.parametrize(("blend", "error"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.25)])
def test_relative_error_means_what_it_says(norm_target, blend, error):
    """Perfect predictions score 0, each patch's own mean 1, half way between a quarter."""
    model, x = Oracle(blend, norm_target), images(two_sensors(), batch=6)
    for strategy in ("independent", "dirichlet"):  # with and without padding
        masks = draw_masks(model.grids, 6, strategy, generator=generator())
        errors = reconstruction_error(model, x, masks, batch_size=4)
        assert errors == {"s1": pytest.approx(error, abs=1e-5), "s2": pytest.approx(error, abs=1e-5)}


def test_baselines_in_their_order():
    x = {n: v + 3 for n, v in images(two_sensors(), batch=6).items()}  # far from the data set's mean of 0
    rows = {row["prediction"]: row for row in baseline_errors(Oracle(1.0), x)}
    for name in x:
        assert rows["patch mean"][name] == pytest.approx(1, abs=1e-6)
        assert 1 < rows["image mean"][name] < 1.1  # noise has no structure to lose
        assert rows["data set mean"][name] > 5


def test_gains_are_taken_within_each_run():
    errors = {
        (0, "true"): 0.5,
        (0, "wrong"): 0.7,
        (0, "none"): 0.6,
        (1, "true"): 0.8,
        (1, "wrong"): 1.0,
        (1, "none"): 0.9,
    }
    rows = [{"fusion": "xad", "sensor": "s1", "seed": s, "partner": p, "error": e} for (s, p), e in errors.items()]
    [gain] = partner_gains(rows)
    assert gain["gain"] == pytest.approx([0.2, 0.0], abs=1e-12)  # though the runs differ by 0.3
    assert gain["true partner"] == pytest.approx([0.65, 0.2121], abs=1e-4)
    [gain] = partner_gains(rows[:3])  # one run has no spread
    assert (gain["gain"], gain["true partner"]) == (pytest.approx(0.2), 0.5)
    [row] = summarise(rows[:1], ("fusion",))
    assert (row["error"], row["std"], row["runs"]) == (0.5, 0.0, 1)


def test_pictures_show_what_was_tested():
    model = fusmae("nano", two_sensors(), img_size=32, fusion="xad").eval()
    x = images(two_sensors(), batch=6)
    pictures = partner_pictures(model, x, PLACES, "s1", [0, 5])
    assert torch.equal(pictures["target"], x["s1"][[0, 5]])
    assert torch.equal(pictures["wrong_partner"], x["s2"][wrong_partner(PLACES)[[0, 5]]])
    kept = pictures["mask"].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand(-1, 2, -1, -1) == 0
    for prediction in pictures["predictions"].values():
        assert torch.allclose(prediction[kept], pictures["target"][kept], atol=1e-5)


def test_a_wrong_partner_is_always_of_another_place():
    other = wrong_partner(PLACES)
    assert sorted(other.tolist()) == list(range(6))
    assert all(PLACES[i] != PLACES[j] for i, j in enumerate(other.tolist()))
    with pytest.raises(ValueError, match="4 samples of 1 places"):
        wrong_partner(["a"] * 4)


def test_partners_are_what_they_are_called():
    x = images(two_sensors(), batch=6)
    other = wrong_partner(PLACES)
    assert set(with_partner(x, "s1", "none", other)) == {"s1"}
    wrong = with_partner(x, "s1", "wrong", other)
    assert torch.equal(wrong["s1"], x["s1"])
    assert torch.equal(wrong["s2"], x["s2"][other])
    with pytest.raises(ValueError, match="choose one of true, wrong, none"):
        with_partner(x, "s1", "false", other)


@pytest.mark.parametrize("fusion", ["none", "xad", "xaed", "stack"])
def test_the_partner_test_sees_a_model_that_uses_its_partner(fusion):
    model = fusmae("nano", two_sensors(), img_size=32, fusion=fusion).eval()
    rows = partner_test(model, images(two_sensors(), batch=6), PLACES)
    assert [(r["sensor"], r["partner"]) for r in rows] == [
        (s, p) for s in ("s1", "s2") for p in ("true", "wrong", "none")
    ]
    errors = {(r["sensor"], r["partner"]): r["error"] for r in rows}
    for name in ("s1", "s2"):
        same = errors[name, "true"] == pytest.approx(errors[name, "wrong"], abs=1e-7)
        assert same is (fusion == "none")


def test_partner_masks_hide_one_sensor_only():
    model = fusmae("nano", two_sensors(), img_size=32, fusion="xaed")
    masks = partner_masks(model, "s2", 5, 0.75, seed=0)
    assert (masks["s2"].mask.sum(1) == 12).all()
    assert masks["s1"].mask.sum() == 0


def test_training_mode_is_refused():
    model = fusmae("nano", two_sensors(), img_size=32).train()
    with pytest.raises(AssertionError, match=r"model\.eval\(\)"):
        reconstruction_error(model, images(two_sensors()), draw_masks(model.grids, 3, generator=generator()))


def test_it_imports_on_a_bare_gpu_machine():
    """torchmetrics is asked for only by the functions that score; scikit-learn by tests alone."""
    blocked = ("torchmetrics", "sklearn", "scipy", "rasterio", "pyarrow", "papermill", "matplotlib")
    code = f"import sys\nfor name in {blocked}:\n    sys.modules[name] = None\nimport fmlib.evaluate"
    subprocess.run([sys.executable, "-c", code], check=True)
