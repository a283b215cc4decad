"""environment.yml (conda) and pyproject.toml (pip) ask for the same packages, and each bound has its reason."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "python-lmdb": "lmdb"}


@pytest.fixture(scope="module")
def project(repo):
    return tomllib.loads((repo / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def environment(repo):
    return yaml.safe_load((repo / "environment.yml").read_text())


def bounds(requirements) -> dict[str, str]:
    parsed = [Requirement(text) for text in requirements]
    return {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in parsed}


def test_conda_and_pip_ask_for_the_same_packages(project, environment):
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    asked = bounds([*conda, *(entry for entry in pip if entry != "-e .")])
    assert "-e ." in pip
    assert asked.pop("pip") == ""
    assert asked.pop("python") == project["requires-python"]
    assert asked == bounds(project["dependencies"] + project["optional-dependencies"]["test"])


def test_conda_takes_packages_from_conda_forge_alone(environment):
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_each_bound_has_a_reason(project, repo):
    lines = (repo / "pyproject.toml").read_text().splitlines()
    for text in project["dependencies"] + project["optional-dependencies"]["test"]:
        line = next(line for line in lines if line.strip().startswith(f'"{text}"'))
        lowest = re.search(r">=([\d.]+)", text)
        assert lowest, f"{text} has no lower bound"
        assert re.search(rf"# .*\b{re.escape(lowest[1])}: \w+", line), f"the bound of {text} lacks its reason: {line}"
