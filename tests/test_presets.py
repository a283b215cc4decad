"""The protocols, carried out on tiny archives in the published layouts."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from archives import make_ombria
from rasterio.transform import from_origin

from fmlib.data import preload
from fmlib.evaluate import BIGEARTHNET_V2, DINO_MM, OMBRIA, SEN12MS, FinetuneParams, ProbeParams, run_protocol
from fmlib.evaluate.protocol import draws, open_splits
from fmlib.evaluate.segmentation import LINEAR
from fmlib.manifest import load_manifest
from fmlib.models.fusmae import fusmae
from fmlib.scenes import generate

SIDE = 16
FAST = ProbeParams(weight_decays=(1e-2,), epochs=10)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """24 made scenes in the layout of BigEarthNet v2."""
    root = tmp_path_factory.mktemp("data")
    generate(root / load_manifest("bigearthnet-v2").folder, 24, jobs=1)
    return root


@pytest.fixture(scope="module")
def sen12ms(tmp_path_factory):
    """Scenes of two classes, forest and water, which differ in both sensors."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number, scene in enumerate((15, 17, 1, 2, 3, 4, 5, 6)):  # the first two are of the published test list
        for patch in range(2):
            code = (1, 17)[(number + patch) % 2]
            images = {
                "s1": rng.normal(-10 if code == 1 else -20, 1, (2, SIDE, SIDE)).astype(np.float32),
                "s2": rng.integers(1, 400 if code == 17 else 4000, (13, SIDE, SIDE)).astype(np.uint16),
                "lc": np.full((4, SIDE, SIDE), code, np.uint16),
            }
            for kind, pixels in images.items():
                folder = root / "sen12ms/ROIs1158_spring" / f"{kind}_{scene}"
                folder.mkdir(parents=True, exist_ok=True)
                grid = {"transform": from_origin(500000, 5000000, 10, 10), "crs": "EPSG:32633", "driver": "GTiff"}
                shape = {"count": len(pixels), "height": SIDE, "width": SIDE, "dtype": pixels.dtype}
                path = folder / f"ROIs1158_spring_{kind}_{scene}_p{patch}.tif"
                with rasterio.open(path, "w", **grid, **shape) as file:
                    file.write(pixels)
    return root


def model_of(splits):
    torch.manual_seed(0)
    return fusmae("nano", list(splits["train"].modalities.values()), img_size=24).eval()


def opened(protocol, root):
    return {part: preload(data, progress=False) for part, data in open_splits(protocol, root).items()}


def test_dino_mm_linear_evaluation(scenes):
    """On made scenes at a fifth of the size: 19 classes, three sets of sensors, the batch average beside the whole."""
    protocol = replace(
        DINO_MM,
        data="bigearthnet-v2",
        options=DINO_MM.options | {"size": 32},
        crop=24,
        cls_layers=3,
        fractions=(0.5, 1.0),
        probe=replace(DINO_MM.probe, epochs=3, batch_size=4),
        batch_average=2,
    )
    splits = opened(protocol, scenes)
    assert splits["test"].split == "validation"
    rows = run_protocol(protocol, model_of(splits), splits=splits)
    assert [(r["sensors"], r["fraction"]) for r in rows] == [(s, f) for s in ("s1", "s2", "s1+s2") for f in (0.5, 1.0)]
    for row in rows:
        assert (row["split"], row["method"], row["seed"]) == ("validation", "linear", 42)
        assert row["labels"] == round(row["fraction"] * len(splits["train"]))
        assert 0 < row["ap_micro"] <= 1
        assert row["ap_micro_batch_averaged"] != row["ap_micro"]
        assert (row["chosen"]["lr"], row["chosen"]["weight_decay"]) == (0.01, 0.0)


