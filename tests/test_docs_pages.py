"""The pages under docs/: their code runs, their words lead somewhere, and the site they make has no dead link."""

import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from fmlib.cli import _parser, _train_params
from fmlib.modality import Modality
from fmlib.params import parse_setting, read_parameters

REPO = Path(__file__).resolve().parent.parent
DOCS = REPO / "docs"
SOLVED = sorted(path.stem.partition("_")[0] for path in (REPO / "notebooks" / "exercises").glob("*.ipynb"))


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block of a page."""
    return re.findall(r"(?ms)^```(\w+)\n(.*?)^```", (DOCS / page).read_text())


def run_page(page: str, folder: Path, monkeypatch) -> dict:
    """Execute a page's Python in its order; its TOML is written where the words before it say."""
    monkeypatch.chdir(folder)
    scope: dict = {}
    for language, text in blocks(page):
        if language == "toml":
            before = (DOCS / page).read_text().partition(text)[0]
            Path(re.findall(r"`([\w/]+\.toml)`", before)[-1]).write_text(text)
        elif language == "python":
            exec(compile(text, page, "exec"), scope)
    return scope


@pytest.mark.filterwarnings("ignore:.*no mean and std; measured on")
def test_a_data_set_of_ones_own_opens_in_thirty_lines(tmp_path, monkeypatch):
    scope = run_page("add_dataset.md", tmp_path, monkeypatch)
    assert scope["sample"]["sar"].shape == (2, 64, 64)
    assert scope["sample"]["nir"].shape == (1, 64, 64)
    assert 10 <= len(scope["train"]) <= 16
    np.testing.assert_allclose(scope["train"].modalities["sar"].mean, -12, atol=0.2)
    assert sum(len(text.strip().splitlines()) for _, text in blocks("add_dataset.md")) <= 30


def test_a_sensor_of_ones_own_enters_a_model(tmp_path, monkeypatch):
    [table] = [text for language, text in blocks("add_sensor.md") if language == "toml"]
    entry = tomllib.loads(table)["sensors"]["thermal"]
    del entry["path"]
    thermal = Modality(name="thermal", **entry)
    assert thermal.patch_size == (4, 4)
    scope: dict = {}
    for language, text in blocks("add_sensor.md"):
        if language == "python":
            exec(text, scope)
    assert scope["loss"].isfinite()
    assert scope["masks"]["thermal"].present.tolist() == [True, True, False, False]
    assert set(scope["pred"]) == {"s1", "s2", "thermal"}


def test_a_folder_is_fused_and_scored_beside_trivial_methods(tmp_path, monkeypatch):
    scope = run_page("fuse_folder.md", tmp_path, monkeypatch)
    assert len(scope["report"].fused) == 1
    assert not scope["report"].failed
    assert {"untrained", "mean", "max", "visible alone"} <= set(scope["means"])
    assert scope["means"]["untrained"] < scope["means"]["mean"]


def test_a_mask_of_ones_own_keeps_what_it_says(tmp_path, monkeypatch):
    scope = run_page("add_masking.md", tmp_path, monkeypatch)
    kept = {name: 1 - mask.mask.view(2, 8, 8) for name, mask in scope["masks"].items()}
    assert all(mask.mean() == 0.25 for mask in kept.values())
    assert not (kept["s1"] * kept["s2"]).any()


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_of_pages_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_commands_name_notebooks_and_parameters_that_exist():
    for page in DOCS.glob("*.md"):
        for notebook, rest in re.findall(r"(?m)^    fmlib run (\S+)(.*)$", page.read_text()):
            declared = read_parameters(REPO / notebook)
            for setting in re.findall(r"--set (\S+)", rest):
                parse_setting(setting, {p.name: p.default for p in declared}, {p.name: p.type for p in declared})


def test_the_glossary_is_sorted_and_its_names_exist():
    rows = re.findall(r"(?m)^\| (.+?) \| (.+?) \| (.+?) \|$", (DOCS / "glossary.md").read_text())[2:]
    terms = [term.lower() for term, _, _ in rows]
    assert terms == sorted(terms, key=lambda term: re.sub(r"\W", "", term))
    assert len(terms) == len(set(terms)) > 60
    names = [
        name for *_, code in rows for name in re.findall(r"`((?:fmlib\.|evaluate\.|viz\.|quality\.)[\w.]+)`", code)
    ]
    assert len(names) > 30
    assert [name for name in names if not exists(name)] == []
    files = [name for *_, code in rows for name in re.findall(r"`([\w/]+(?:\.py|/))`", code)]
    assert [name for name in files if not any((root / name).exists() for root in (REPO, REPO / "fmlib"))] == []


