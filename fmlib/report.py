"""The index of a report: one page with a card for each run, made from the files that the runs left.

Prose that changed since a run is shown around the run's results, as long as the code is the same.
"""

import json
import tomllib
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from fmlib.files import write_text
from fmlib.render import BASE_CSS, notebook_page, render_math
from fmlib.run import repository
from fmlib.tables import html_table, html_value

INDEX_CSS = """
main, header { max-width: 72rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; padding-bottom: 1rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; }
header p { margin: 0.4rem 0 0; color: var(--soft); }
main { display: grid; gap: 1.5rem; padding-bottom: 4rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden;
  display: grid; grid-template-columns: minmax(0, 1fr); }
.failure { grid-column: 1 / -1; }
.picture { padding: 1.1rem 0 1.1rem 1.1rem; }
.picture img { display: block; margin: 0 auto; max-height: 26rem; padding: 0.5rem; border-radius: 8px;
  background: #fff; }
@media (min-width: 48rem) { article:has(.picture) { grid-template-columns: minmax(0, 5fr) minmax(0, 7fr); } }
.text { padding: 1.1rem 1.3rem 1.2rem; }
.run { font-size: 0.78rem; letter-spacing: 0.04em; color: var(--soft); margin: 0; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0.1rem 0 0; text-wrap: balance; }
h2 a { color: inherit; text-decoration: none; } h2 a:hover { text-decoration: underline; }
.question p { margin: 0.3rem 0 0; color: var(--soft); font-size: 0.95rem; line-height: 1.45; }
.question strong { font-weight: inherit; }
dl { display: flex; flex-wrap: wrap; gap: 0.9rem 1.8rem; margin: 1rem 0 0; }
dl div { display: flex; flex-direction: column-reverse; }
dt { font-size: 0.78rem; line-height: 1.35; color: var(--soft); }
dd { margin: 0; font-size: 1.35rem; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
dd.words { font-size: 1.05rem; }
.spread { font-size: 0.8em; font-weight: 400; color: var(--soft); white-space: nowrap; }
.table { overflow-x: auto; margin-top: 1rem; }
summary { margin-top: 1rem; cursor: pointer; font-size: 0.86rem; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: 0.86rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; border-bottom: 1px solid var(--line); text-align: left; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
footer { margin-top: 1rem; padding-top: 0.7rem; border-top: 1px solid var(--line); font-size: 0.82rem;
  color: var(--soft); }
footer p { margin: 0; } footer p + p { margin-top: 0.35rem; }
.failed { border-color: var(--bad); }
.failure { margin: 0; padding: 0.8rem 1.3rem; background: var(--bad-paper); color: var(--bad); font-size: 0.9rem;
  line-height: 1.45; overflow-wrap: anywhere; }
.failure a { color: inherit; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{css}</style></head>
<body><header><h1>{title}</h1><p>{summary}</p></header>
<main>
{cards}
</main></body>
</html>
"""


def build_index(folder: str | Path) -> Path:
    """Write `index.html` for a folder of run folders.

    Args:
        folder: for instance `reports/quick`; each folder in it that a run wrote becomes a card.

    Returns:
        Path of the page. It links to the runs relatively and needs nothing from the network.

    Raises:
        FileNotFoundError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no report folder {folder}; run the notebooks first, for instance with `make report`")
    runs = [path for path in sorted(folder.iterdir()) if _is_run(path)]
    for run in runs:
        show_new_prose(run, repository(folder) / "notebooks" / f"{run.name}.ipynb")
    failed = sum((run / "failure.json").is_file() for run in runs)
    made = datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
    count = f"{len(runs)} run{'' if len(runs) == 1 else 's'}" + (f", {failed} failed" if failed else "")
    page = PAGE.format(
        title=f"{_project(folder)}: {escape(folder.resolve().name)} report",
        css=BASE_CSS + INDEX_CSS,
        summary=f"{count}. Each number comes from the run it stands beside. {made}.",
        cards="\n".join(map(_card, runs)) or "<p>No runs yet.</p>",
    )
    index = folder / "index.html"
    write_text(index, page)
    return index


def show_new_prose(run: Path, notebook: Path) -> bool:
    """Put a notebook's present prose around the outputs of its last run, and make the page of the run anew.

    Args:
        run: the run folder, with the executed notebook of the same name.
        notebook: as it is now.

    Returns:
        Whether anything changed; nothing does where the code differs from what was run.
    """
    import nbformat

    executed = run / f"{run.name}.ipynb"
    if not (executed.is_file() and notebook.is_file()):
        return False
    try:
        now, then = (nbformat.read(path, as_version=4) for path in (notebook, executed))
    except ValueError:  # not JSON: the card says so
        return False
    given = {"injected-parameters"}
    injected = [cell for cell in then.cells if given & {*cell.metadata.get("tags", [])}]
    ran = [cell for cell in then.cells if cell.cell_type == "code" and cell not in injected]
    if [cell.source for cell in ran] != [cell.source for cell in now.cells if cell.cell_type == "code"]:
        return False
    outputs, cells = iter(ran), []
    for cell in now.cells:
        cells.append(next(outputs) if cell.cell_type == "code" else cell)
        cells += injected if "parameters" in cell.metadata.get("tags", []) else []
    if [cell.source for cell in cells] == [cell.source for cell in then.cells]:
        return False
    then.cells, beside = cells, executed.with_name(f".{executed.name}.part")
    nbformat.write(then, beside)
    beside.replace(executed)
    notebook_page(executed)
    return True


def _is_run(path: Path) -> bool:
    wrote = ("metrics.json", "failure.json")
    return path.is_dir() and not path.name.startswith(".") and any((path / name).is_file() for name in wrote)


def _project(folder: Path) -> str:
    """The project's name: the part of its description before the colon."""
    pyproject = repository(folder) / "pyproject.toml"
    table = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"] if pyproject.is_file() else {}
    return escape(table.get("description", "Notebooks").partition(":")[0])


