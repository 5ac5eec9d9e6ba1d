"""The widgets in JupyterLab and in Notebook, as cells show them, in Chromium: they answer the hand and the arrow keys.

Both take the arrow keys for themselves, where nobody says that they are somebody else's: `pytest -m widgets`.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.widgets
CELLS = [
    "from lora_course.widgets import attention_view, gradient_walk, memory_calculator, rate_map",
    "gradient_walk()",
    "attention_view()",
    "rate_map()",
    "memory_calculator()",
]
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
MOVES = {  # kind: (what to focus, the key to press, what to click)
    "walk": ("button:nth-of-type(2)", "Enter", "button >> nth=1"),
    "attention": ("[data-here]", "ArrowLeft", ".lw-text span >> nth=5"),
    "rates": ("[aria-pressed=true]", "ArrowRight", "[aria-pressed=false] >> nth=3"),
    "memory": ("input[type=range]", "ArrowRight", "input[type=range] >> nth=0"),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Jupyter's server, with one notebook for each of its two pages."""
    folder = tmp_path_factory.mktemp("jupyter")
    for name in ("lab", "notebook"):
        cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
        nbformat.write(notebook, folder / f"{name}.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=", "--no-browser"]
    paths = os.pathsep.join([str(Path(__file__).parents[3] / "notebooks"), *sys.path[1:]])
    settings = os.environ | {"PYTHONPATH": paths, "JUPYTER_CONFIG_DIR": str(folder / "config")}
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", *options]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=settings, cwd=folder, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(url, server):
    for _ in range(240):
        assert server.poll() is None, "Jupyter's server has ended"
        try:
            return urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.5)
    raise AssertionError("Jupyter's server does not answer")


def execute(page, cell):
    """Press Shift-Enter in a cell, again as long as the page is not ready and the keys are lost."""
    prompt = cell.locator(".jp-InputPrompt").first
    for _ in range(60):
        prompt.click()
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(1000)
        if prompt.text_content().strip("[]: "):  # a number, or a star while it runs
            return
    raise AssertionError("the cell is never run")


@pytest.mark.parametrize("path", ["lab/tree/lab.ipynb", "notebooks/notebook.ipynb"])
def test_every_widget_is_moved_by_key_and_by_mouse(address, chromium, path):
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/{path}")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=120_000)
    for number in range(len(CELLS)):
        execute(page, page.locator(".jp-Notebook .jp-CodeCell").nth(number))
    for kind, (focus, key, target) in MOVES.items():
        widget = page.locator(f".lora-widget[data-kind={kind}][data-ready]").first
        widget.wait_for(timeout=120_000, state="attached")
        widget.scroll_into_view_if_needed()
        words = widget.locator("[role=status]")
        widget.locator(focus).first.focus()
        before = words.text_content()
        page.keyboard.press(key)
        moved = words.text_content()
        assert moved != before, f"{kind}: {key} does nothing"
        widget.locator(target).click(position={"x": 3, "y": 3})
        assert words.text_content() != moved, f"{kind}: the mouse does nothing"
    page.close()
