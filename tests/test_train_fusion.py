"""Guided training: every stage trains what it should and nothing else, repeats itself, and survives a kill."""

import json

import numpy as np
import pytest
import torch
from fusion_files import mae_encoder, picture, write
from PIL import Image
from safetensors.torch import load_file
from sensors import generator

from fmlib.convert import load_maefuse
from fmlib.data.grey import Grey
from fmlib.fusion_pairs import Pairs
from fmlib.manifest import load_manifest
from fmlib.models.fusmae import FusMAE
from fmlib.resume import read_log
from fmlib.train import NonFiniteLoss
from fmlib.train_fusion import GREY, build, learning_rate, losses, main, read_params, stage_of, train
from fmlib.weights import save

QUICK = {"img_size": 24, "batch_size": 4, "steps": [4, 3, 5], "lr": [3e-3, 3e-3, 1e-3], "warmup": 1, "num_threads": 1}
QUICK |= {"decoder_embed_dim": 32, "decoder_depth": 1, "log_every": 2, "save_every": 4, "validate_every": 4}
QUICK |= {"validation_samples": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pairs in RoadScene's layout, of several sizes, some smaller than a crop."""
    root = tmp_path_factory.mktemp("data")
    for name, bands in (("cropinfrared", 1), ("crop_LR_visible", 3)):
        (root / "roadscene" / name).mkdir(parents=True)
        for i in range(30):
            pixels = picture((bands, 20 + i, 50 - i), i + 100 * bands).transpose(1, 2, 0).squeeze()
            Image.fromarray(pixels).save(root / "roadscene" / name / f"FLIR_{10000 + i}.jpg")
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "decoder_embed_dim": 16, "decoder_num_heads": 2}
    return save(FusMAE([GREY], 24, fusion="none", **sizes), tmp_path_factory.mktemp("mae"))


