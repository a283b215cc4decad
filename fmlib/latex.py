"""Tables of results as LaTeX (booktabs, graphicx) and CSV; the best is bold, by a rule that the caption states."""

import csv
import io
import math
import re
import statistics
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

from fmlib.files import write_text
from fmlib.tables import columns, html_value

SPREAD = " ± is one standard deviation over seeds."
RULE = (
    " Bold: the best mean of its column{} (↑ more, ↓ less is better), and every entry whose mean ± standard deviation "
    "overlaps that of the best."
)
INTERVAL_RULE = " Bold: differences whose interval excludes 0."
CHARACTER, SPACE, ONE_COLUMN = 4.5, 12, 244  # pt: a character in footnotesize, between columns, a narrow text column
SHRINK = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"  # to the page's width, if it is wider
ARROWS = {True: " ↑", False: " ↓", None: ""}
ENDS = {1: ("",), 2: ("", " std"), 3: ("", " low", " high")}
LATEX = {  # what LaTeX would take for its own, and what its fonts lack
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "−": "$-$", "°": r"\textdegree{}", "–": "--", "\u202f": r"\,"},
    **{"<": "$<$", ">": "$>$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"},
}


@dataclass(frozen=True)
class PaperTable:
    """A table of results.

    Args:
        name: of its files and its label.
        caption: what it shows; its source and the rule of bold entries are added.
        source: the run it comes from.
        rows: one dict a row, column → number, text, [mean, standard deviation] or [difference, low, high].
        higher: column → whether more is better; entries of other columns are not compared.
        within: column; entries are compared among rows that have the same value in it. Default: among all.
    """

    name: str
    caption: str
    source: str
    rows: list[dict]
    higher: dict[str, bool] = field(default_factory=dict)
    within: str = ""


