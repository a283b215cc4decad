"""Tables of results: numbers with the digits they deserve, as HTML for notebooks and reports."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

NUMBER, TEXT = " class=number", ' style="text-align: left"'  # JupyterLab would right-align text


class Table:
    """Rows that a notebook shows as a table.

    Args:
        rows: one dict a row, column → number, text, or [mean, spread]; columns in the order of their appearance.
    """

    def __init__(self, rows: list[dict]):
        self.rows = rows

    def _repr_html_(self) -> str:
        return html_table(self.rows)


def pivot(rows: Sequence[dict], index: Sequence[str], column: Callable[[dict], str], value: str) -> list[dict]:
    """Mean and spread of a value, one row for each combination of `index` and one column for each kind of row.

    Args:
        rows: one dict a run. index: keys that name a table row.
        column: what column a run belongs to.
        value: what is averaged; a column's runs differ in seed alone.

    Returns:
        Rows for `Table`: the keys of `index`, and [mean, standard deviation] of each column; one run: its value.
    """
    table: dict[tuple, dict] = {}
    for row in rows:
        key = tuple(row[name] for name in index)
        table.setdefault(key, {}).setdefault(column(row), []).append(row[value])
    kinds = dict.fromkeys(column(row) for row in rows)
    spread = {key: {name: _mean_and_spread(found.get(name)) for name in kinds} for key, found in table.items()}
    return [dict(zip(index, key, strict=True)) | cells for key, cells in spread.items()]


def _mean_and_spread(values: list[float] | None) -> list[float] | float | None:
    if not values or len(values) == 1:
        return values[0] if values else None
    return [statistics.fmean(values), statistics.stdev(values)]


def columns(rows: Sequence[dict]) -> list[str]:
    """All columns of a table, in the order of their appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def html_table(rows: list[dict]) -> str:
    """The rows as an HTML table."""
    names = columns(rows)
    numeric = {c for c in names if not any(isinstance(row.get(c), str) for row in rows)}

    def line(cells: list[str], tag: str) -> str:
        pairs = zip(names, cells, strict=True)
        return "<tr>" + "".join(f"<{tag}{NUMBER if c in numeric else TEXT}>{x}</{tag}>" for c, x in pairs) + "</tr>"

    body = "\n".join(line([html_value(row.get(c)) for c in names], "td") for row in rows)
    return f'<div class="table"><table><thead>{line(list(map(escape, names)), "th")}</thead>\n{body}</table></div>\n'


def html_value(value: Any) -> str:
    """A number with three significant digits, a mean with its spread, or text."""
    match value:
        case None:
            return "–"
        case bool() | str():
            return escape(str(value))
        case int():
            return f"{value:,}".replace(",", "\u202f")
        case float():
            return _digits(value)
        case [int() | float() as mean, int() | float() as spread]:
            return _with_spread(mean, spread)
    return escape(json.dumps(value, ensure_ascii=False))


def _digits(number: float) -> str:
    """Three significant digits: 0.812, 12.3, 4120, 1.5 × 10⁻⁵."""
    if number == 0 or 1e-3 <= abs(number) < 1e5:
        text = f"{number:.0f}" if abs(number) >= 100 or number == 0 else f"{number:#.3g}"
        return text.replace("-", "−")
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa} × 10<sup>{int(exponent)}</sup>".replace("-", "−")


def _with_spread(mean: float, spread: float) -> str:
    """Two significant digits of the spread, and as many decimals of the mean: 0.812 ± 0.013."""
    if not 1e-4 <= spread < 1e5:
        return f'{_digits(mean)} <span class="spread">± {_digits(spread)}</span>'
    decimals = max(0, 1 - math.floor(math.log10(spread)))
    shown = f"{mean:.{decimals}f}".replace("-", "−")
    return f'{shown} <span class="spread">± {spread:.{decimals}f}</span>'
