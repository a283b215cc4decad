"""Runs every cell of a notebook as a test of its own."""

import os
import subprocess
import sys
from pathlib import Path

import papermill


def run_cells(notebook: Path, values: dict, folder: Path) -> None:
    """Run a copy of a notebook with other parameters, in `folder`; a cell that fails is shown with its traceback."""
    copy = folder / notebook.name
    papermill.execute_notebook(notebook, copy, values, prepare_only=True, progress_bar=False, language="python")
    options = ["-q", "-p", "no:cacheprovider", "-x", "--nbval-lax", "--nbval-current-env", f"--rootdir={folder}"]
    env = os.environ | {"FMLIB_BATCH": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run([sys.executable, "-m", "pytest", *options, copy], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
