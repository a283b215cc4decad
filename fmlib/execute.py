"""Executes a notebook in a process of its own, which is killed as a whole at its time limit."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import psutil

from fmlib.files import write_json


def execute(notebook: Path, output: Path, params: dict, root: Path, timeout: float | None) -> str | None:
    """Run papermill in a process of its own; returns what went wrong beyond the cells themselves."""
    run_id = f"{os.environ.get('FMLIB_RUN', '')}/{uuid.uuid4()}"
    inline = "module://matplotlib_inline.backend_inline"
    env = os.environ | {"FMLIB_BATCH": "1", "FMLIB_RUN": run_id, "MPLBACKEND": inline}
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:  # short: Unix socket names end at about 100 characters
        job, log = Path(folder, "job.json"), Path(folder, "log.txt")
        write_json(job, {"notebook": str(notebook), "output": str(output), "params": params, "cwd": str(root)})
        with log.open("w") as stderr:
            command = [sys.executable, "-m", "fmlib.execute", str(job)]
            child = subprocess.Popen(command, cwd=root, env=env, stdout=stderr, stderr=stderr, start_new_session=True)
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:
                return f"stopped at the time limit of {timeout:g} s"
            finally:  # also on Ctrl-C, and on processes that the notebook left behind
                kill_run(run_id)
                child.wait()
        lines = log.read_text(errors="replace").strip().splitlines()
        return (lines or [f"papermill ended with status {code}"])[-1] if code else None


def _execute_here(job_file: Path) -> None:
    """The child process: one papermill run, over Unix sockets where there are any.

    Kernels that start at the same time race for TCP ports; the loser hangs. Socket names in a folder of the run's own
    cannot clash.
    """
    from papermill import execute_notebook
    from traitlets.config import Config

    threading.Thread(target=_die_with, args=[os.getppid()], daemon=True).start()
    job = json.loads(job_file.read_text())
    sockets = {"transport": "ipc", "ip": str(job_file.parent / "kernel")}
    connection = {"connection_file": str(job_file.parent / "kernel.json")}
    execute_notebook(
        job["notebook"],
        job["output"],
        parameters=job["params"],
        kernel_name="python3",
        language="python",
        cwd=job["cwd"],
        progress_bar=False,
        config=Config(KernelManager=connection if os.name == "nt" else connection | sockets),
    )


def _die_with(parent: int) -> None:
    """Kill this run when the process that watches over it is gone, were it by SIGKILL."""
    while os.getppid() == parent:
        time.sleep(1)
    kill_run(os.environ["FMLIB_RUN"])
    os._exit(1)


def kill_run(run_id: str) -> None:
    """Kill every process of a run.

    Kernels and torchrun's workers lead process groups of their own, and an orphan has no parent to be found by; what
    they all share is the environment they inherited.
    """
    for _ in range(20):  # again, for what was forked meanwhile
        mine = [p for p in psutil.process_iter(["environ"]) if run_id in _run_of(p) and p.pid != os.getpid()]
        if not mine:
            return
        for process in mine:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(mine, timeout=1)


def _run_of(process) -> str:
    return (process.info["environ"] or {}).get("FMLIB_RUN", "")


if __name__ == "__main__":
    _execute_here(Path(sys.argv[1]))
