"""What a step costs: operations counted right, parts that add up, savings that change nothing but time."""

import itertools
import mmap
from dataclasses import replace

import pytest
import torch
from test_bench import SMALL

from fmlib.bench import cost, parts, train
from fmlib.bench.attention import bench_attention, map_memory
from fmlib.bench.cost import bench_cost, bench_gains, exponents
from fmlib.bench.parts import BATCH, STEP, Parts, bench_parts
from fmlib.bench.plain import FAST, plain_loss
from fmlib.bench.roofline import bench_roofline
from fmlib.bench.step import COMPILED, OPTIMISER, Step
from fmlib.bench.train import largest_batch, memory_growth
from fmlib.manifest import load_manifest
from fmlib.masking import draw_masks
from fmlib.train import build

CPU = torch.device("cpu")
WIDTH = 128  # of the preset nano


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("fusion", ["none", "xaed"])
@pytest.mark.parametrize("queries", ["latent", "grid"])
def test_every_combination_of_savings_gives_the_same_loss(fusion, queries):
    model = build(replace(SMALL, fusion=fusion, decoder_queries=queries), load_manifest("ombria").sensors)
    images = {m.name: torch.randn(2, m.in_chans, 32, 32) * 50 + 100 for m in model.modalities.values()}
    masks = draw_masks(model.grids, 2, generator=torch.Generator().manual_seed(0))
    loss = model(images, masks).loss.item()
    for count in range(len(FAST) + 1):
        for fast in itertools.combinations(FAST, count):
            assert plain_loss(model, images, masks, fast).item() == pytest.approx(loss, rel=1e-5), fast


