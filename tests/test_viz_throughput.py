"""Figures of speed: bars as long as they should be, slopes written above their panels, operators at their places."""

import pytest
from figures import all_text, assert_tidy

from fmlib import viz
from fmlib.bench.cost import AXES
from fmlib.bench.parts import BATCH, STEP


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


def bars(labels=("fusion: xad",)):
    step, batch = ({part: float(i + 1) for i, part in enumerate(names)} for names in (STEP, BATCH))
    return {label: {"step": step, "batch": batch} for label in labels}


def test_parts_are_stacked_and_carry_their_shares():
    fig = viz.time_shares(bars(("fusion: none", "fusion: xad", "fusion: xaed with a long name")))
    assert_tidy(fig)
    ax = fig.axes[0]
    widths = [bar.patches[0].get_width() for bar in ax.containers]
    assert widths == 3 * [*range(1, len(STEP) + 1), *range(1, len(BATCH) + 1)]
    last = ax.containers[len(STEP) - 1].patches[0]
    assert last.get_x() + last.get_width() == sum(range(1, len(STEP) + 1))
    text = all_text(fig)
    assert "20 %" in text  # rest: 9 of 45
    assert all(text.count(part) == 1 for part in ("encoder attention", "masks", "clipping and optimiser"))


def test_costs_are_multiples_of_the_smallest_setting():
    rows = [
        {"axis": axis, "count": n, "gflop": 2.0 * n, "ms": 7.0 * n**0.5} for axis in AXES for n in (32, 8, 2, 128, 512)
    ]
    slopes = [{"axis": axis, "along": along, "gflop": 1.0, "ms": -0.5} for axis, along in list(AXES.items())[1:]]
    fig = viz.cost_curves(rows, slopes)
    assert_tidy(fig)
    assert len(fig.axes) == 5
    work, time = fig.axes[0].lines
    assert list(work.get_ydata()) == pytest.approx([1, 4, 16, 64, 256])
    assert list(time.get_ydata()) == pytest.approx([1, 2, 4, 8, 16])
    assert "slopes 1.00, −0.50" in all_text(fig)
    assert "visible patches" in all_text(fig)


def test_labels_of_counts_do_not_touch():
    rows = [{"axis": "mask_ratio", "count": n, "gflop": 2.0 * n, "ms": 7.0 * n} for n in (216, 28, 72, 144)]
    fig = viz.cost_curves(rows, 5 * [{"axis": "mask_ratio", "along": "patches", "gflop": 1.0, "ms": 1.0}])
    assert [tick.get_text() for tick in fig.axes[0].get_xticklabels()] == ["28", "72", "144"]
    assert_tidy(fig)


def test_batches_have_their_rate_and_memory():
    rows = [{"batch_size": 2**n, "pairs_per_s": 100.0 * n, "memory_gib": 0.5 + 2**n / 64} for n in range(1, 10)]
    fig = viz.batch_curve(rows)
    assert_tidy(fig)
    rate, memory = fig.axes
    assert list(rate.lines[0].get_ydata()) == [100.0 * n for n in range(1, 10)]
    assert memory.get_ylim()[0] == 0
    assert memory.get_ylim()[1] > 8.5


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_gains_are_bars_from_one(scale):
    rows = [
        {"way": "gathered before projection", "alone": 1.21 * scale, "left_out": 0.9},
        {"way": "fused attention", "alone": 1.05, "left_out": 1.4 * scale},
        {"way": "all together", "alone": 1.7 * scale, "left_out": None},
    ]
    fig = viz.gain_bars(rows)
    assert_tidy(fig)
    ends = [bar.get_x() + bar.get_width() for container in fig.axes[0].containers for bar in container]
    assert ends == pytest.approx([1.21 * scale, 1.05, 1.7 * scale, 0.9, 1.4 * scale])
    for word in ("0.90×", "all together", "added alone", "left out"):
        assert word in all_text(fig)


def test_operators_stand_under_the_roof():
    operators = [
        {"name": f"operator {i}, {way}", "flop_per_byte": 0.5 * 3**i, "tflop_per_s": 0.01 * 2**i}
        for i in range(5)
        for way in ("fused", "explicit")
    ]
    found = {"precision": "bfloat16", "matrix_tflop_per_s": 600.0, "memory_gb_per_s": 3000.0, "operators": operators}
    fig = viz.roofline_chart(found)
    assert_tidy(fig)
    roof, *points = fig.axes[0].lines
    assert max(roof.get_ydata()) == 600
    assert roof.get_ydata()[0] == pytest.approx(3 * roof.get_xdata()[0])  # TB/s × FLOP a byte
    assert [(p.get_xdata()[0], p.get_ydata()[0]) for p in points] == [
        (o["flop_per_byte"], o["tflop_per_s"]) for o in operators
    ]
    assert points[1].get_markerfacecolor() == "white"
    for word in ("3,000 GB/s of memory, 600 TFLOP/s of arithmetic", "bfloat16", "operator 4, explicit"):
        assert word in all_text(fig)
