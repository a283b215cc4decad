"""Notebooks in JupyterLab, in a real browser: every cell runs; in 04 a click and a slider change the picture.

Needs `pip install playwright` (no browser of its own) and Chromium; without them it is skipped. Screenshots are kept
in the folder FMLIB_SCREENSHOTS, else in pytest's.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
import torch

from fmlib import weights
from fmlib.manifest import load_manifest
from fmlib.models.fusmae import fusmae
from fmlib.scenes import generate

REPO = Path(__file__).resolve().parent.parent
WIDGETS = "04_attention_maps"
NOTEBOOKS = ("01_explore_data", "02_pretrain_fusmae", "07_msift_three_tasks", "08_misalignment", "09_throughput")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN, SLOW = "fmlib", 300_000  # milliseconds until a busy machine has done something

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the notebooks, set to few made scenes, few steps, and for 04 a model that needs no training."""
    root = tmp_path_factory.mktemp("lab")
    generate(root / "data" / "synthetic", 32, 0, jobs=1)
    torch.manual_seed(0)
    sensors = [m.replace(patch_size=(8, 8)) for m in load_manifest("synthetic").sensors.values()]
    model = fusmae("nano", sensors, img_size=64, decoder_queries="grid")
    smoke = tomllib.loads((REPO / "notebooks" / "profiles" / "smoke.toml").read_text())
    smoke["04_attention_maps"]["checkpoint"] = str(weights.save(model, root / "model"))
    for name in (*NOTEBOOKS, WIDGETS):
        values = smoke[name] | {"data_root": str(root / "data"), "out": str(root / "run" / name)}
        source, copy = REPO / "notebooks" / f"{name}.ipynb", root / f"{name}.ipynb"
        papermill.execute_notebook(source, copy, values, prepare_only=True, progress_bar=False, language="python")
    return root


@pytest.fixture(scope="module")
def address(folder):
    """Where a JupyterLab serves the folder."""
    tracker = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # else cells that are out of sight are not on the page
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0"]
    own = {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    env = {k: v for k, v in os.environ.items() if k not in ("FMLIB_BATCH", "MPLBACKEND")} | own
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(lambda: answers(port) or server.poll() is not None, 180)
        assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}.ipynb?token={TOKEN}&reset"
    finally:
        server.terminate()
        server.wait(30)


def answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def wait_for(done, seconds: float):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"nothing happened for {seconds} seconds"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    chosen = os.environ.get("FMLIB_SCREENSHOTS")
    path = Path(chosen) if chosen else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="module")
def page(address):
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.set_default_timeout(SLOW)
        yield page
        browser.close()


def run_all(page, address: str, results: Path, screenshot: Path) -> None:
    """Open a notebook and run every cell by the menu, until the last one wrote its results or one failed."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector("text=/ipykernel.* [|] Idle/")  # before, the menu would run nothing
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    failed = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']")
    try:
        wait_for(lambda: results.is_file() or failed.count(), SLOW / 1000)
    finally:
        page.screenshot(path=screenshot)
    assert not failed.count(), failed.first.inner_text()


def picture(page) -> str:
    """The bytes of the widget's picture that is shown, as text."""
    source = page.locator("img.widget-image:visible").first
    return source.evaluate(
        """async image => {
            const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
            return bytes.length + ':' + bytes.reduce((sum, byte) => (sum * 31 + byte) % 1000003, 7);
        }"""
    )


def changes(page, action) -> None:
    before = picture(page)
    action()
    wait_for(lambda: picture(page) != before, SLOW / 1000)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_runs(page, address, folder, screenshots, name):
    run_all(page, address.format(name), folder / "run" / name / "metrics.json", screenshots / f"{name[:2]}.png")
    assert not errors(page, folder / f"{name}.ipynb")


def test_notebook_04_by_hand(page, address, folder, screenshots):
    name = WIDGETS
    run_all(page, address.format(name), folder / "run" / name / "metrics.json", screenshots / "04_top.png")
    widget = page.locator("img.widget-image:visible").first
    widget.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "04_first.png")

    changes(page, page.locator("button[title='row 1, column 6']:visible").first.click)
    mark = page.locator("button:text-is('●'):visible")
    wait_for(lambda: mark.count() == 1, 30)  # the old one goes by a message of its own
    assert mark.get_attribute("title") == "row 1, column 6"
    page.screenshot(path=screenshots / "04_clicked.png")

    slider = page.locator(".widget-hslider", has_text="mask ratio").locator(".noUi-handle:visible")
    changes(page, lambda: (slider.focus(), page.keyboard.press("ArrowRight")))
    page.screenshot(path=screenshots / "04_masked.png")

    page.click(".lm-TabBar-tabLabel:text-is('What does it paint?')")
    widget = page.locator("img.widget-image:visible").first
    widget.wait_for()
    changes(page, page.locator("button[title='row 2, column 3']:visible").first.click)
    widget.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "04_painted.png")

    assert not errors(page, folder / f"{name}.ipynb")


def errors(page, notebook: Path) -> list:
    """Error outputs of the notebook that is open, as JupyterLab saves it."""
    before = notebook.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    wait_for(lambda: notebook.stat().st_mtime_ns != before, SLOW / 1000)
    cells = [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells), "not every cell ran"
    return [output for cell in cells for output in cell.outputs if output.output_type == "error"]