# ---- a card -----------------------------------------------------------------------------------------------------


def _card(run: Path) -> str:
    found = {path.name: _read(path) for path in _files(run)}
    metrics, stamp, failure = (found.get(f"{name}.json") or {} for name in ("metrics", "stamp", "failure"))
    title, question = _title_and_question(run.name, [book for name, book in found.items() if name.endswith(".ipynb")])
    damaged = [name for name, content in found.items() if content is None]
    if damaged and not failure:
        failure = {"message": f"{', '.join(damaged)} cannot be read; run the notebook again"}
    title = escape(metrics.get("title") or title)
    page = f"{run.name}/{run.name}.html"
    linked = f'<a href="{escape(page)}">{title}</a>' if (run / f"{run.name}.html").is_file() else title
    return f"""<article{' class="failed"' if failure else ""}>
{_failure(run, failure, bool(metrics))}{_picture(run, metrics, title)}<div class="text">
<p class="run">{escape(run.name)}</p>
<h2>{linked}</h2>
<div class="question">{question}</div>
{_headline(metrics.get("headline", {}))}{_table(metrics.get("table", []))}{_footer(run, metrics, stamp)}</div>
</article>"""


def _files(run: Path) -> list[Path]:
    """What a card is made of, as far as it is there."""
    names = ("metrics.json", "stamp.json", "failure.json", f"{run.name}.ipynb")
    return [path for path in (*(run / name for name in names), *sorted(run.glob("*.failed.ipynb"))) if path.is_file()]


def _read(path: Path) -> dict[str, Any] | None:
    """A file's content; None: it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _title_and_question(name: str, notebooks: list[dict | None]) -> tuple[str, str]:
    """Heading (text) and the line after it (HTML) in the first readable notebook; without one, the run's name."""
    from nbconvert.filters import markdown2html

    book = next(filter(None, notebooks), None)
    if book is None:
        return name, ""
    prose = ("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown")
    first = next((text for text in prose if text.startswith("#")), "")
    lines = [line.strip() for line in first.splitlines() if line.strip()] + ["", ""]
    return lines[0].lstrip("# "), markdown2html(render_math(lines[1]))


def _failure(run: Path, failure: dict, has_results: bool) -> str:
    if not failure:
        return ""
    kept = next((path for suffix in ("html", "ipynb") for path in run.glob(f"*.failed.{suffix}")), None)
    link = f' <a href="{escape(f"{run.name}/{kept.name}")}">Notebook with the traceback</a>.' if kept else ""
    older = " The results below are from the last run that succeeded." if has_results else ""
    return f'<p class="failure"><strong>Failed.</strong> {escape(failure["message"].rstrip("."))}.{link}{older}</p>\n'


def _picture(run: Path, metrics: dict, title: str) -> str:
    names = metrics.get("figures", [])
    name = metrics.get("thumbnail") or (names[0] if names else None)
    if not name or not (run / "figures" / f"{name}.png").is_file():
        return ""
    source = escape(f"{run.name}/figures/{name}.png")
    alt = f"Figure “{escape(name.replace('_', ' '))}” of the run: {title}"
    return f'<a class="picture" href="{source}"><img src="{source}" alt="{alt}" loading="lazy"></a>\n'


def _headline(headline: dict) -> str:
    def item(label: str, value: Any) -> str:
        words = ' class="words"' if isinstance(value, str) else ""
        return f"<div><dt>{escape(label)}</dt><dd{words}>{html_value(value)}</dd></div>"

    return f"<dl>{''.join(item(k, v) for k, v in headline.items())}</dl>\n" if headline else ""


def _table(rows: list[dict]) -> str:
    if not rows or len(rows) <= 8:
        return html_table(rows) if rows else ""
    return f"<details><summary>Table of {len(rows)} rows</summary>{html_table(rows)}</details>\n"


def _footer(run: Path, metrics: dict, stamp: dict) -> str:
    facts = []
    if stamp:
        commit = (stamp["commit"] or "no commit")[:9] + (" with changes" if stamp["dirty"] else "")
        facts = [_duration(stamp["seconds"]), stamp["device"], commit, stamp["started"][:10]]
    files = {f"{run.name}.html": "Page", f"{run.name}.ipynb": "notebook", "metrics.json": "numbers"}
    files |= {"params.json": "parameters", "stamp.json": "origin"}
    links = [_link(f"{run.name}/{file}", text) for file, text in files.items() if (run / file).is_file()]
    figures = [_link(f"{run.name}/figures/{name}.pdf", name.replace("_", " ")) for name in metrics.get("figures", [])]
    lines = [" · ".join(map(escape, facts)), " · ".join(links), figures and "Figures: " + " · ".join(figures)]
    shown = "".join(f"<p>{line}</p>" for line in lines if line)
    return f"<footer>{shown}</footer>\n" if shown else ""


def _link(target: str, text: str) -> str:
    return f'<a href="{escape(target)}">{escape(text)}</a>'


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