def params(root, encoder, out, **options) -> dict:
    return QUICK | {"data_root": str(root), "encoder": str(encoder), "out": str(out)} | options


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def changed(before: dict, after: dict) -> set[str]:
    """Parts of which any tensor differs."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_all_stages_in_one_run(root, encoder, tmp_path):
    model = train(params(root, encoder, tmp_path, steps=[60, 40, 20]))
    log = read_log(tmp_path)
    by_stage = {stage: [r for r in log if r["stage"] == stage] for stage in ("reconstruct", "align", "fuse")}
    assert [records[-1]["step"] for records in by_stage.values()] == [60, 100, 120]
    for stage, share in (("reconstruct", 0.8), ("align", 0.8), ("fuse", 1.0)):
        assert by_stage[stage][-1]["loss"] < share * by_stage[stage][0]["loss"]
    assert set(by_stage["fuse"][-1]["validation"]) == {"gradient", "laplacian"}
    assert {"model", "params.json", "log.jsonl", "state.pt"} == {p.name for p in tmp_path.iterdir()}
    assert not model.training
    again, _ = load_maefuse(tmp_path / "model")
    assert changed(model.state_dict(), again.state_dict()) == set()


def test_the_encoder_stays_bit_by_bit(root, encoder, tmp_path):
    train(params(root, encoder, tmp_path, schedule="constant", clip_grad=1.0))
    before = load_file(encoder / "model.safetensors")
    after = {n.removeprefix("encoder."): v for n, v in weights(tmp_path).items() if n.startswith("encoder.")}
    assert len(after) > 20
    for name, value in after.items():
        assert torch.equal(value, before[name.replace("embed.", "embed.grey.")])


MODES = {  # the released training modes
    "train_CFM_mean": ("align", "cfm"),
    "train_CFM_fusion": ("fuse", "cfm"),
    "train_MFM_mean_CFM_lock": ("align", "mfm"),
    "train_MFM_fusion_CFM_lock": ("fuse", "mfm"),
    "train_MFM_mean_CFM_open": ("align", "cfm+mfm"),
    "train_MFM_fusion_CFM_open": ("fuse", "cfm+mfm"),
    "train_decoder_MFM": ("fuse", "mfm+decoder"),
    "train_decoder_CFM_MFM": ("fuse", "cfm+mfm+decoder"),
    "train_decoder_only": ("fuse", "decoder"),
    "stage 0": ("reconstruct", "decoder"),
}


@pytest.mark.parametrize(("stage", "parts"), MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("released", [False, True])
def test_each_mode_trains_its_parts_alone(root, encoder, tmp_path, stage, parts, released):
    one = {"stages": [stage], "train": [parts], "steps": [1], "lr": [0.01], "validate_every": 0, "warmup": 0}
    p = params(root, encoder, tmp_path, released=released, **one)
    before = build(read_params(p)).state_dict()
    assert changed(before, train(p).state_dict()) == set(parts.split("+"))


def test_what_is_frozen_does_not_decay_either(root, encoder, tmp_path):
    """Moments of an earlier stage must not move a part that a later one freezes."""
    p = params(root, encoder, tmp_path / "a", steps=[4, 3, 0])
    first = train(p).state_dict()
    more = p | {"out": str(tmp_path / "b"), "steps": [4, 3, 5], "train": ["decoder", "cfm+mfm", "mfm"]}
    assert changed(first, train(more).state_dict()) == {"mfm"}


def test_the_seed_decides_bit_by_bit(root, encoder, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(params(root, encoder, tmp_path / name, seed=seed))
    assert changed(weights(tmp_path / "a"), weights(tmp_path / "b")) == set()
    assert changed(weights(tmp_path / "a"), weights(tmp_path / "c")) == {"cfm", "mfm", "decoder"}


@pytest.mark.parametrize("stop", [2, 4, 6, 9])
def test_a_killed_run_ends_as_one_that_was_not(root, encoder, tmp_path, monkeypatch, stop):
    """Killed within a stage and between two; checkpoints are at 4, 7, 8 and 12."""
    train(params(root, encoder, tmp_path / "whole"))
    real, count = Pairs.batch, iter(range(100))

    def batch(self, *args):
        if next(count) == stop:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Pairs, "batch", batch)
    with pytest.raises(KeyboardInterrupt):
        train(params(root, encoder, tmp_path / "killed"))
    monkeypatch.setattr(Pairs, "batch", real)
    train(params(root, encoder, tmp_path / "killed"))
    assert changed(weights(tmp_path / "whole"), weights(tmp_path / "killed")) == set()
    timeless = [
        [{k: r[k] for k in ("step", "stage", "loss")} for r in read_log(tmp_path / n)] for n in ("whole", "killed")
    ]
    assert timeless[0] == timeless[1]
    with pytest.raises(ValueError, match=r"other parameters .batch_size was 4, is 2"):
        train(params(root, encoder, tmp_path / "killed", batch_size=2))


def test_a_finished_run_is_not_trained_again(root, encoder, tmp_path, monkeypatch):
    first = train(params(root, encoder, tmp_path))
    monkeypatch.setattr(Pairs, "batch", None)
    assert changed(first.state_dict(), train(params(root, encoder, tmp_path)).state_dict()) == set()


@pytest.mark.parametrize("fusion", ["mean", "cfm", "concat"])
def test_other_fusions_train_from_one_decoder(root, encoder, tmp_path, fusion):
    decoder = params(
        root, encoder, tmp_path / "decoder", stages=["reconstruct"], train=["decoder"], steps=[4], lr=[1e-3]
    )
    start = train(decoder).state_dict()
    parts = {"mean": "decoder", "cfm": "cfm", "concat": "cfm+mfm"}[fusion]
    one = {"stages": ["fuse"], "train": [parts], "steps": [2], "lr": [1e-3]}
    init = {"init": str(tmp_path / "decoder" / "model"), "fusion": fusion}
    after = train(params(root, "", tmp_path / "fusion", **init, **one)).state_dict()
    kept = {name: value for name, value in start.items() if name in after and name.startswith(("encoder", "decoder"))}
    assert changed(kept, after) == ({"decoder"} if fusion == "mean" else set())
    assert {name.split(".")[0] for name in after} - {"encoder", "decoder"} == {
        "mean": set(), "cfm": {"cfm"}, "concat": {"concat", "mfm"},
    }[fusion]  # fmt: skip


def test_weights_of_others_train_too(root, tmp_path):
    """Meta's encoder in colour, of patches of 16 pixels; an untrained one where none is given."""
    path = write(tmp_path / "mae.pth", mae_encoder())
    with pytest.raises(ValueError, match="give num_heads"):
        train(params(root, path, tmp_path / "a"))
    heads = {"img_size": 32, "num_heads": 2}
    with pytest.warns(UserWarning, match="CC BY-NC"):
        model = train(params(root, path, tmp_path / "a", **heads))
    assert model.modalities["rgb"].patch_size == (16, 16)
    with pytest.warns(UserWarning, match="CC BY-NC"):
        load_maefuse(tmp_path / "a" / "model")
    assert train(params(root, "", tmp_path / "b", steps=[1, 1, 1])).config["embed_dim"] == 128


