"""An executed notebook as one HTML page that needs no network: prose and figures first, code folded away."""

import base64
import io
import re
from pathlib import Path

# Colours and type of every page of a report, by day and by night.
BASE_CSS = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5b6875; --paper: #fbfaf7; --card: #ffffff; --line: #dfe3e6;
  --accent: #0b6e8a; --bad: #a6322b; --bad-paper: #fdf1ef; --code: #f3f5f6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9ba8b4; --paper: #14191f; --card: #1c232b;
  --line: #323c47; --accent: #62c0da; --bad: #ff9d92; --bad-paper: #33211f; --code: #222b34; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
a { color: var(--accent); }
img { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { img.math { filter: invert(1); } }
code, pre { font: 0.86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
"""

PAGE_CSS = """
main { max-width: 56rem; margin: 0 auto; padding: 1.5rem 1.25rem 5rem; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 2.1rem; margin: 1rem 0 0.5rem; }
h2 { font-size: 1.4rem; margin: 2.6rem 0 0.5rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
.anchor-link, .prompt { display: none; }
details { margin: 0.5rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: 0.8rem; }
.highlight pre, .output_text pre { padding: 0.7rem 1rem; border-radius: 6px; background: var(--code); }
.highlight pre { overflow-x: auto; }
.output_text pre { white-space: pre-wrap; }
.output_png, .output_svg, .output_jpeg { margin: 1rem 0; text-align: center; }
.output_png img, .output_svg img, .output_jpeg img { background: #fff; padding: 0.6rem; border-radius: 6px; }
.output_error pre, .output_stderr pre { background: var(--bad-paper); color: var(--bad); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid var(--line); text-align: left; }
td { overflow-wrap: anywhere; min-width: 3.5rem; }
blockquote { margin: 1rem 0; padding: 0.1rem 1.2rem; border-left: 4px solid var(--accent); color: var(--soft); }
.ansi-red-fg { color: var(--bad); } .ansi-bold { font-weight: 600; }
@media print { details.code { display: none; } }
"""

TEMPLATE = """{% extends 'classic/base.html.j2' %}
{% block header %}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ nb.metadata.title | escape_html }}</title>
<style>{{ nb.metadata.css }}</style></head><body><main>{% endblock header %}
{% block input %}<details class="code"{% if cell.metadata.open %} open{% endif %}>
<summary>{{ cell.metadata.summary }}</summary>{{ super() }}</details>{% endblock input %}
{% block footer %}</main></body></html>{% endblock footer %}
"""


def notebook_page(executed: str | Path) -> Path:
    """Write an executed notebook as a page beside it.

    Code is folded away, cells tagged `interactive` (widgets need a kernel) are left out, formulas become pictures, and
    each figure is described by the heading above it.

    Args:
        executed: path of an .ipynb file with outputs.

    Returns:
        Path of the .html file.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    executed = Path(executed)
    nb = nbformat.read(executed, as_version=4)
    nb.cells = [cell for cell in nb.cells if "interactive" not in cell.metadata.get("tags", [])]
    nb.metadata.title, nb.metadata.css = executed.stem, BASE_CSS + PAGE_CSS + _code_css()
    heading = executed.stem
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^#+ +(.+)", cell.source, re.M)[-1:]), heading)
            cell.source = render_math(cell.source)
        elif cell.cell_type == "code":
            injected = "injected-parameters" in cell.metadata.get("tags", [])
            cell.metadata |= {"alt": f"Figure: {heading}", "open": injected}
            cell.metadata.summary = "Parameters of this run" if injected else "Code"
    # printed line by line, shown as one block
    exporter = HTMLExporter(raw_template=TEMPLATE, preprocessors=[CoalesceStreamsPreprocessor(enabled=True)])
    body, _ = exporter.from_notebook_node(nb)
    page = executed.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
    return page


def render_math(markdown: str) -> str:
    r"""Turn `$…$` and `$$…$$` into inline pictures, outside of code.

    matplotlib sets the formulas, so a page needs no script from elsewhere. What it cannot set stays as TeX.
    """
    parts = re.split(r"(```.*?```|`[^`\n]*`)", markdown, flags=re.S)
    parts[::2] = [re.sub(r"(?<!\\)(\$\$?)(?=\S)([^$]+)(?<=\S)\1(?!\d)", _formula, part) for part in parts[::2]]
    return "".join(parts)


def _formula(match: re.Match) -> str:
    from matplotlib import rc_context
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser, math_to_image

    display = match[1] == "$$"
    tex = re.sub(r"\\[lr](Vert|vert)\b", r"\\\1 ", match[2].strip())  # matplotlib knows bars without sides only
    svg, font = io.BytesIO(), FontProperties(size=15 if display else 12.5)
    try:
        depth = MathTextParser("path").parse(f"${tex}$", dpi=72, prop=font).depth
        with rc_context({"savefig.facecolor": "none"}):
            math_to_image(f"${tex}$", svg, prop=font, format="svg")
    except ValueError:
        return match[0]
    data = base64.b64encode(svg.getvalue()).decode()
    style = "display:block;margin:1rem auto" if display else f"vertical-align:-{depth:.1f}pt"
    alt = tex.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<img class="math" alt="{alt}" style="{style}" src="data:image/svg+xml;base64,{data}">'


def _code_css() -> str:
    from pygments.formatters import HtmlFormatter

    day, night = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("friendly", "monokai"))
    own = ".highlight { background: none; }"
    return f"{day}\n@media (prefers-color-scheme: dark) {{ {night} }}\n{own}"
