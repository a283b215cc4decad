"""The benchmark counts what it says it counts."""

import json
import subprocess
import sys

import pytest
import torch
from archives import make_ombria

from fmlib.bench.loader import bench_loader, prepare
from fmlib.bench.plain import plain_loss
from fmlib.bench.sustained import bench_sustained
from fmlib.bench.train import bench_train
from fmlib.cli import main
from fmlib.data import open_dataset
from fmlib.data.pack import pack
from fmlib.data.records import Records
from fmlib.manifest import load_manifest
from fmlib.masking import draw_masks
from fmlib.train import TrainParams, build

SMALL = TrainParams(data="ombria", preset="nano", img_size=32, patch_size=8, batch_size=4, num_threads=1, device="cpu")


def test_figures_agree_with_each_other():
    found = bench_train(SMALL, seconds=0.1)
    assert found["pairs_per_s"] == pytest.approx(4 / (found["ms_per_step"] / 1e3))
    assert found["share"] == pytest.approx(found["tflop_per_s"] / found["matrix_tflop_per_s"])
    assert 0 < found["share"] < 1
    assert found["peak_memory_gib"] is None


@pytest.mark.parametrize("fusion", ["none", "xad", "xae", "xaed"])
@pytest.mark.parametrize("queries", ["latent", "grid"])
def test_the_plain_way_gives_the_same_loss_and_gradients(fusion, queries):
    options = {"fusion": fusion, "decoder_queries": queries, "norm_target": "group"}
    params = SMALL.__class__(**vars(SMALL) | options)
    model = build(params, load_manifest("ombria").sensors)
    images = {m.name: torch.randn(2, m.in_chans, 32, 32) * 50 + 100 for m in model.modalities.values()}
    masks = draw_masks(model.grids, 2, "independent", 0.75, generator=torch.Generator().manual_seed(0))
    losses = [model(images, masks).loss, plain_loss(model, images, masks)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    ours, plain = (torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) for loss in losses)
    for a, b in zip(ours, plain, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-5)


def test_it_is_compared_with_the_plain_way_in_one_run():
    found = bench_train(SMALL, seconds=0.1, against="plain")
    assert found["times_plain"] == pytest.approx(found["plain_ms_per_step"] / found["ms_per_step"])
    with pytest.raises(ValueError, match="method 'mae'"):
        bench_train(SMALL.__class__(**vars(SMALL) | {"method": "infonce", "fusion": "none"}), against="plain")
    with pytest.raises(ValueError, match="no padded masks"):
        bench_train(SMALL.__class__(**vars(SMALL) | {"sensor_drop": 0.5}), against="plain")


def test_work_grows_with_what_is_shown():
    """Twice the visible patches cost more than half again as much in the encoder, at least a fifth in all."""
    few, many = (bench_train(SMALL.__class__(**vars(SMALL) | {"mask_ratio": r}), seconds=0.1) for r in (0.75, 0.25))
    work = [f["tflop_per_s"] * f["ms_per_step"] for f in (few, many)]
    assert work[1] > 1.2 * work[0]


@pytest.mark.parametrize("method", ["infonce", "dino"])
def test_other_methods_are_timed_by_their_own_step(method):
    options = {"method": method, "fusion": "stack" if method == "dino" else "none", "mask_strategy": "consistent"}
    params = SMALL.__class__(**vars(SMALL) | options)
    found = bench_train(params, seconds=0.1)
    assert found["pairs_per_s"] == pytest.approx(4 / (found["ms_per_step"] / 1e3))


def test_command_prints_json(capsys):
    words = ["--data=ombria", "--preset=nano", "--img_size=32", "--batch_size=4", "--num_threads=1", "--device=cpu"]
    assert main(["bench", "train", *words]) == 0
    assert json.loads(capsys.readouterr().out)["pairs_per_s"] > 0


def test_loaders_give_the_same_batches_and_records_are_fastest(tmp_path):
    formats = prepare(tmp_path, patches=16)
    tiff, encoded, records = (formats[name][0](range(formats[name][3])) for name in formats)
    for key, bands in tiff.items():
        assert torch.equal(bands, encoded[key])
        assert torch.equal(bands, records[key])
    found = bench_loader(tmp_path, patches=16, workers=(0,), seconds=0.1, rounds=1)
    size = found["bytes_per_patch"]
    assert size == 275_200  # 4 · 120² · 2 + 6 · 60² · 2 + 2 · 20² · 2 + 2 · 120² · 4
    for figures in found["formats"].values():
        for kind in ("cold", "warm, 0 workers"):
            assert figures[kind]["mb_per_s"] == pytest.approx(figures[kind]["patches_per_s"] * size / 1e6)
    assert found["records_over"]["14 GeoTIFFs"] > 5


def test_an_epoch_reads_every_record_once(tmp_path, capsys, monkeypatch):
    root = make_ombria(tmp_path, train=20, test=2)
    folder = pack(open_dataset("ombria", "train", root), tmp_path / "records", workers=0)
    seen = []
    read = Records.stored_batch
    monkeypatch.setattr(Records, "stored_batch", lambda self, indices: seen.extend(indices) or read(self, indices))
    capsys.readouterr()
    assert main(["bench", "epoch", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(seen) == list(range(34))
    assert found["patches"] == 34
    assert found["patches_per_s"] == pytest.approx(34 / found["epoch_s"])
    assert found["peak_memory_mb"] >= found["memory_mb"]["the end"] > 50


def test_fusing_takes_no_more_memory_for_taller_images(capsys):
    assert main(["bench", "fuse", "--sides", "160", "480", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pairs_per_s"] == pytest.approx(1e3 / found["ms_per_pair"])
    small, large = found["memory"]
    assert [small["side"], large["side"]] == [160, 480]
    assert 0 < large["peak_mb"] < 1.3 * small["peak_mb"]


def test_a_gpu_machine_trains_from_records_without_what_notebooks_need(tmp_path):
    """Minutes shrunk to seconds; on such a machine there is no rasterio and no papermill."""
    names = ("rasterio", "pyarrow", "papermill", "matplotlib", "scipy", "lmdb", "psutil")
    call = f"import sys; sys.modules.update(dict.fromkeys({names})); import fmlib.cli as c; "
    call += "sys.exit(c.main(['bench', 'train', '--seconds', '0.1', *sys.argv[9:]]) or c.main(sys.argv[1:]))"
    words = ["bench", "sustained", "--folder", tmp_path, "--patches", "24", "--seconds", "1"]
    settings = ["--data=bigearthnet-v2", "--preset=nano", "--img_size=32", "--batch_size=8", "--device=cpu"]
    done = subprocess.run([sys.executable, "-c", call, *words, *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    step, found = (json.loads(text) for text in done.stdout.replace("}\n{", "}\0{").split("\0"))  # nothing but JSON
    assert step["pairs_per_s"] == pytest.approx(8e3 / step["ms_per_step"])
    assert found["patches"] == 24
    assert found["gb"] == pytest.approx(24 * 275_200 / 1e9)
    assert found["slowest"] <= found["pairs_per_s"] <= found["fastest"]
    assert found["idle"] == pytest.approx(1 - found["pairs_per_s"] / found["alone_pairs_per_s"])
    assert 0 <= found["waited"] < 1
    assert found["projected_hours"] == pytest.approx(237_871 * 100 / found["pairs_per_s"] / 3600)


def test_sustained_training_is_that_of_one_data_set(tmp_path):
    with pytest.raises(ValueError, match="give data 'bigearthnet-v2'"):
        bench_sustained(SMALL, tmp_path)