def test_stages_and_rates():
    p = read_params(QUICK | {"warmup": 2, "steps": [4, 0, 5], "lr": [1.0, 1.0, 0.5]})
    assert [stage_of(p, step) for step in range(9)] == [(0, 0)] * 4 + [(2, 4)] * 5
    rates = [learning_rate(p, 2, done) for done in range(5)]
    assert rates[:3] == pytest.approx([0.5 / 3, 1 / 3, 0.5])
    assert rates[2] > rates[3] > rates[4] > 0
    constant = read_params(QUICK | {"warmup": 2, "schedule": "constant"})
    assert learning_rate(constant, 2, 4) == 1e-3


def test_intensity_is_weighed_as_asked(root, encoder, tmp_path):
    one = {"stages": ["fuse"], "train": ["mfm"], "steps": [1], "lr": [1e-3]}
    p = params(root, encoder, tmp_path, loss_weights=[3.0, 0.0, 2.0], **one)
    train(p)
    (record,) = read_log(tmp_path)
    assert {"intensity", "laplacian"} == set(record) - {
        "step", "stage", "loss", "lr", "samples_per_s", "time", "validation",
    }  # fmt: skip
    model = build(read_params(p))
    images = Pairs(["roadscene"], "train", root, 24).batch(0, 4, 0)
    by_hand = losses(model, images, "fuse", weights=(1, 1, 1))
    assert record["intensity"] == pytest.approx(3 * by_hand["intensity"].item(), rel=1e-5)
    assert record["laplacian"] == pytest.approx(2 * by_hand["laplacian"].item(), rel=1e-5)


def test_golden_loss(root, encoder, tmp_path):
    train(params(root, encoder, tmp_path))
    assert [r["loss"] for r in read_log(tmp_path) if r["step"] in (4, 7, 12)] == pytest.approx(GOLDEN, rel=2e-3)


GOLDEN = [0.98448, 0.632172, 606.4305]


def test_pairs_are_cut_alike_and_follow_from_seed_and_step(root):
    data = Pairs(["roadscene"], "train", root, 24)
    first, again, other = (data.batch(step, 4, seed) for step, seed in ((1, 0), (1, 0), (2, 0)))
    assert torch.equal(first["vi"], again["vi"])
    assert not torch.equal(first["vi"], other["vi"])
    assert first["ir"].shape == first["vi"].shape == (4, 1, 24, 24)
    both = torch.arange(40 * 40).reshape(40, 40).expand(2, -1, -1)
    for seed in range(20):
        view = data._view(both, generator(seed))
        assert torch.equal(view[0], view[1])
    assert Pairs(["roadscene"], "train", root, 24, whole=True).pair(0).shape == (2, 24, 24)
    zoomed = Pairs(["roadscene"], "train", root, 16, zoom=2.5)
    columns = (3 * torch.arange(40)).expand(2, 40, 40).byte()  # 3 levels a pixel
    slopes = [zoomed._view(columns, generator(seed)).float().diff(dim=2).abs().mean().item() / 3 for seed in range(40)]
    assert 1 <= min(slopes) < 1.2
    assert 2.1 < max(slopes) <= 2.55
    assert zoomed._view(columns, None).equal(columns[:, 12:28, 12:28])
    assert len(Pairs(["roadscene", "roadscene"], "train", root, 24)) == 2 * len(data)
    assert len(Pairs(["roadscene"], "train", root, 24, samples=3)) == 3