def write_tables(found: list[PaperTable], folder: str | Path) -> list[Path]:
    """Write each table as NAME.tex and NAME.csv; the same results give the same bytes.

    Args:
        found: e.g. of `fmlib.paper.tables`.
        folder: where to; it is made.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    texts = {
        Path(folder) / f"{t.name}{end}": make(t) for t in found for end, make in ((".tex", latex), (".csv", sheet))
    }
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def sheet(table: PaperTable) -> str:
    """The table as CSV with all digits; spreads and ends of intervals have columns of their own."""
    text, names = io.StringIO(), columns(table.rows)
    ends = {name: ENDS[max(len(_parts(row.get(name))) for row in table.rows)] for name in names}
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(f"{name}{end}" for name in names for end in ends[name])
    for row in table.rows:
        cells = {name: dict(zip(ends[name], _parts(row.get(name)), strict=False)) for name in names}
        writer.writerow(cells[name].get(end) for name in names for end in ends[name])
    return text.getvalue()


def _parts(value) -> list:
    return value if isinstance(value, list) else [value]


def latex(table: PaperTable) -> str:
    """The table as LaTeX: a rule between groups of rows; the caption says what is bold; wide ones span the page."""
    names, bold, lines = columns(table.rows), bold_cells(table), []
    texts = {name: _texts([row.get(name) for row in table.rows]) for name in names}
    for i, row in enumerate(table.rows):
        if table.within and i and row[table.within] != table.rows[i - 1][table.within]:
            lines.append(r"\midrule")
        cells = [(latex_text(texts[name][i]), (i, name) in bold) for name in names]
        lines.append(" & ".join(rf"\textbf{{{cell}}}" if best else cell for cell, best in cells) + r" \\")
    heads = {name: (name.replace("_", " ") + ARROWS[table.higher.get(name)]).split(", ") for name in names}
    width = sum(CHARACTER * max(map(len, heads[name] + texts[name])) + SPACE for name in names)
    kind, shrink, end = ("table", "", "") if width <= ONE_COLUMN else ("table*", SHRINK, "}")
    numeric = "".join("l" if any(isinstance(row.get(name), str) for row in table.rows) else "r" for name in names)
    top = [rf"\begin{{{kind}}}[t]", r"\centering", r"\footnotesize", rf"\caption{{{latex_text(caption(table))}}}"]
    top += [rf"\label{{tab:{table.name}}}", rf"{shrink}\begin{{tabular}}{{{numeric}}}", r"\toprule"]
    head = " & ".join(_head(heads[name]) for name in names) + r" \\"
    bottom = [r"\bottomrule", rf"\end{{tabular}}{end}", rf"\end{{{kind}}}", ""]
    return "\n".join([*top, head, r"\midrule", *lines, *bottom])


def caption(table: PaperTable) -> str:
    """What the table shows, what is bold in it, and which run it comes from."""
    kinds = {len(_parts(value)) for row in table.rows for value in row.values()}
    within = f" among rows with the same {table.within.replace('_', ' ')}" if table.within else ""
    rules = {SPREAD: 2 in kinds, RULE.format(within): table.higher, INTERVAL_RULE: 3 in kinds}
    return f"{table.caption}{''.join(rule for rule, holds in rules.items() if holds)} Source: {table.source}."


def bold_cells(table: PaperTable) -> set[tuple[int, str]]:
    """Row and column of the entries that are best of their column, or whose spread overlaps the best's.

    Of differences with an interval, those that exclude 0.
    """
    found = set()
    for name in columns(table.rows):
        values = {i: _parts(row[name]) for i, row in enumerate(table.rows) if row.get(name) is not None}
        found |= {(i, name) for i, value in values.items() if len(value) == 3 and (value[1] > 0 or value[2] < 0)}
        for group in dict.fromkeys(row.get(table.within) for row in table.rows) if name in table.higher else ():
            mine = {i: value for i, value in values.items() if table.rows[i].get(table.within) == group}
            found |= {(i, name) for i in best_rows(mine, table.higher[name])}
    return found


def best_rows(values: dict[int, list[float]], higher: bool) -> set[int]:
    """The best of means with or without a standard deviation, and all whose mean ± deviation overlaps the best's."""
    if not values:
        return set()
    best = (max if higher else min)(values, key=lambda i: values[i][0])
    spread = {i: value[1] if len(value) > 1 else 0.0 for i, value in values.items()}
    return {i for i, value in values.items() if abs(value[0] - values[best][0]) <= spread[i] + spread[best]}


def _head(lines: list[str]) -> str:
    """A column's name, its parts below each other."""
    stacked = " \\\\ ".join(map(latex_text, lines))
    return stacked if len(lines) == 1 else rf"\begin{{tabular}}{{@{{}}c@{{}}}}{stacked}\end{{tabular}}"


def _texts(values: list) -> list[str]:
    """A column's values as reports show them; where there are spreads, all with the digits of the median spread."""
    spreads = [value[1] for value in values if len(_parts(value)) == 2 and value[1] > 0]
    digits = max(0, 1 - math.floor(math.log10(statistics.median(spreads)))) if spreads else None
    return [_text(value, digits).replace("-", "−") if not isinstance(value, str) else value for value in values]


def _text(value, digits: int | None) -> str:
    if len(_parts(value)) == 3:
        return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*value)
    if digits is not None and value is not None:
        return " ± ".join(f"{part:.{digits}f}" for part in _parts(value))
    if isinstance(value, float) and value == round(value, 2):  # a setting rather than a result
        return f"{value:g}"
    return unescape(re.sub(r"<.*?>", "", html_value(value).replace("<sup>", "^")))


def latex_text(text: str) -> str:
    """Text with LaTeX's own characters escaped and signs as its fonts have them."""
    escaped = "".join(LATEX.get(letter, letter) for letter in text)
    return re.sub(r"10\\textasciicircum\{\}(\$-\$)?(\d+)", lambda m: f"$10^{{{'-' if m[1] else ''}{m[2]}}}$", escaped)
