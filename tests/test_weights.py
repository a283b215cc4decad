"""Checkpoints: round trip, strictness, damage."""

import json

import pytest
import torch
from sensors import generator, images, two_sensors

from fmlib.files import write_beside
from fmlib.masking import draw_masks
from fmlib.models.fusmae import fusmae
from fmlib.weights import digest, load, save


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = fusmae("nano", two_sensors(), img_size=32, fusion="xaed", decoder_queries="grid")
    return model, save(model, tmp_path_factory.mktemp("run") / "model", step=7)


def test_round_trip(checkpoint):
    model, folder = checkpoint
    again = load(folder)
    masks = draw_masks(model.grids, 3, generator=generator())
    x = images(two_sensors())
    assert torch.equal(model.eval()(x, masks).loss, again(x, masks).loss)
    assert again.config == model.config
    assert again.modalities == model.modalities
    assert not again.training
    assert json.loads((folder / "config.json").read_text())["step"] == 7
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]  # nothing left beside


def test_half_precision_halves_the_file(checkpoint, tmp_path):
    model, folder = checkpoint
    half = save(model, tmp_path / "half", dtype=torch.float16)
    size, whole = ((f / "model.safetensors").stat().st_size for f in (half, folder))
    assert size < 0.52 * whole
    assert next(load(half).parameters()).dtype == torch.float32


def test_every_key_that_does_not_fit_is_named(checkpoint, tmp_path):
    _, folder = checkpoint
    config = json.loads((folder / "config.json").read_text())
    config["arguments"] |= {"fusion": "xad", "decoder_embed_dim": 48}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"do not fit FusMAE") as error:
        load(tmp_path)
    assert "missing: blocks.3." in str(error.value)
    assert "unexpected: early_fusion." in str(error.value)
    assert "decoders.s1.embed.weight (96, 128) for (48, 128)" in str(error.value)


def test_damage_and_absence_are_named(checkpoint, tmp_path):
    _, folder = checkpoint
    with pytest.raises(FileNotFoundError, match=r"is no checkpoint: config\.json is missing"):
        load(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load(tmp_path)


def test_a_digest_tells_weights_apart(checkpoint):
    model, folder = checkpoint
    other = load(folder)
    assert digest(model) == digest(other)
    with torch.no_grad():
        next(other.parameters()).flatten()[-1] += 1e-3
    assert digest(model) != digest(other)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(beside):
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_beside(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