def exists(name: str) -> bool:
    """Is there a module, or something in a module, of this name?"""
    parts = name.removeprefix("fmlib.").split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(["fmlib", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        return all((found := getattr(found, part, None)) is not None for part in parts[count:])
    return False


def test_course_and_instructor_know_every_exercise_that_is_solved():
    course, answers = ((DOCS / name).read_text() for name in ("course.md", "instructor.md"))
    assert course.count("\n## ") == 6
    for number in SOLVED:
        notebook = next((REPO / "notebooks").glob(f"{number}_*.ipynb"))
        assert f"](../notebooks/{notebook.name})" in course
        assert [n for n in (1, 2, 3) if f"| {number}.{n} | " not in answers] == []


def test_every_published_result_says_where_it_comes_from():
    kept = [path.name for path in (REPO / "reports" / "published").iterdir() if path.name != "README.md"]
    page = (DOCS / "numbers.md").read_text()
    assert [name for name in kept if f"`{name}`" not in page] == []


# ---- the site ---------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Links, sources and anchors of one page."""

    def __init__(self, page: Path):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], {""}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given["id"]} if given.get("id") else set()
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif given.get("src") or (tag == "link" and given.get("rel") in ("stylesheet", "icon")):
            self.loaded.append(given.get("src") or given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason="pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "-q", "-W", "--keep-going", ".", str(out / "html")]
    done = subprocess.run([*command, "-d", str(out / "doctrees")], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return out / "html"


@pytest.mark.slow
def test_the_site_has_no_dead_link_and_loads_nothing_from_elsewhere(site):
    pages = {path: Links(path) for path in site.rglob("*.html") if "_static" not in path.parts}
    assert len(pages) > 30
    dead = []
    for path, page in pages.items():
        assert [url for url in page.loaded if urlsplit(url).scheme in ("http", "https")] == [], path
        for url in page.links + page.loaded:
            where = urlsplit(url)
            if where.scheme or where.netloc:
                continue
            target = (path.parent / unquote(where.path)).resolve() if where.path else path
            known = pages[target].anchors if target in pages else {where.fragment}
            if not target.exists() or unquote(where.fragment) not in known:
                dead.append(f"{path.relative_to(site)}: {url}")
    assert dead == []


@pytest.mark.slow
def test_the_site_holds_lessons_solutions_and_the_reference(site):
    assert "url=README.html" in (site / "index.html").read_text()
    assert 'alt="z = (x - \\mu_c) / \\sigma_c"' in (site / "notebooks" / "01_explore_data.html").read_text()
    reference = (site / "docs" / "_build" / "api" / "fmlib.html").read_text()
    assert 'id="fmlib.masking.draw_masks"' in reference
    assert "share of patches removed" in reference


def test_the_script_of_speed_asks_for_measurements_that_exist(tmp_path):
    """`experiments/speed.sh` with a Python that writes down what it is asked for."""
    stub, log = tmp_path / "python", tmp_path / "asked"
    stub.write_text(f'#!/bin/sh\nshift 2\necho "$@" >> "{log}"\nexit 1\n')  # a failing one stops no other
    stub.chmod(0o755)
    script = REPO / "experiments" / "speed.sh"
    subprocess.run(["sh", script, tmp_path / "out"], env=os.environ | {"PYTHON": str(stub)}, check=True)
    asked = [_parser().parse_known_args(line.split()) for line in log.read_text().splitlines()]
    models = [_train_params(rest) for _, rest in asked[:-1]]
    assert len(models) == 12
    assert {(p.preset, p.img_size, p.patch_size, p.batch_size) for p in models} == {
        ("base", 120, 8, 256),
        ("small", 120, 8, 256),
    }
    assert {p.compile_mode for p in models} == {"default", "reduce-overhead", "blocks"}
    assert asked[0][0].seconds == 180
    assert (tmp_path / "out" / "speed.log").read_text().count("# failed") == 13