def test_bigearthnet_v2_linear_and_fine_tuned(scenes):
    quick = replace(BIGEARTHNET_V2.finetune, epochs=1, batch_size=8)
    protocol = replace(
        BIGEARTHNET_V2,
        options={"size": 24},
        sensors=(("s1", "s2"),),
        fractions=(0.5, 1.0),
        seeds=(0, 1),
        probe=FAST,
        finetune=quick,
    )
    splits = opened(protocol, scenes)
    rows = run_protocol(protocol, model_of(splits), splits=splits)
    # two pools × (two seeds of half the labels + all labels once)
    assert [sum(r["method"] == m for r in rows) for m in ("linear", "finetuned")] == [6, 6]
    assert {"ap_macro", "ap_micro", "f1_macro", "f1_micro", "ap_micro_batch_averaged"} <= set(rows[0])
    assert all(row["split"] == "test" and row["protocol"] == protocol.name for row in rows)
    protocol = replace(protocol, pools=("cls",))
    linear = run_protocol(protocol, model_of(splits), scenes, methods=["linear"])  # from disk
    assert linear == rows[:3]


def test_sen12ms_single_labels(sen12ms):
    protocol = replace(
        SEN12MS,
        options=SEN12MS.options | {"shares": {"validation": 0.3}, "on_missing": "skip"},
        fractions=(1.0,),
        pools=("mean",),
        probe=FAST,
        finetune=FinetuneParams("single", epochs=3, warmup=0, batch_size=4, lr=2e-3),
    )
    splits = opened(protocol, sen12ms)
    assert len(splits["test"]) == 4
    rows = run_protocol(protocol, model_of(splits), splits=splits)
    assert [(r["method"], r["sensors"]) for r in rows] == [
        (m, s) for m in ("linear", "finetuned") for s in ("s1", "s2", "s1+s2")
    ]
    assert all(row["accuracy"] == row["class_accuracy"] == 1.0 for row in rows if row["method"] == "linear")
    assert "ap_micro" not in rows[0]


def test_ombria_maps_from_both_dates(tmp_path):
    """Dates of a site stand side by side, labels are drawn by site, and each score has its interval over sites."""
    root = make_ombria(tmp_path, train=20, test=4)
    protocol = replace(
        OMBRIA,
        has_class=None,
        drop_sensors=False,
        fractions=(0.3, 1.0),
        seeds=(0, 1),
        sensors=(("s2",), ("s1", "s2")),
        probe=replace(LINEAR, epochs=5, weight_decays=(1e-3,)),
        finetune=FinetuneParams("segmentation", head="linear", epochs=1, warmup=0, batch_size=8, crop=64),
    )
    splits = opened(protocol, root)
    rows = run_protocol(protocol, model_of(splits), splits=splits)
    keys = [(row["method"], row["sensors"], row["fraction"], row["labels"]) for row in rows]
    linear = [("linear", sensors, *share) for sensors in ("s2", "s1+s2") for share in ((0.3, 5), (0.3, 5), (1.0, 17))]
    assert keys == linear + [("finetuned", *key[1:]) for key in linear]  # 20 sites less 3 for validation
    for row in rows:
        assert row["miou_low"] <= row["miou"] <= row["miou_high"]
    assert rows[2]["miou"] > 0.6  # the mask is a threshold of the optical scene
    assert rows[0]["miou"] != rows[1]["miou"]  # other sites were labelled


def test_shares_of_labels_are_nested_and_without_replacement():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (500, 19)))
    drawn = {(fraction, seed): set(rows.tolist()) for fraction, seed, rows in draws(BIGEARTHNET_V2, labels)}
    assert list(drawn) == [(f, s) for f in (0.01, 0.1) for s in (0, 1, 2)] + [(1.0, 0)]
    assert [len(drawn[f, 0]) for f in (0.01, 0.1, 1.0)] == [5, 50, 500]
    assert drawn[0.01, 1] < drawn[0.1, 1]
    assert drawn[0.1, 0] != drawn[0.1, 1]


def test_settings_are_those_published():
    """DINO-MM: SGD, 0.01 for a batch of 256, no decay, 100 epochs, four class tokens, 112 of 128 pixels."""
    probe = DINO_MM.probe
    assert (probe.optimizer, probe.lrs, probe.weight_decays, probe.epochs) == ("sgd", (0.01,), (0.0,), 100)
    assert (probe.batch_size, probe.standardise, DINO_MM.cls_layers) == (256, False, 4)
    assert (DINO_MM.options["size"], DINO_MM.crop, DINO_MM.seeds, DINO_MM.fractions) == (128, 112, (42,), (0.01, 1.0))
    assert len(load_manifest(DINO_MM.data).classes) == 19
    assert DINO_MM.differs
