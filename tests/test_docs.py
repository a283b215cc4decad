"""The documents keep what they promise: links lead somewhere, commands exist, the example runs."""

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
from archives import make_ombria

from fmlib.cli import main
from fmlib.params import parse_setting, read_parameters
from fmlib.train import TrainParams

REPO = Path(__file__).resolve().parent.parent
PAGES = [
    REPO / "README.md",
    REPO / "CONTRIBUTING.md",
    REPO / "data_manifests" / "README.md",
    REPO / "reports" / "README.md",
]
README = PAGES[0].read_text()


def commands(start: str) -> list[list[str]]:
    """Words of every indented line of the README that begins so; a backslash continues a line."""
    joined = README.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(rf"(?m)^    ({start} .*)$", joined)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_make_targets_exist():
    targets = set(re.findall(r"(?m)^([a-z]+):", (REPO / "Makefile").read_text()))
    assert {words[1] for words in commands("make")} <= targets


def test_commands_are_understood(monkeypatch):
    """Every `fmlib` line names a command, notebooks that exist, and parameters that they have."""
    lines = commands("fmlib")
    assert len(lines) >= 5
    for _, command, *words in lines:
        if command == "train" or (command, *words[:1]) == ("bench", "train"):
            for word in words[command == "bench" :]:
                parse_setting(word.removeprefix("--"), asdict(TrainParams()))
        elif command in ("run", "params"):
            known = {p.name: p for p in read_parameters(REPO / words[0])}
            types = {name: p.type for name, p in known.items()}
            for setting in (words[i + 1] for i, word in enumerate(words) if word == "--set"):
                parse_setting(setting, {name: p.default for name, p in known.items()}, types)
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0


def test_the_example_runs(tmp_path):
    root = make_ombria(tmp_path, train=13, test=1)
    [example] = re.findall(r"(?s)```python\n(.*?)```", README)
    scope = {}
    exec(example.replace("/path/to/data", str(root)), scope)
    assert scope["features"].shape == (2, 384)
    assert scope["loss"].isfinite()


def test_every_notebook_is_in_the_table():
    for notebook in (REPO / "notebooks").glob("[0-9]*.ipynb"):
        assert f"](notebooks/{notebook.name})" in README


def test_files_stay_short():
    """A file that can be read on a projector: under 300 lines, no function over 50."""
    long = {p.name: n for p in (REPO / "fmlib").rglob("*.py") if (n := len(p.read_text().splitlines())) >= 300}
    assert long == {}