def test_steps_that_save_differently_train_the_same_weights():
    fast, plain = (Step(SMALL, CPU, fast=fast) for fast in (None, ()))  # same seed: same weights, images, masks
    losses = [[step().item() for _ in range(4)] for step in (fast, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


# -- cost ---------------------------------------------------------------------------------------------------------


def test_a_block_more_costs_the_operations_it_should():
    """24 N D² of a block's layers, three times (forward, to inputs, to weights), and seven products of N² D."""
    two, three = (Step(SMALL, CPU, depth=depth) for depth in (2, 3))
    tokens = two.visible() + 1  # and the class token
    block = 3 * 24 * tokens * WIDTH**2 + 7 * 2 * tokens**2 * WIDTH
    assert three.flop() - two.flop() == SMALL.batch_size * block


def test_work_is_counted_along_each_axis():
    axes = {
        "batch_size": [2, 4],
        "img_size": [16, 32],
        "mask_ratio": [0.75, 0.5],
        "sensors": [1, 2, 3],
        "depth": [2, 4],
    }
    rows = bench_cost(SMALL, axes, seconds=0.01)
    counts = {axis: [row["count"] for row in rows if row["axis"] == axis] for axis in axes}
    assert counts == {
        "batch_size": [2, 4], "img_size": [4, 16], "mask_ratio": [8, 16], "sensors": [1, 2, 3], "depth": [2, 4]
    }  # fmt: skip
    work = {axis: [row["gflop"] for row in rows if row["axis"] == axis] for axis in axes}
    assert work["batch_size"][1] == pytest.approx(2 * work["batch_size"][0])
    assert all(values == sorted(set(values)) for values in work.values())
    assert all(row["ms"] > 0 for row in rows)
    slopes = {row["axis"]: row["gflop"] for row in exponents(rows)}
    assert slopes["batch_size"] == pytest.approx(1)
    assert 0 < slopes["depth"] < 1  # the rest of the model stays
    with pytest.raises(ValueError, match=r"unknown axes \['width'\]; choose among img_size"):
        bench_cost(SMALL, {"width": [1]})


def test_exponents_are_those_of_power_laws():
    rows = [{"axis": "img_size", "count": n, "gflop": 3 * n**2, "ms": 5 * n**0.5} for n in (4, 16, 36)]
    (found,) = exponents([*rows, {"axis": "depth", "count": 2, "gflop": 1.0, "ms": 1.0}])  # one point has no slope
    assert found["along"] == "patches of a sensor"
    assert found["gflop"] == pytest.approx(2)
    assert found["ms"] == pytest.approx(0.5)


def test_gains_are_ratios_of_the_right_steps(monkeypatch):
    taken = []

    def in_turn(steps, device, seconds):
        taken.extend(steps)
        return [12.0, 2.0, 8.0, 6.0, 10.0, 12.0, 4.0, 3.0, 2.5, 2.0]

    monkeypatch.setattr(cost, "in_turn", in_turn)
    rows = bench_gains(SMALL)
    assert [row["way"] for row in rows] == [*FAST, OPTIMISER, "all together"]
    assert [row["alone"] for row in rows] == [1.5, 2, 1.2, 1, 6]
    assert [row["left_out"] for row in rows] == [2, 1.5, 1.25, 1, None]
    plain, fast, gathered, *_, without_optimiser = taken
    assert plain.eager.fast == ()
    assert fast.eager is fast.model
    assert gathered.eager.fast == FAST[:1]
    assert without_optimiser.eager.fast == FAST
    fused = [step.optimizer.defaults["fused"] for step in (plain, fast, without_optimiser)]
    assert fused == [None, True, None]


def test_compiling_is_a_saving_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **options: "compiled")
    params = replace(SMALL, compile=True)
    ways = {None: "compiled", (COMPILED,): "compiled", FAST: "eager"}
    for fast, way in ways.items():
        step = Step(params, CPU, fast=fast)
        assert step.forward == ("compiled" if way == "compiled" else step.eager)
    monkeypatch.setattr(cost, "in_turn", lambda steps, device, seconds: [1.0] * len(steps))
    assert [row["way"] for row in bench_gains(params)][-2:] == [COMPILED, "all together"]


# -- parts --------------------------------------------------------------------------------------------------------


def test_a_part_within_another_is_counted_once(monkeypatch):
    clock = iter([0, 1, 3, 6, 10, 15, 21])
    monkeypatch.setattr(parts, "now", lambda device: next(clock))
    found = Parts(CPU)
    inner = found.timed("inner", lambda x: x + 1)
    outer = found.timed("outer", lambda x: 2 * inner(x))
    assert outer(3) == 8
    assert found.seconds == {"rest": 1, "outer": 2 + 4, "inner": 3}
    with pytest.raises(ZeroDivisionError):
        found.timed("broken", lambda: 1 / 0)()
    assert found.open == ["rest"]


def test_parts_of_a_real_step(scenes):
    before = torch.Tensor.backward, torch.nn.utils.clip_grad_norm_
    params = replace(SMALL, data="synthetic", data_root=str(scenes), samples=8)
    found = bench_parts(params, seconds=0.1)
    assert (torch.Tensor.backward, torch.nn.utils.clip_grad_norm_) == before
    assert tuple(found["batch"]) == BATCH
    assert tuple(found["step"]) == STEP
    assert all(ms > 0 for bar in found.values() for ms in bar.values())
    assert bench_parts(replace(params, fusion="none"), seconds=0.1)["step"]["cross-attention"] == 0
    with pytest.raises(ValueError, match="method 'mae', not of 'infonce'"):
        bench_parts(replace(params, method="infonce", fusion="none"))


# -- the machine --------------------------------------------------------------------------------------------------


def test_operators_lie_where_their_shapes_put_them():
    found = bench_roofline(SMALL, seconds=0.1)
    operators = {row["name"]: row for row in found["operators"]}
    rows = SMALL.batch_size * (Step(SMALL, CPU).visible() + 1)
    moved = 4 * (rows * WIDTH + 2 * WIDTH**2 + 2 * rows * WIDTH)
    assert operators["encoder: keys and values"]["flop_per_byte"] == pytest.approx(4 * rows * WIDTH**2 / moved)
    assert operators["layer norm"]["flop_per_byte"] == 7 / 8
    fused, explicit = (operators[f"encoder attention, {way}"]["flop_per_byte"] for way in ("fused", "explicit"))
    assert explicit < fused
    for row in operators.values():
        limit = min(found["matrix_tflop_per_s"], row["flop_per_byte"] * found["memory_gb_per_s"] / 1e3)
        assert row["limit_tflop_per_s"] == pytest.approx(limit)
        assert row["share"] == pytest.approx(row["tflop_per_s"] / limit)
    assert found["precision"] == "float32"


def test_attention_both_ways_and_the_memory_of_its_maps():
    found = bench_attention((8, 32), heads=2, width=16, batch=2, device="cpu", seconds=0.01)
    assert [row["tokens"] for row in found["rows"]] == [8, 32]
    for row in found["rows"]:
        assert row["times"] == pytest.approx(row["explicit_ms"] / row["fused_ms"])
        assert row["maps_mib"] == 12 * 2 * row["tokens"] ** 2 * 4 / 2**20
    memory = map_memory(256, heads=4, width=32, depth=3)
    assert memory["maps_mib"] == 3
    assert 3 * 2 * 256 * 32 * 4 / 2**20 <= memory["lazy_mib"] < memory["maps_mib"] / 5
    with pytest.raises(ValueError, match="width 10 does not divide into 3 heads"):
        bench_attention((8,), heads=3, width=10)


# -- batch and memory ---------------------------------------------------------------------------------------------


def at_size(rates: dict[int, float]):
    """Stands for a measurement: pairs a second by batch size; sizes that are not there do not fit."""

    def measured(params, device, seconds):
        if params.batch_size not in rates:
            raise torch.OutOfMemoryError
        return {"batch_size": params.batch_size, "pairs_per_s": rates[params.batch_size]}

    return measured


def test_the_batch_is_doubled_while_it_pays(monkeypatch):
    params = replace(SMALL, batch_size=2)
    for rates, best, why in (
        ({2: 10, 4: 19, 8: 19.5, 16: 99}, 8, "8 samples are less than 3% faster than 4"),
        ({2: 10, 4: 19}, 4, "8 samples do not fit into memory"),
        ({2: 10, 4: 19, 8: 36, 16: 70, 32: 140}, 16, "at the limit of 16"),
    ):
        monkeypatch.setattr(train, "_at_size", at_size(rates))
        found = largest_batch(params, most=16)
        assert (found["batch_size"], found["stopped"]) == (best, why)
    monkeypatch.setattr(train, "_at_size", at_size({}))
    with pytest.raises(MemoryError, match="2 samples do not fit into memory on CPU"):
        largest_batch(params)


def test_memory_grows_with_the_batch():
    small, large, larger = (train._at_size(replace(SMALL, batch_size=n), CPU, 0.01) for n in (2, 4, 8))
    assert small["pairs_per_s"] == pytest.approx(2 / (small["ms_per_step"] / 1e3))
    grown = [b["memory_gib"] - a["memory_gib"] for a, b in ((small, large), (large, larger))]
    assert grown[1] == pytest.approx(2 * grown[0], rel=0.02)  # in proportion, beside the weights


def test_memory_is_flat_over_many_steps_and_a_leak_is_seen(monkeypatch):
    params = replace(SMALL, img_size=16)
    assert abs(memory_growth(params, 60)) < 8
    kept, step = [], Step.__call__

    def leaking(self):
        kept.append(mmap.mmap(-1, 2**20))  # fresh pages, not what earlier tests gave back
        kept[-1].write(b"1" * 2**20)
        return step(self)

    monkeypatch.setattr(Step, "__call__", leaking)
    assert memory_growth(params, 60) == pytest.approx(40, abs=8)
    with pytest.raises(ValueError, match="give 3 or more"):
        memory_growth(params, 2)
