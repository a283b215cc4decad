"""Fixtures shared by all tests."""

import os
import tomllib
from functools import partial
from pathlib import Path

import download_server
import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images: FMLIB_TEST_DATA, else `shared/data` beside the repository; skips where there is none."""
    root = Path(os.environ.get("FMLIB_TEST_DATA", REPO.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real images at {root}; set FMLIB_TEST_DATA to a folder that holds them")
    return root


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A data root with the few made scenes of the smoke profile."""
    from fmlib.scenes import generate

    root = tmp_path_factory.mktemp("data")
    asked = tomllib.loads((REPO / "notebooks" / "profiles" / "smoke.toml").read_text())["scenes"]
    generate(root / "synthetic", asked["count"], asked["seed"], jobs=1)
    return root


@pytest.fixture
def server():
    """Serves downloads from this machine, and misbehaves on request."""
    with download_server.running() as server:
        yield server


@pytest.fixture
def publish(server):
    """Puts files on the server; returns the manifest that lists them."""
    return partial(download_server.publish, server)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Waits between retries of a download, noted instead of slept."""
    slept = []
    monkeypatch.setattr("fmlib.fetch.time.sleep", slept.append)
    return slept
