"""The index: a card for each run, failures shown as failures, numbers as people write them."""

import json
import re

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fmlib.render import notebook_page, render_math
from fmlib.report import build_index, show_new_prose
from fmlib.run import finish
from fmlib.tables import html_value

STAMP = {"commit": "0123456789abcdef", "dirty": False, "seconds": 754.2, "device": "CPU", "started": "2030-01-02T03:04"}


@pytest.fixture
def report(tmp_path):
    """A folder with a good run, a run that failed, and one that failed after an earlier success."""
    for name in ("01_good", "02_failed", "03_failed_later"):
        (tmp_path / name).mkdir()
    figure = plt.figure(figsize=(1, 1))
    metrics = {"title": "Radar & optics", "headline": {"accuracy": [0.8123, 0.0134]}, "thumbnail": "second_one"}
    table = [{"method": "mean image", "R²": 0.0}, {"method": "Fus-MAE", "R²": [0.377, 0.011]}]
    finish(metrics | {"table": table}, tmp_path / "01_good", figures={"first": figure, "second_one": figure})
    finish({"title": "Older", "headline": {"n": 3}}, tmp_path / "03_failed_later")
    plt.close(figure)
    (tmp_path / "01_good" / "stamp.json").write_text(json.dumps(STAMP))
    (tmp_path / "01_good" / "01_good.html").write_text("a page")
    first = new_notebook(cells=[new_markdown_cell("# A notebook\n\n**Does $x_1$ help < more?**\n\nYes.")])
    nbformat.write(first, tmp_path / "01_good" / "01_good.ipynb")
    nbformat.write(first, tmp_path / "02_failed" / "02_failed.failed.ipynb")
    for name in ("02_failed", "03_failed_later"):
        (tmp_path / name / "failure.json").write_text(json.dumps({"message": f"{name}, cell 3: <nothing> here"}))
    (tmp_path / ".04_hidden").mkdir()
    (tmp_path / "no_run").mkdir()
    return tmp_path


def cards(report) -> dict[str, str]:
    page = build_index(report).read_text()
    return dict(re.findall(r'(?s)(?=<article.*?<p class="run">(\w+)</p>)(<article.*?</article>)', page))


def test_every_run_has_a_card_and_nothing_else_has(report):
    assert list(cards(report)) == ["01_good", "02_failed", "03_failed_later"]
    assert "3 runs, 2 failed" in (report / "index.html").read_text()


def test_a_card_shows_what_the_run_found_and_where_it_comes_from(report):
    card = cards(report)["01_good"]
    assert "Radar &amp; optics" in card
    assert re.search(r'<dt>accuracy</dt><dd>0.812 <span class="spread">± 0.013</span>', card)
    assert re.search(r"<td[^>]*>Fus-MAE</td><td class=number>0.377 ", card)
    assert "13 min · CPU · 012345678 · 2030-01-02" in card
    assert re.search(r'<strong>Does <img class="math" alt="x_1"[^>]*>\s*help &lt; more\?</strong>', card)
    assert "Failed" not in card


def test_the_thumbnail_is_the_named_figure_and_has_a_description(report):
    card = cards(report)["01_good"]
    assert 'src="01_good/figures/second_one.png" alt="Figure “second one” of the run: Radar &amp; optics"' in card


def test_a_long_table_is_folded(report):
    finish({"title": "t", "headline": {}, "table": [{"x": n} for n in range(9)]}, report / "01_good")
    assert "<details><summary>Table of 9 rows</summary>" in cards(report)["01_good"]


def test_a_failure_is_shown_with_its_message_and_its_notebook(report):
    card = cards(report)["02_failed"]
    assert card.startswith('<article class="failed">')
    assert "02_failed, cell 3: &lt;nothing&gt; here" in card
    assert 'href="02_failed/02_failed.failed.ipynb"' in card
    assert "<h2>A notebook</h2>" in card


def test_results_older_than_a_failure_say_so(report):
    card = cards(report)["03_failed_later"]
    assert "The results below are from the last run that succeeded." in card
    assert "<dd>3</dd>" in card


