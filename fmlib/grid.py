"""Named grids of notebook runs: one TOML file says which notebook, what all runs share, and what they differ in.

    snakemake --cores all --config experiment=experiments/masks.toml     # runs what is stale, see the Snakefile
    python -m fmlib.grid run experiments/masks.toml independent-0.5      # one run, as Snakemake starts it
    python -m fmlib.grid compare experiments/masks.toml                  # the page that compares them

The page needs nothing from the network: a table that a click on a column sorts, and parallel coordinates as SVG.
"""

import json
import re
import sys
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from fmlib.files import write_text
from fmlib.launch import grid
from fmlib.params import check_params, read_parameters
from fmlib.render import BASE_CSS
from fmlib.run import repository, run_notebook
from fmlib.tables import html_value


@dataclass(frozen=True)
class Experiment:
    """A grid of runs of one notebook.

    Args:
        name: of its file, and of its folder.
        notebook: the path.
        folder: where the run folders and the page lie.
        varied: names of the parameters that the runs differ in.
        runs: parameters of each run by its name, ``out`` left out.
    """

    name: str
    notebook: Path
    folder: Path
    varied: tuple[str, ...]
    runs: dict[str, dict[str, Any]]


def read_experiment(path: str | Path, **given) -> Experiment:
    """Read the TOML file of an experiment.

    Args:
        path: with ``notebook = "02_pretrain_fusmae"``, and the tables ``[parameters]``, which all runs share, and
            ``[grid]``, lists of values by parameter.
        given: parameters that count more than the file's, e.g. ``data_root``.

    Raises:
        ValueError: a key, a parameter or a value that cannot be; the file is named.
    """
    path = Path(path)
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    if {*table} - {"notebook", "parameters", "grid"} or not isinstance(table.get("notebook"), str):
        raise ValueError(f'{path}: has {sorted(table)}; expected notebook = "NAME", [parameters] and [grid]')
    choices, root = table.get("grid", {}), repository(path)
    if wrong := [name for name, values in choices.items() if not isinstance(values, list) or not values]:
        raise ValueError(f"{path}: grid.{wrong[0]} must be a list of the values to try")
    notebook = root / "notebooks" / f"{table['notebook']}.ipynb"
    if not notebook.is_file():
        raise ValueError(f"{path}: there is no notebook {notebook}")
    declared = {p.name: p for p in read_parameters(notebook)}
    defaults, types = ({name: getattr(p, key) for name, p in declared.items()} for key in ("default", "type"))
    runs = {}
    for run in grid(table.get("parameters", {}) | {"out": ""} | given, **choices):
        name = re.sub(r"[^\w.-]+", "_", re.sub(r"[\[\]'/]", "", run.pop("out"))) or "run"
        if name in runs:
            raise ValueError(f"{path}: two runs would be called {name!r}; leave out values that are given twice")
        check_params(run, defaults, f"{path}: {notebook.name}", types)
        runs[name] = run
    return Experiment(path.stem, notebook, root / "runs" / "experiments" / path.stem, tuple(choices), runs)


# ---- the page that compares -------------------------------------------------------------------------------------

