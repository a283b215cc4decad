"""Runs a copy of a notebook with other parameters: as a reader does, or fast."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
from IPython.display import display


def run_cells(notebook: Path, values: dict, folder: Path) -> None:
    """Run every cell in a kernel, as a test of its own; one that fails is shown with its traceback."""
    copy = parameterised(notebook, values, folder)
    options = ["-q", "-p", "no:cacheprovider", "-x", "--nbval-lax", "--nbval-current-env", f"--rootdir={folder}"]
    env = os.environ | {"FMLIB_BATCH": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run([sys.executable, "-m", "pytest", *options, copy], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def run_here(notebook: Path, values: dict, folder: Path) -> None:
    """Run every cell in this process, where all that it imports is loaded already: a kernel starts in 20 seconds."""
    names = {"__name__": notebook.stem, "display": display}
    with plt.rc_context(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMLIB_BATCH", "1")
        patch.chdir(folder)
        for number, cell in enumerate(nbformat.read(parameterised(notebook, values, folder), as_version=4).cells):
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{notebook.name}, cell {number}", "exec"), names)
    plt.close("all")


def parameterised(notebook: Path, values: dict, folder: Path) -> Path:
    """A copy of a notebook in `folder` that sets other parameters."""
    copy = folder / notebook.name
    papermill.execute_notebook(notebook, copy, values, prepare_only=True, progress_bar=False, language="python")
    return copy