def test_all_links_lead_to_files_and_none_to_the_network(report):
    page = build_index(report).read_text()
    targets = re.findall(r'(?:href|src)="([^"]*)"', page)
    files = [target for target in targets if not target.startswith("data:")]
    assert len(files) > 8
    assert all((report / target).is_file() for target in files)


def test_an_absent_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no report folder .*none; run the notebooks first"):
        build_index(tmp_path / "none")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "True"),
        (12345, "12\u202f345"),
        (0.0, "0"),
        (0.81249, "0.812"),
        (31.41592, "31.4"),
        (1234.5, "1234"),
        (-0.25, "−0.250"),
        (1.5e-5, "1.5 × 10<sup>−5</sup>"),
        ([12.345, 2.0], '12.3 <span class="spread">± 2.0</span>'),
        ([4120.0, 130.0], '4120 <span class="spread">± 130</span>'),
        ([0.5, 0.0], '0.500 <span class="spread">± 0</span>'),
        ([-1.0, 0.04], '−1.000 <span class="spread">± 0.040</span>'),
        ("<b>", "&lt;b&gt;"),
    ],
)
def test_numbers_as_people_write_them(value, text):
    assert html_value(value) == text


def test_formulas_become_pictures_but_code_and_prices_stay():
    rendered = render_math(r"`$a$` costs 5$ or 6$, $\frac{a}{b}$ and $\nosuchcommand{x}$")
    assert render_math(r"$\lVert x \rVert$").startswith("<img")
    assert rendered.startswith("`$a$` costs 5$ or 6$, <img")
    assert r'alt="\frac{a}{b}"' in rendered
    assert rendered.endswith(r"$\nosuchcommand{x}$")


def test_lines_printed_one_by_one_are_one_block(tmp_path):
    lines = [nbformat.v4.new_output("stream", name="stdout", text=f"{tenth}0 % of 50 steps\n") for tenth in range(4)]
    cell = nbformat.v4.new_code_cell("train()", outputs=lines)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "run.ipynb")
    page = notebook_page(tmp_path / "run.ipynb").read_text()
    assert "00 % of 50 steps\n10 % of 50 steps\n20 % of 50 steps\n30 % of 50 steps" in page


# ---- prose that is newer than the run ---------------------------------------------------------------------------


def small_notebook(path, prose: str, code: str, ran: bool):
    """A notebook, as stored or as papermill leaves it: with the injected parameters and an output."""
    parameters = new_code_cell("n: int = 1", metadata={"tags": ["parameters"]})
    injected = [new_code_cell("n = 2", metadata={"tags": ["injected-parameters"]})] if ran else []
    output = [new_output("stream", text="computed once\n")] if ran else []
    cells = [new_markdown_cell("# T"), parameters, *injected, new_markdown_cell(prose), new_code_cell(code)]
    cells[-1].outputs = output
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_new_prose_is_shown_around_the_old_results(tmp_path):
    executed = small_notebook(tmp_path / "run" / "run.ipynb", "Old words.", "print(n)", ran=True)
    notebook = small_notebook(tmp_path / "run.ipynb", "New words.", "print(n)", ran=False)
    assert show_new_prose(tmp_path / "run", notebook)
    sources = [cell.source for cell in nbformat.read(executed, as_version=4).cells]
    assert sources == ["# T", "n: int = 1", "n = 2", "New words.", "print(n)"]
    page = executed.with_suffix(".html").read_text()
    assert "New words." in page
    assert "computed once" in page
    assert not show_new_prose(tmp_path / "run", notebook)  # nothing is left to do


def test_prose_of_other_code_is_not_shown(tmp_path):
    executed = small_notebook(tmp_path / "run" / "run.ipynb", "Old words.", "print(n)", ran=True)
    notebook = small_notebook(tmp_path / "run.ipynb", "New words.", "print(n + 1)", ran=False)
    before = executed.read_bytes()
    assert not show_new_prose(tmp_path / "run", notebook)
    assert not show_new_prose(tmp_path / "run", tmp_path / "gone.ipynb")
    assert executed.read_bytes() == before