CSS = """
main { max-width: 90rem; margin: 0 auto; padding: 1.5rem; } h1 { margin: 0; } .soft { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.9rem; border-bottom: 1px solid var(--line); text-align: left; }
th { cursor: pointer; vertical-align: bottom; } th::after { content: " ↕"; color: var(--soft); }
.failed td { color: var(--bad); } .spread { color: var(--soft); }
svg { width: 100%; height: auto; margin: 1.5rem 0; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg path { fill: none; stroke: var(--accent); stroke-width: 1.5; opacity: 0.55; }
svg path:hover { stroke-width: 4; opacity: 1; } svg line { stroke: var(--line); }
"""
SORT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], at = head.cellIndex, up = head.dataset.up !== "1";
  const key = row => row.cells[at].dataset.key, number = x => x !== "" && !isNaN(x);
  const order = (a, b) => number(key(a)) && number(key(b)) ? key(a) - key(b) : key(a).localeCompare(key(b));
  body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
  head.dataset.up = up ? "1" : "0";
};
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{css}</style></head><body><main>
<h1>{title}</h1><p class="soft">{summary}</p>
{svg}
<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>
{rows}
</tbody></table></div></main><script>{script}</script></body></html>
"""


def comparison_page(experiment: Experiment) -> Path:
    """Write `index.html` beside an experiment's run folders: what was varied beside each headline's numbers.

    Returns:
        Path of the page; runs without results stand in it as not run, or as failed with the reason.
    """
    found = {name: _results(experiment.folder / name) for name in experiment.runs}
    measures = list(dict.fromkeys(label for headline, _ in found.values() for label in headline))
    rows = [
        {"run": name} | {key: run[key] for key in experiment.varied} | found[name][0]
        for name, run in experiment.runs.items()
    ]
    columns = ["run", *experiment.varied, *measures]
    lines = [_line(row, columns, experiment.folder, found[row["run"]][1]) for row in rows]
    missing = sum(not headline for headline, _ in found.values())
    page = PAGE.format(
        title=f"{escape(experiment.name)}: {len(rows)} runs of {escape(experiment.notebook.stem)}",
        css=BASE_CSS + CSS,
        summary=(f"{missing} of them without results. " if missing else "") + "Click on a column to sort by it.",
        svg=parallel_coordinates([row for row in rows if found[row["run"]][0]], columns[1:]),
        heads="".join(f"<th>{escape(column)}</th>" for column in columns),
        rows="\n".join(lines),
        script=SORT,
    )
    experiment.folder.mkdir(parents=True, exist_ok=True)
    index = experiment.folder / "index.html"
    write_text(index, page)
    return index


def _results(folder: Path) -> tuple[dict, str]:
    """Headline of a run, and why it has none, or an old one."""
    metrics, failure = folder / "metrics.json", folder / "failure.json"
    headline = json.loads(metrics.read_text(encoding="utf-8"))["headline"] if metrics.is_file() else {}
    why = json.loads(failure.read_text(encoding="utf-8"))["message"] if failure.is_file() else ""
    return headline, why or ("" if headline else "not run")


def _line(row: dict, columns: list[str], folder: Path, problem: str) -> str:
    cells = [f'<td data-key="{escape(str(_number(row.get(c))))}">{html_value(row.get(c))}</td>' for c in columns[1:]]
    page = folder / row["run"] / f"{row['run']}.html"
    page = next(iter((folder / row["run"]).glob("*.html")), page)
    name = escape(row["run"])
    linked = f'<a href="{escape(page.relative_to(folder).as_posix())}">{name}</a>' if page.is_file() else name
    note = f"<br>{escape(problem)}" if problem else ""
    first = f'<td data-key="{name}">{linked}{note}</td>'
    return f"<tr{' class=failed' if problem else ''}>{first}{''.join(cells)}</tr>"


def _number(value: Any) -> Any:
    """What a value is sorted by: the mean of mean and spread, a number, or text."""
    mean_and_spread = isinstance(value, list) and len(value) == 2 and all(isinstance(x, int | float) for x in value)
    return value[0] if mean_and_spread else "" if value is None else value


def parallel_coordinates(rows: list[dict], columns: list[str], width: int = 1100, height: int = 320) -> str:
    """One line a run across one axis a column, as SVG; text gets equal steps, numbers their scale.

    Args:
        rows: one dict a run, with ``"run"``; a mean with its spread counts as the mean.
        columns: the axes, from left to right; one where all runs are alike is left out.
        width, height: of the drawing.
    """
    values = {c: [_number(row.get(c)) for row in rows] for c in columns}
    axes = {c: _axis(found) for c, found in values.items() if len({str(x) for x in found}) > 1}
    if len(axes) < 2:
        return ""
    xs = {c: 90 + i * (width - 180) / (len(axes) - 1) for i, c in enumerate(axes)}
    at = {c: [height - 40 - share * (height - 90) for share in shares] for c, (shares, _) in axes.items()}
    parts = []
    for number, (c, (_, ticks)) in enumerate(axes.items()):
        parts.append(f'<line x1="{xs[c]:.0f}" x2="{xs[c]:.0f}" y1="50" y2="{height - 40}"/>')
        parts.append(_text(xs[c], 30 - 14 * (number % 2), c))
        for share, tick in ticks:  # the lowest below its end of the axis
            parts.append(_text(xs[c], height - 44 - share * (height - 90) + 16 * (share == 0), tick))
    for i, row in enumerate(rows):
        points = " L".join(f"{xs[c]:.1f},{at[c][i]:.1f}" for c in axes)
        parts.append(f'<path d="M{points}"><title>{escape(row["run"])}</title></path>')
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Parallel coordinates">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: Any) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{escape(str(text))}</text>'


def _axis(values: list) -> tuple[list[float], list[tuple[float, str]]]:
    """Place of each value on its axis, 0 to 1, and the ticks to write."""
    numbers = [x for x in values if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) == len(values):
        low, high = min(numbers), max(numbers)
        return [(x - low) / (high - low) for x in numbers], [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    kinds = sorted({str(x) for x in values})
    step = 1 / max(len(kinds) - 1, 1)
    return [kinds.index(str(x)) * step for x in values], [(i * step, kind) for i, kind in enumerate(kinds)]


def main(argv: list[str] | None = None) -> None:
    """`python -m fmlib.grid run FILE NAME [DATA_ROOT]`, or `python -m fmlib.grid compare FILE`."""
    what, path, *rest = argv or sys.argv[1:]
    given = {"data_root": rest[1]} if rest[1:] else {}
    experiment = read_experiment(path, **given)
    if what == "compare":
        print(comparison_page(experiment))
    else:
        print(run_notebook(experiment.notebook, experiment.folder / rest[0], experiment.runs[rest[0]])["title"])


if __name__ == "__main__":
    main()
