"""Numbers of a paper: the results that runs of the notebooks left, found and read.

    runs = find_runs("reports/published")
    write_tables(tables(runs), "paper/tables")           # fmlib.paper_tables, fmlib.latex
    draw(runs, "05_evaluate", viz.label_curves, labels)  # fmlib.paper_figures

Nothing is computed anew, and what was not run is absent.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from fmlib.fusion_metrics import METRICS

NOTEBOOKS = (
    "02_pretrain_fusmae",
    "03_masking_ablation",
    "05_evaluate",
    "06_fuse_infrared_visible",
    "07_msift_three_tasks",
    "08_misalignment",
    "09_throughput",
)
HIGHER = {name: metric.higher for name, metric in METRICS.items()} | {"block noise": False}


@dataclass(frozen=True)
class Run:
    """A run folder's results: what `fmlib.run` wrote as ``metrics.json`` and ``stamp.json``."""

    folder: Path
    metrics: dict
    stamp: dict

    def seeds(self, key: str = "seeds") -> int:
        """Number of runs behind a mean, by a parameter of the notebook."""
        return self.stamp["params"].get(key, 1)

    def rows(self, name: str = "table") -> list[dict]:
        """A table of the results; a spread of 0 over a single seed is no spread and left out."""
        return [{key: self.cell(value) for key, value in row.items()} for row in self.metrics.get(name, [])]

    def cell(self, value):
        """A value of a table, without the spread that it cannot have."""
        return value[0] if isinstance(value, list) and self.seeds() == 1 and value[1:] == [0] else value

    def data(self) -> set[str]:
        """Names of its data sets; the title has them, too, where the parameter is "auto"."""
        return {self.stamp["params"].get("data", ""), *re.findall(r"[\w-]+", self.metrics["title"])}

    def about(self) -> str:
        """Where its numbers come from: title, folder and commit."""
        commit = (self.stamp.get("commit") or "none")[:9] + (" with changes" if self.stamp.get("dirty") else "")
        return f"{self.metrics['title']} (run {self.folder.name}, commit {commit})"


def find_runs(results: str | Path, data: str = "all") -> dict[str, Run]:
    """The latest run of each notebook of `NOTEBOOKS` among the subfolders of a folder.

    Args:
        results: folder of run folders, e.g. ``"reports/published"``; it need not exist.
        data: take only runs on this data set; ``"all"``: on any.

    Returns:
        Notebook → run, in the order of `NOTEBOOKS`; what is absent has no entry.

    Raises:
        ValueError: a file of results that is not JSON.
    """
    found: dict[str, list[Run]] = {name: [] for name in NOTEBOOKS}
    for path in sorted(Path(results).glob("[!.]*/metrics.json")):
        if path.with_name("stamp.json").is_file():
            run = Run(path.parent, _read(path), _read(path.with_name("stamp.json")))
            name = run.stamp.get("notebook")
            if name in NOTEBOOKS and data in {"all", *run.data()}:
                found[name].append(run)
    return {name: max(runs, key=lambda run: run.stamp["started"]) for name, runs in found.items() if runs}


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); run its notebook again, or move the folder away") from None


def inventory(runs: dict[str, Run], results: str | Path) -> list[dict]:
    """One row a notebook: the run that was taken, or how to make one."""
    profile = Path(results).name if Path(results).name in ("smoke", "quick", "full") else "real"
    absent = f"no run found under {results}; make it with: fmlib run notebooks/{{}}.ipynb --profile {profile}"
    return [{"notebook": n, "run": runs[n].about() if n in runs else absent.format(n)} for n in NOTEBOOKS]


# ---- parts of tables ----------------------------------------------------------------------------------------------


def strategies(run: Run) -> list[dict]:
    """Mean IoU of frozen features by masking strategy and ratio, one row each."""
    cells = {tuple(name.rsplit(", ", 1)): run.cell(value) for name, value in run.metrics["headline"].items()}
    return [{"mask_strategy": s, "mask_ratio": float(ratio), "mIoU": value} for (s, ratio), value in cells.items()]


def label_cells(run: Run) -> list[dict]:
    """Mean IoU of frozen features: rows with ``model, sensors, fraction`` and ``miou``, a cell of the table each."""
    rows = [row for row in run.rows() if row["task"] == "segmentation"]
    return [
        {"model": row["model"], "sensors": name.removesuffix(f", {share:.0%} of labels"), "fraction": share}
        | {"miou": row[name]}
        for row in rows
        for share in run.stamp["params"]["fractions"]
        for name in row
        if name.endswith(f", {share:.0%} of labels") and row[name] is not None
    ]


def most_labels(cells: list[dict]) -> float:
    """The largest share of labels in `label_cells`."""
    return max((cell["fraction"] for cell in cells), default=0)


def all_sensors(cells: list[dict]) -> str:
    """The largest set of sensors in `label_cells`, e.g. ``"s1+s2"``."""
    return max((cell["sensors"] for cell in cells), key=lambda name: name.count("+"), default="")
