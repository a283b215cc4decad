"""Fixtures shared by all tests."""

import os
from pathlib import Path

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
