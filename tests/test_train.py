"""The training loop: it learns, repeats itself, survives a kill, and stops on what is broken."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
from archives import make_ombria
from safetensors.torch import load_file

from fmlib.launch import grid, launch, only_train_params, raw_first
from fmlib.manifest import load_manifest
from fmlib.resume import read_log
from fmlib.train import NonFiniteLoss, TrainParams, build, main, read_params, train
from fmlib.weights import load

QUICK = {"data": "ombria", "preset": "nano", "img_size": 32, "patch_size": 8, "batch_size": 8, "steps": 12, "lr": 0.02}
QUICK |= {"warmup": 2, "log_every": 3, "save_every": 4, "validate_every": 6, "validation_samples": 4, "num_threads": 1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_ombria(tmp_path_factory.mktemp("data"))


def params(archive, out, **options) -> dict:
    return QUICK | {"data_root": str(archive), "out": str(out)} | options


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def same(a, b) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a | b)


def test_it_learns_and_leaves_what_design_says(archive, tmp_path):
    model = train(params(archive, tmp_path, steps=60, norm_target="none"))
    log = read_log(tmp_path)
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    checked = [r for r in log if "validation" in r]
    assert [r["step"] for r in checked] == list(range(6, 61, 6))
    assert checked[-1]["validation"]["s2"] < checked[0]["validation"]["s2"]
    assert {"model", "params.json", "log.jsonl", "state.pt"} == {p.name for p in tmp_path.iterdir()}
    assert json.loads((tmp_path / "params.json").read_text())["steps"] == 60
    assert not model.training


def test_the_seed_decides_bit_by_bit(archive, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(params(archive, tmp_path / name, seed=seed, sensor_drop=0.3, mask_strategy="dirichlet"))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_killed_at_any_step_it_ends_with_the_same_weights(archive, tmp_path, monkeypatch):
    """SIGKILL three times at different steps, begun again with the same parameters each time."""
    monkeypatch.setenv("FMLIB_BATCH", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fmlib.train"])  # imported once for all three
    given = params(archive, tmp_path / "killed", steps=30, save_every=7, log_every=1)
    for target in (3, 12, 22):
        process = context.Process(target=train, args=(given,))
        process.start()
        while not any(r["step"] >= target for r in read_log(given["out"])) and process.is_alive():
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    train(given)
    train(given | {"out": str(tmp_path / "whole")})
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    steps = [r["step"] for r in read_log(tmp_path / "killed")]
    assert steps == list(range(1, 31))  # each step logged once


def test_a_finished_run_is_not_run_again(archive, tmp_path):
    train(params(archive, tmp_path))
    log, written = (tmp_path / "log.jsonl").read_text(), (tmp_path / "state.pt").stat().st_mtime_ns
    model = train(params(archive, tmp_path))
    assert (tmp_path / "log.jsonl").read_text() == log
    assert (tmp_path / "state.pt").stat().st_mtime_ns == written
    assert same(weights(tmp_path), model.state_dict())


def test_without_steps_it_leaves_random_weights(archive, tmp_path):
    """The baseline of random features: the weights drawn from the seed, in a folder like any other."""
    train(params(archive, tmp_path / "a", steps=0))
    p = read_params(params(archive, tmp_path / "a", steps=0))
    drawn = build(p, load_manifest("ombria").sensors)
    assert same(weights(tmp_path / "a"), drawn.state_dict())
    train(params(archive, tmp_path / "b", steps=1, warmup=0))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_kill_between_the_last_state_and_the_model_loses_nothing(archive, tmp_path):
    train(params(archive, tmp_path))
    whole = weights(tmp_path)
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "model" / "model.safetensors").unlink()
    train(params(archive, tmp_path))
    assert same(weights(tmp_path), whole)


def test_one_sensor_alone(archive, tmp_path):
    """A plain MAE of one sensor sees, predicts and logs that sensor only."""
    model = train(params(archive, tmp_path, sensors=["s2"], fusion="none"))
    assert list(model.modalities) == ["s2"]
    last = read_log(tmp_path)[-1]
    assert "s2" in last
    assert "s1" not in last
    assert list(last["validation"]) == ["s2"]


def test_switches_reach_the_model_and_its_checkpoint(archive, tmp_path):
    options = {"decoder_depth": 2, "decoder_embed_dim": 64, "joint_attention": False, "cross_queries": ["s1"]}
    train(params(archive, tmp_path, steps=1, cross_shared=True, **options))
    model = load(tmp_path / "model")
    assert {key: model.config[key] for key in options} == options
    assert model.config["cross_shared"] is True
    assert len(model.decoders["s1"].blocks) == 2
    assert model.decoders["s1"].mask_token.shape == (64,)
    assert read_params({}).decoder_depth == 0
    preset = build(read_params({"preset": "nano"}), load_manifest("ombria").sensors).config
    assert (preset["decoder_depth"], preset["decoder_embed_dim"]) == (1, 96)


def test_accumulation_changes_nothing_but_memory(archive, tmp_path):
    for parts in (1, 2, 4):
        train(params(archive, tmp_path / str(parts), accumulate=parts, steps=4))
    one = weights(tmp_path / "1")
    for parts in ("2", "4"):
        other = weights(tmp_path / parts)
        assert max((one[k] - other[k]).abs().max() for k in one) < 2e-4


def test_no_decay_on_norms_biases_and_tokens(archive, tmp_path):
    model = train(params(archive, tmp_path, steps=1))
    spared = [name for name, weight in model.named_parameters() if weight.ndim <= 1 or name == "cls_token"]
    groups = torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [g["weight_decay"] for g in groups] == [0.0, 0.05]
    assert len(groups[0]["params"]) == len(spared)
    assert groups[0]["betas"] == (0.9, 0.95)


def test_learning_rate_warms_up_and_falls_to_nothing(archive, tmp_path):
    train(params(archive, tmp_path, log_every=1))
    rates = [r["lr"] for r in read_log(tmp_path)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(0.02 * 8 / 256)
    assert rates.index(max(rates)) == 2
    assert rates[-1] < 0.05 * max(rates)


def test_broken_numbers_stop_it_and_name_the_samples(archive, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"at step \d+ of .*its samples: train/\d+/"):
        train(params(archive, tmp_path, lr=1e30, clip_grad=0.0, log_every=1, norm_target="none"))
    state = torch.load(tmp_path / "state.pt", weights_only=True) if (tmp_path / "state.pt").exists() else {"model": {}}
    assert all(v.isfinite().all() for v in state["model"].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusoin": "xad"}, "no parameter 'fusoin'; did you mean 'fusion'"),
        ({"steps": "12"}, "'steps' must be int"),
        ({"steps": -1}, "steps -1 must be at least 0"),
        ({"accumulate": 3}, "must divide batch_size"),
        ({"method": "simclr"}, "method is 'simclr'; choose one of mae, infonce, dino"),
        ({"method": "infonce"}, "each encoded alone: set fusion='none'"),
        ({"method": "infonce", "fusion": "none", "sensors": ["s1"]}, "give two or more"),
        ({"sensors": ["s1"]}, r"nothing to fuse with sensors=\['s1'\]; set fusion='none'"),
        ({"sensors": ["s1", "s3"]}, r"ombria: no sensor \['s3'\]; it has s1, s2"),
        ({"sensors": [1]}, "'sensors', element 0 must be str"),
        ({"joint_attention": "yes"}, "'joint_attention' must be bool | None"),
        ({"cross_queries": ["s3"]}, r"\['s3'\] cannot query in cross-attention; the sensors are s1, s2"),
        ({"img_size": 30}, "img_size 30 does not divide into patches of 8"),
        ({"fusion": "stack"}, "set mask_strategy='consistent'"),
        ({"precision": "fp16"}, "precision is 'fp16'; choose one of auto, fp32, bf16"),
        ({"batch_size": 512}, "fewer than one batch of 512"),
        ({"data": "landsat"}, "landsat"),
    ],
)
def test_bad_parameters_say_what_to_do(archive, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(params(archive, tmp_path) | options)


def test_another_run_is_not_overwritten(archive, tmp_path):
    train(params(archive, tmp_path))
    with pytest.raises(ValueError, match=r"other parameters \(fusion was 'xaed', is 'xad'\)"):
        train(params(archive, tmp_path, fusion="xad"))
    (tmp_path / "state.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"state\.pt cannot be read .* remove it"):
        train(params(archive, tmp_path))


def test_command_line_and_notebook_share_the_names(archive, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(params(archive, tmp_path / "run", steps=2)))
    main([str(tmp_path / "p.json"), "--fusion=xad", "--lr=1e-3", "--cross_queries=['s1']", "--joint_attention=true"])
    written = json.loads((tmp_path / "run" / "params.json").read_text())
    assert (written["fusion"], written["lr"]) == ("xad", 1e-3)
    assert (written["cross_queries"], written["joint_attention"]) == (["s1"], True)
    assert only_train_params({"fusion": "xad", "seeds": [0], "np": None}) == {"fusion": "xad"}
    assert read_params({}) == TrainParams()
    assert asdict(TrainParams())["lr"] == 1.5e-4


def test_a_run_can_start_from_another_ones_weights(archive, tmp_path):
    train(params(archive, tmp_path / "raw", norm_target="none"))
    init = str(tmp_path / "raw" / "model")
    train(params(archive, tmp_path / "next", steps=1, warmup=0, lr=1e-9, init=init))
    first, second = weights(tmp_path / "raw"), weights(tmp_path / "next")
    assert max((first[k] - second[k]).abs().max() for k in first) < 1e-6
    with pytest.raises(ValueError, match=r"do not fit FusMAE: .*unexpected: early_fusion"):
        train(params(archive, tmp_path / "other", fusion="xad", init=init))


def test_raw_patches_first(archive, tmp_path):
    [run] = raw_first([params(archive, tmp_path, steps=2)], 3)
    assert json.loads((tmp_path / "raw" / "params.json").read_text())["norm_target"] == "none"
    train(run)
    assert run["init"] == f"{tmp_path}/raw/model"
    assert raw_first([run], 0) == [run]


def test_a_grid_gives_each_run_its_folder():
    runs = grid({"out": "runs", "lr": 1.0}, fusion=["xad", "none"], seed=range(2))
    assert [r["out"] for r in runs] == ["runs/xad-0", "runs/xad-1", "runs/none-0", "runs/none-1"]
    assert runs[3] == {"out": "runs/none-1", "lr": 1.0, "fusion": "none", "seed": 1}


def test_launch_runs_several_and_tells_which_failed(archive, tmp_path, capsys):
    runs = [params(archive, tmp_path / f, fusion=f, steps=3) for f in ("xad", "none")]
    folders = launch(runs, jobs=2, poll=0.1)
    assert [f.name for f in folders] == ["xad", "none"]
    assert all((f / "model" / "model.safetensors").exists() for f in folders)
    assert "100 % of 6 steps in 2 runs" in capsys.readouterr().out
    more = [runs[0] | {"out": f"{tmp_path}/third"}, params(archive, tmp_path / "broken", batch_size=512)]
    with pytest.raises(RuntimeError, match=r"(?s)third ended with status 1:.*fewer than one batch.*folder: \S+broken"):
        launch(more, poll=0.1)  # one job: both in one process
    with pytest.raises(ValueError, match="same `out`"):
        launch([runs[0], runs[0]])
    with pytest.raises(ValueError, match="fewer than one batch"):  # in this process: its own error
        launch([params(archive, tmp_path / "here", batch_size=512)], jobs=0)
    launch([params(archive, tmp_path / "here", steps=3)], jobs=0)
    assert (tmp_path / "here" / "model" / "model.safetensors").exists()


def test_it_trains_without_the_packages_a_gpu_image_lacks(archive, tmp_path):
    """fmlib.train and what it needs import without rasterio, pyarrow, torchmetrics, papermill and ipywidgets."""
    code = (
        "import sys\n"
        "for name in ('rasterio', 'pyarrow', 'scipy', 'torchmetrics', 'papermill', 'nbconvert', 'ipywidgets'):\n"
        "    sys.modules[name] = None\n"
        "import fmlib.evaluate\nfrom fmlib.train import main\nmain([sys.argv[1], '--steps=1'])\n"
    )
    (tmp_path / "p.json").write_text(json.dumps(params(archive, tmp_path / "run")))
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p.json")], check=True, env=os.environ | {"FMLIB_BATCH": "1"}
    )
    assert (tmp_path / "run" / "model" / "config.json").exists()
