"""Notebook 06's runs: every variant starts from one decoder, trains as long, and is scored beside the baselines."""

from importlib import import_module

import numpy as np
import pytest
import torch
from fusion_files import picture
from PIL import Image
from sensors import generator

from fmlib import fusion_results, fusion_study, train, train_fusion
from fmlib.fusion_results import similarity, token_colours, tokens_by_depth
from fmlib.fusion_study import VARIANTS, commands, decoder_runs, encoder_runs, read_params, run_folders, variant_runs
from fmlib.modality import Modality
from fmlib.scenes.pairs import generate_pairs, to_picture
from fmlib.score_fusion import BASELINES
from fmlib.weights import load

TINY = {
    "img_size": 32,
    "patch_size": 8,
    "encoder_steps": 2,
    "steps": [2, 1, 2],
    "batch_size": 2,
    "encoder_batch_size": 2,
}
TINY |= {"decoder_depth": 1, "device": "cpu", "test_pairs": 2, "variants": ["token mean", "CFM", "no align"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A few pairs in the layout of the made ones."""
    root = tmp_path_factory.mktemp("data")
    for number, split in enumerate(("train", "train", "train", "validation", "test", "test", "test")):
        for sensor, bands in (("ir", 1), ("vi", 3)):
            folder = root / "synthetic-ir" / split / sensor
            folder.mkdir(parents=True, exist_ok=True)
            size = (84, 80) if split == "test" else (124, 121)
            pixels = picture((bands, *size), number + 10 * bands).transpose(1, 2, 0).squeeze()
            Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return root


@pytest.fixture(scope="module")
def study(root, tmp_path_factory):
    """A study of three variants and two seeds, trained in this process."""

    def launch(runs, jobs=1, module="fmlib.train"):
        trainer = import_module(module)
        for run in runs:
            trainer.train(trainer.read_params(run | {"num_threads": 1, "validate_every": 0}))
        return [run["out"] for run in runs]

    p = read_params(TINY | {"data_root": str(root), "out": str(tmp_path_factory.mktemp("study")), "seeds": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion_study, "launch", launch)
        fusion_study.train(p)
    return p, fusion_results.write_pairs(p)


def test_all_runs_are_ones_that_the_trainers_take():
    p = read_params({"variants": list(VARIANTS), "seeds": 2})
    for run in encoder_runs(p):
        train.check(train.read_params(run))
    runs = [train_fusion.read_params(run) for run in (*decoder_runs(p), *variant_runs(p))]
    for run in runs:
        train_fusion.check(run)
    folders = [run.out for run in runs]
    assert len(set(folders)) == len(folders) == 1 + 2 * len(VARIANTS)


def test_variants_share_their_decoder_and_take_as_many_steps():
    p = read_params({"variants": list(VARIANTS), "steps": [9, 20, 30], "out": "runs/x"})
    runs = dict(zip(run_folders(p), variant_runs(p), strict=True))
    assert {run["init"] for run in runs.values()} == {"runs/x/runs/decoder/model"}
    assert decoder_runs(p)[0]["out"] == "runs/x/runs/decoder"
    assert decoder_runs(p)[0]["steps"] == [9]
    assert {name: sum(run["steps"]) for (name, _), run in runs.items()} == dict.fromkeys(VARIANTS, 50) | {
        "token mean": 0
    }
    assert runs["CFM", 0]["steps"] == [20, 30]
    assert runs["no align", 0]["stages"] == ["fuse"]
    assert runs["CFM + MFM", 0]["train"] == ["cfm+mfm", "cfm+mfm"]
    assert runs["open decoder", 0]["train"] == ["cfm+mfm", "cfm+mfm+decoder"], "alignment has no picture"


def test_a_given_encoder_is_not_trained_again():
    p = read_params({"encoder": "runs/mae/model"})
    assert encoder_runs(p) == []
    assert decoder_runs(p)[0]["encoder"] == "runs/mae/model"
    assert decoder_runs(read_params({"out": "x"}))[0]["encoder"] == "x/runs/encoder/model"


def test_commands_are_those_of_the_first_seed():
    found = commands(read_params({"seed": 3, "seeds": 2, "variants": ["CFM"]}))
    assert [row["model"] for row in found] == ["encoder", "decoder", "CFM"]
    assert found[0]["command"].startswith("python -m fmlib.train --data=synthetic-grey")
    assert "--fusion=cfm" in found[2]["command"]
    assert "cfm-3" in found[2]["command"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"variants": ["CFM2"]}, "'CFM2'"),
        ({"steps": [1, 2]}, r"steps \[1, 2\] and lr .* need three entries"),
        ({"step": [1, 2, 3]}, "step"),
    ],
)
def test_bad_parameters(given, message):
    with pytest.raises(ValueError, match=message):
        read_params(given)


# ---- pictures and scores ----------------------------------------------------------------------------------------


def test_fused_pictures_lie_beside_the_baselines(study):
    p, names = study
    assert names == ["0004", "0005"]
    fusion_results.fuse(p)
    found = fusion_results.pictures(p, names[0])
    assert list(found)[:3] == ["infrared alone", "visible alone", "mean"]
    assert set(found) == {*BASELINES, *p.variants}
    assert {picture.shape for picture in found.values()} == {(84, 80)}
    assert (found["visible alone"] == fusion_results.read_grey(fusion_results.source(p, "vi", names[0]))).all()
    other = fusion_results.pictures(p, names[0], seed=1)
    assert (other["token mean"] == found["token mean"]).all(), "nothing in it is trained"
    assert (other["CFM"] != found["CFM"]).any()
    visible, fused = fusion_results.colour_pictures(p, names[0], "CFM")
    assert visible.shape == fused.shape == (84, 80, 3)
    assert fusion_results.middle(p, names[0], patches=6) == (18, 16, 48)


def test_scores_have_every_method_seed_and_metric(study):
    p, names = study
    fusion_results.fuse(p)
    rows = fusion_results.score(p) + fusion_results.block_rows(p, names, fusion_results.patch_side(p))
    assert "MS-SSIM" not in {row["metric"] for row in rows}, "pictures of 80 pixels are too small for it"
    values = {(row["method"], row["seed"], row["metric"]): row["value"] for row in rows}
    assert len(values) == len(rows)
    assert {key[:2] for key in values} == {(n, s) for n in p.variants for s in (0, 1)} | {(n, 0) for n in BASELINES}
    for method in (*BASELINES, *p.variants):
        assert {"CC", "PSNR", "block noise"} <= {key[2] for key in values if key[0] == method}
    assert ("infrared alone", 0, "SCD") not in values, "not defined"
    assert values["mean", 0, "PSNR"] == max(v for (_, _, metric), v in values.items() if metric == "PSNR")
    pairs = [fusion_results.pictures(p, name, 1)["CFM"] for name in names]
    expected = np.mean([fusion_results.block_noise(pixels, 8) for pixels in pairs])
    assert values["CFM", 1, "block noise"] == pytest.approx(expected)


def test_a_pair_that_fails_is_named(study, tmp_path):
    p, _ = study
    broken = read_params({"out": str(tmp_path), "variants": ["CFM"], "data_root": p.data_root, "test_pairs": 1})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cfm-0").symlink_to(run_folders(p)["CFM", 0])
    fusion_results.write_pairs(broken)
    fusion_results.source(broken, "ir", "0004").write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"CFM: .*0004"):
        fusion_results.fuse(broken)


def test_radar_takes_the_place_of_infrared(study, monkeypatch):
    modalities = {
        "s1": Modality("s1", ("VV",), "dB", (-50, 20), (-10.0,), (5.0,)),
        "s2": Modality("s2", ("grey",), "digital number", (0, 255), (99.0,), (9.0,)),
    }
    rng = np.random.default_rng(0)
    sample = {"s1": rng.uniform(-25, 0, (1, 40, 40)), "s2": rng.uniform(0, 255, (1, 40, 40))}

    class Scenes(list):
        modalities = property(lambda self: modalities)

    monkeypatch.setattr(fusion_results, "open_dataset", lambda *_: Scenes([sample]))
    found = fusion_results.fuse_radar(study[0], "scenes")
    assert list(found) == ["radar", "optical", "mean", "max", "Laplacian pyramid", *study[0].variants]
    expected = 255 * (sample["s1"][0] + 25) / 25  # decibels from −25 to 0
    assert abs(found["radar"] - expected).max() <= 1
    assert {picture.shape for picture in found.values()} == {(40, 40)}


# ---- features ---------------------------------------------------------------------------------------------------


def test_tokens_by_depth_end_where_the_encoder_ends(study):
    model = load(f"{run_folders(study[0])['CFM', 0]}/model").eval()
    images = {name: 255 * torch.rand(3, 1, 32, 24, generator=generator(n)) for n, name in enumerate(("ir", "vi"))}
    depths = tokens_by_depth(model, images)
    assert len(depths) == 1 + len(model.encoder.blocks)
    assert depths[0].shape == (2, 3, 12, model.config["embed_dim"])
    assert depths[-1].mean((0, 1)).abs().max() < 1e-4, "the mean of each place is taken away"
    model.encoder.norm = torch.nn.Identity()
    after = torch.stack([model.encoder(images[name]) for name in ("ir", "vi")])
    torch.testing.assert_close(depths[-1], after - after.mean((0, 1)))


def test_similarity_tells_places_apart():
    tokens = torch.randn(1, 5, 12, 64, generator=generator(0))
    same, other = similarity(torch.cat([tokens, tokens]))
    assert same == pytest.approx(1, abs=1e-5)
    assert other == pytest.approx(0, abs=0.05)
    assert similarity(torch.cat([tokens, -tokens]))[0] == pytest.approx(-1, abs=1e-5)


def test_colours_follow_the_strongest_direction():
    strength = torch.linspace(-1, 1, 12)
    tokens = (strength[:, None] * torch.randn(32, generator=generator(1))).expand(2, 3, 12, 32)
    tokens = tokens + 0.01 * torch.randn(2, 3, 12, 32, generator=generator(2))
    red = token_colours(tokens, (3, 4))[..., 0].reshape(6, 12)
    assert abs(np.corrcoef(red.mean(0), strength)[0, 1]) > 0.99
    assert (red >= 0).all()
    assert (red <= 1).all()


def test_token_maps_are_of_the_first_pair(study):
    found = fusion_results.token_maps(study[0], pairs=2, columns=3)
    assert list(found["sources"]) == ["infrared", "visible"]
    assert list(found["colours"]) == ["embedding", "block 2", "block 4"]
    assert {colours.shape for colours in found["colours"].values()} == {(2, 4, 4, 3)}
    assert len(found["notes"]) == 3


# ---- made pairs -------------------------------------------------------------------------------------------------


def test_made_pairs_are_whole_equal_and_kept(tmp_path):
    one, two = (generate_pairs(tmp_path / name, 6, 0, 24, jobs=1) for name in ("one", "two"))
    files = sorted(path.relative_to(one) for path in one.rglob("*.png"))
    assert len(files) == 12
    assert [str(f.parent) for f in files if f.stem == "0001"] == ["validation/ir", "validation/vi"]
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
    with Image.open(one / "train/ir/0000.png") as ir, Image.open(one / "train/vi/0000.png") as vi:
        assert (ir.mode, vi.mode, ir.size, vi.size) == ("L", "RGB", (24, 24), (24, 24))
        assert np.asarray(ir).min() == 0
        assert np.asarray(ir).max() == 255
    (one / "train/ir/0000.png").unlink()
    generate_pairs(one, 6, 0, 24)
    assert not (one / "train/ir/0000.png").exists(), "a finished folder is left as it is"
    with pytest.raises(ValueError, match=r"holds scenes made with pairs=6 \(asked for: 7\)"):
        generate_pairs(one, 7, 0, 24)
    with pytest.raises(ValueError, match="count 4, seed 0: count must be 5 or more"):
        generate_pairs(tmp_path / "three", 4)


def test_a_picture_spans_all_grey_levels():
    kelvin = np.linspace(280, 300, 1000).reshape(20, 50)
    made = to_picture(kelvin)
    assert (made.min(), made.max(), made.dtype) == (0, 255, np.uint8)
    assert (np.diff(made.ravel().astype(int)) >= 0).all()
    assert (to_picture(np.full((3, 3), 7.0)) == 0).all()
