"""Several processes train the model that one would have trained, and stop together."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from fmlib.distributed import Ranks
from fmlib.launch import launch
from fmlib.masking import SensorMask
from fmlib.resume import read_log
from fmlib.train import check_ranks, read_params, train

QUICK = {"preset": "nano", "img_size": 32, "patch_size": 8, "batch_size": 8, "steps": 6}
QUICK |= {
    "lr": 0.02,
    "sensor_drop": 0.3,
    "warmup": 2,
    "log_every": 2,
    "save_every": 2,
    "validate_every": 0,
    "num_threads": 1,
}


TOML = """
on_missing = "keep"
[shares]
validation = 0
[sensors.sar]
path = "sar/{id}.npy"
bands = ["VV"]
unit = "dB"
valid_range = [-40, 10]
mean = [-12]
std = [4]
[sensors.rgb]
path = "rgb/{id}.npy"
bands = ["R", "G", "B"]
unit = "reflectance"
valid_range = [0, 1]
mean = [0.3, 0.3, 0.3]
std = [0.1, 0.1, 0.1]
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Images of two sensors; half of the samples lack radar, so unevenly in every batch."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(24):
        for sensor, image in (("sar", rng.normal(-12, 4, (1, 40, 40))), ("rgb", rng.random((3, 40, 40)))):
            (root / sensor).mkdir(exist_ok=True)
            if sensor == "rgb" or rng.random() < 0.5:
                np.save(root / sensor / f"{number:02d}.npy", image.astype(np.float32))
    (root / "pairs.toml").write_text(TOML)
    return root / "pairs.toml"


def params(pairs, out, **options) -> dict:
    return QUICK | {"data": str(pairs), "out": str(out)} | options


def start(given: dict, folder, processes: int) -> subprocess.Popen:
    path = folder / "params.json"
    path.write_text(json.dumps(given))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    env = os.environ | {"FMLIB_BATCH": "1", "OMP_NUM_THREADS": "1"}
    with open(folder / "printed.txt", "w") as printed:
        return subprocess.Popen([*command, "-m", "fmlib.train", str(path)], env=env, stdout=printed, stderr=printed)


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def largest_difference(a, b) -> float:
    return max(float((a[key] - b[key]).abs().max()) for key in a | b)


@pytest.fixture(scope="module")
def alone(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    train(params(pairs, out))
    return out


def test_two_processes_train_the_same_model_as_one(pairs, alone, tmp_path):
    """Started as a notebook starts it, each process in two parts."""
    launch([params(pairs, tmp_path / "run", accumulate=2)], ranks=2)
    assert largest_difference(weights(alone), weights(tmp_path / "run")) < 1e-4
    here, there = (read_log(out) for out in (alone, tmp_path / "run"))
    assert [row["step"] for row in here] == [row["step"] for row in there] == [2, 4, 6]
    assert [row["loss"] for row in here] == pytest.approx([row["loss"] for row in there], abs=1e-5)


def test_parts_of_a_batch_count_by_what_they_have(pairs, alone, tmp_path, monkeypatch):
    """Parts hold unequal numbers of radar images: a plain mean over parts is not the loss of the batch."""
    train(params(pairs, tmp_path / "parts", accumulate=4))
    assert largest_difference(weights(alone), weights(tmp_path / "parts")) < 1e-4
    monkeypatch.setattr(SensorMask, "part", lambda mask, rows: replace(mask[rows], share=1 / 4))
    train(params(pairs, tmp_path / "mean", accumulate=4))
    assert largest_difference(weights(alone), weights(tmp_path / "mean")) > 5e-4


def test_a_killed_process_stops_all_and_any_number_goes_on(pairs, alone, tmp_path):
    given = params(pairs, tmp_path / "run")
    process = start(given, tmp_path, 2)
    while not (tmp_path / "run" / "state.pt").exists() and process.poll() is None:
        time.sleep(0.005)
    ranks = [p for p in psutil.Process(process.pid).children() if "fmlib.train" in " ".join(p.cmdline())]
    ranks[-1].send_signal(signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert not psutil.pid_exists(ranks[0].pid) or psutil.Process(ranks[0].pid).status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / "run" / "model").exists()
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] < given["steps"]
    train(given)  # in one process
    assert largest_difference(weights(alone), weights(tmp_path / "run")) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 6}, "does not divide among 4"), ({"method": "infonce", "fusion": "none"}, "whole batch")],
)
def test_what_cannot_be_shared_out_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_ranks(read_params(QUICK | options), Ranks(0, 4))


def test_rows_of_all_processes_are_the_batch():
    assert [list(range(12))[Ranks(rank, 3).rows(12)] for rank in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