def test_grey_windows_are_of_both_sensors(root):
    whole = Pairs(["roadscene"], "train", root, 8)
    data = Grey(root, "train", {"grey": GREY}, size=16)
    assert {data[i]["id"].split("/")[2] for i in range(len(data))} == {"ir", "vi"}
    assert len({data[i]["id"] for i in range(len(data))}) == len(data)
    _, row, sensor, top, left = data.windows[5]
    expected = whole.pair(row)[("ir", "vi").index(sensor), top : top + 16, left : left + 16]
    assert np.abs(data[5]["grey"][0] - expected.numpy()).max() <= 1
    assert data[5]["grey"].shape == (1, 16, 16)
    with pytest.raises(ValueError, match="smaller than a window of 30; choose a smaller size"):
        Grey(root, "train", {"grey": GREY}, size=30)


def test_the_command_reads_file_and_names(root, encoder, tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(params(root, encoder, tmp_path / "out")))
    main([str(tmp_path / "params.json"), "--steps=[1, 0, 0]", "--fusion=cfm", "--train=['decoder', 'cfm', 'cfm']"])
    assert json.loads((tmp_path / "out" / "params.json").read_text())["steps"] == [1, 0, 0]
    assert load_maefuse(tmp_path / "out" / "model")[0].fusion == "cfm"


def test_a_broken_loss_stops_the_run(root, encoder, tmp_path, monkeypatch):
    real = Pairs.batch
    monkeypatch.setattr(Pairs, "batch", lambda *args: {n: x * float("nan") for n, x in real(*args).items()})
    with pytest.raises(NonFiniteLoss, match=r"the loss became .*nan.* steps up to 2 of"):
        train(params(root, encoder, tmp_path))
    assert not (tmp_path / "model").exists()


def test_bad_parameters_are_named(root, encoder, tmp_path):
    cases = {
        "no parameter 'stage'": {"stage": "fuse"},
        "stages, train, steps and lr need one entry a stage": {"steps": [1, 2]},
        "stage is 'fusion'; choose one of reconstruct, align, fuse": {"stages": ["reconstruct", "align", "fusion"]},
        "init brings its own encoder": {"init": "somewhere"},
        "train is 'encoder'; choose one of cfm, mfm, decoder": {"train": ["decoder", "encoder", "mfm"]},
        "'reconstruct' trains the decoder alone, not 'cfm'": {"train": ["cfm", "cfm", "mfm"]},
        "'align' compares tokens, the decoder has no part in it": {"train": ["decoder", "cfm+decoder", "mfm"]},
        "fusion='cfm' has no mfm; leave it out": {"fusion": "cfm"},
        "loss_weights three numbers": {"loss_weights": [1.0]},
        "zoom 0.5 must be 1 or more": {"zoom": 0.5},
        "loss_scales 9 1 or more and leave 3 of": {"loss_scales": 9},
        "schedule is 'step'": {"schedule": "step"},
    }
    for message, options in cases.items():
        with pytest.raises(ValueError, match=message):
            train(params(root, encoder, tmp_path / "bad", **options))
    with pytest.raises(FileNotFoundError, match="nowhere is no file"):
        train(params(root, "nowhere", tmp_path / "bad"))


def test_real_pairs_open(real_data):
    if not load_manifest("roadscene").root(real_data).is_dir():
        pytest.skip("no RoadScene among the real images")
    train_part, held_out = (Pairs(["roadscene"], split, real_data, 160) for split in ("train", "validation"))
    assert len(train_part) + len(held_out) == 171
    assert train_part.batch(0, 4, 0)["vi"].shape == (4, 1, 160, 160)
