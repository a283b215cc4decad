"""Figures of a paper: what of a run's results each function of `fmlib.viz` draws.

    runs = find_runs("reports/published")
    draw(runs, "05_evaluate", viz.label_curves, labels)  # a figure, or a note that such a run is missing

Tables hold means and standard deviations, and these are what the figures show.
"""

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from fmlib.modality import Modality
from fmlib.paper import HIGHER, Run, all_sensors, label_cells, most_labels, strategies
from fmlib.score_fusion import BASELINES
from fmlib.tables import columns
from fmlib.viz.style import note


def draw(runs: dict[str, Run], notebook: str, figure: Callable[..., Figure], choose: Callable[[Run], dict]) -> Figure:
    """A figure of a notebook's results, or a note where there is nothing to draw.

    Args:
        runs: of `find_runs`.
        notebook: whose run is drawn.
        figure: function of `fmlib.viz`.
        choose: run → the arguments of `figure`, one of the functions below.
    """
    if notebook not in runs:
        return note(f"no run of {notebook} was found")
    arguments = choose(runs[notebook])
    return figure(**arguments) if arguments["rows"] else note(f"{runs[notebook].folder.name} holds no such results")


def each_seed(row: dict, key: str, value: list | float | None, seeds: int) -> list[dict]:
    """As many rows as seeds, with a cell's mean and standard deviation: figures ask for rows, and draw these two."""
    if value is None:
        return []
    mean, std = _mean_and_std(value)
    steps = np.arange(max(seeds, 2) if isinstance(value, list) else 1, dtype=float)
    scale = std / steps.std(ddof=1) if len(steps) > 1 else 0.0
    return [row | {"seed": i, key: mean + scale * step} for i, step in enumerate(steps - steps.mean())]


def _mean_and_std(value: list[float] | float) -> tuple[float, float]:
    return tuple(value) if isinstance(value, list) else (value, 0.0)


def partners(run: Run) -> dict:
    """Errors of one sensor's reconstruction with its true partner, a wrong one and none, for `viz.partner_errors`."""
    rows = []
    for row in run.rows():
        for partner in ("true", "wrong", "no"):
            mean, std = _mean_and_std(row[f"{partner} partner"])
            named = {"fusion": row["fusion"], "sensor": row["sensor"], "partner": partner.replace("no", "none")}
            rows.append(named | {"error": mean, "low": mean - std, "high": mean + std})
    sensors = dict.fromkeys(row["sensor"] for row in rows)  # of which a figure of errors needs the titles alone
    empty = {"unit": "", "valid_range": (0, 1), "mean": (0,), "std": (1,)}
    modalities = {name: Modality(name, (name,), title=name.upper(), **empty) for name in sensors}
    oracle = {name: {"patch mean": 1.0} for name in sensors}
    return {"rows": rows, "modalities": modalities, "baselines": oracle, "ylabel": "error relative to the patch mean"}


def band_errors(run: Run) -> dict:
    """Error of every band by masking strategy and ratio, for `viz.ablation_heat_map`."""
    rows, bands = run.rows("bands"), [name for name in columns(run.rows("bands")) if " " in name]
    cells = [
        seen
        for row in rows
        for band in bands
        for seen in each_seed(row | {"panel": f"{row['fusion']}, {band}"}, "error", row[band], run.seeds())
    ]
    return {"rows": cells, "value": "error", "panel": "panel", "label": "relative error"}


def strategy_scores(run: Run) -> dict:
    """Mean IoU of frozen features by masking strategy and ratio, for `viz.ablation_heat_map`."""
    fusion = {"fusion": ", ".join(run.stamp["params"].get("fusions", []))}
    rows = [x for row in strategies(run) for x in each_seed(row | fusion, "mIoU", row["mIoU"], run.seeds())]
    return {"rows": rows, "value": "mIoU", "better": "higher", "label": "mIoU of frozen features"}


def variants(run: Run) -> dict:
    """Mean IoU of each variant of each question, with all sensors, for `viz.ablation_dots`."""
    rows = run.rows("questions")
    scores = [name for name in columns(rows) if name.startswith("mIoU")]
    both = max(scores, key=lambda name: name.count("+"), default="")
    found = [x for row in rows for x in each_seed(row, "score", row[both], run.seeds())]
    return {"rows": found, "value": "score", "label": "mIoU of frozen features, both sensors"}


def sensors(run: Run) -> dict:
    """What each model reaches with each set of sensors and the most labels, for `viz.sensor_gain`."""
    cells = label_cells(run)
    most = most_labels(cells)
    rows = [x for c in cells if c["fraction"] == most for x in each_seed(c, "miou", c["miou"], run.seeds())]
    return {"rows": rows, "xlabel": f"mIoU of frozen features, {most:.0%} of the labels"}


def labels(run: Run) -> dict:
    """Scores against the share of labels, with all sensors, for `viz.label_curves`."""
    cells = label_cells(run)
    both = all_sensors(cells)
    rows = [x for c in cells if c["sensors"] == both for x in each_seed(c, "miou", c["miou"], run.seeds())]
    return {"rows": rows, "ylabel": f"mIoU of frozen features, {both}"}


def fusion_scores(run: Run) -> dict:
    """Every metric of every way to fuse, for `viz.fusion_scores`."""
    cells = [({"method": row["method"], "metric": name}, row.get(name)) for row in run.rows() for name in HIGHER]
    rows = [x for cell, value in cells for x in each_seed(cell, "value", value, run.seeds())]
    return {"rows": rows, "higher": HIGHER, "baselines": BASELINES}


def tasks(run: Run) -> dict:
    """Mean recall in each task of one fusion design, for `viz.ablation_dots`."""
    seeds = {"pixel": run.seeds("pixel_seeds")}
    rows = [x for r in run.rows() for x in each_seed(r, "recall", r["mean recall"], seeds.get(r["task"], run.seeds()))]
    return {"rows": rows, "value": "recall", "group": "task", "variant": "model", "label": "mean recall"}


def shifts(run: Run) -> dict:
    """Mean IoU against the shift of one sensor, for `viz.displacement_curves`."""
    rows = []
    for row in run.rows():
        for name in (name for name in row if name.endswith(" px")):
            place = {"kind": "shift", "amount": float(name.removesuffix(" px"))}
            rows += each_seed({**row, **place}, "miou", row[name], run.seeds())
    return {"rows": rows, "ylabel": "mIoU"}


def costs(run: Run) -> dict:
    """Work and time of a training step against each setting, for `viz.cost_curves`."""
    return {"rows": run.rows("cost"), "exponents": run.rows("exponents")}
