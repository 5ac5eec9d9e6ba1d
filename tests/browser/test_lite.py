"""The course as a JupyterLite site: it is built, and notebooks run in it, in Chromium with no network.

Two of them are run; with LORA_NP_BROWSER_NOTEBOOKS=all it is every one that the site offers.
"""

import json
import os
import time

import pytest
from browser_helpers import half_a_minute, whole_runtime
from browser_pages import chromium_page, served

from lora_course import lite

pytestmark = pytest.mark.browser

# Runs all cells once the kernel is there; says how many ran, how many there are, and which errors they have.
RUN = """async () => {
  await window.jupyterapp.started;
  const context = window.jupyterapp.shell.currentWidget.sessionContext;
  await context.ready;
  while (context.session?.kernel?.status !== "idle") await new Promise((done) => setTimeout(done, 200));
  window.jupyterapp.commands.execute("notebook:run-all-cells");
}"""
SEEN = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells;
  const code = cells.filter((cell) => cell.cell_type === "code");
  const errors = code.flatMap((cell) => cell.outputs.filter((output) => output.output_type === "error"));
  const told = code.map((cell) => cell.outputs.map((output) => output.text ?? "").join("")).join("");
  const trained = code.some((cell) => cell.execution_count && /(^|[ =])train\\(/m.test(cell.source));
  return [code.filter((cell) => cell.execution_count).length, code.length, errors.map((e) => e.evalue), told, trained];
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite") / "site"
    lite.build(folder, whole_runtime())
    return folder


def test_the_site_has_the_notebooks_that_run_in_a_page_and_the_exercises(site):
    names = {path.relative_to(site / "files").as_posix() for path in (site / "files").rglob("*.ipynb")}
    assert names == {path.relative_to(lite.ROOT / "notebooks").as_posix() for path in lite.notebooks()}
    assert {"01_quickstart.ipynb", "12_variants.ipynb", "exercises/17_capstone.ipynb"} <= names
    assert not names & lite.NOT_HERE
    for name in names:
        cells = json.loads((site / "files" / name).read_text(encoding="utf-8"))["cells"]
        assert cells[0]["source"] == lite.FIRST_CELL
        assert not any(cell.get("outputs") for cell in cells)


FIRST = "01_quickstart.ipynb"
ALL = os.environ.get("LORA_NP_BROWSER_NOTEBOOKS", "few") == "all"
EVERY = [path.relative_to(lite.ROOT / "notebooks").as_posix() for path in lite.notebooks()]
TRIED = [name for name in EVERY if ALL or name in (FIRST, "exercises/06_lora_forward.ipynb")]


def run(site, name, limit):
    """(what its cells print, bytes sent, seconds to the end of the first training or None), a notebook run by its link.

    limit: seconds after which it is given up. AssertionError if a cell fails
    """
    with served(site) as (address, server), chromium_page(address) as page:
        began = time.monotonic()
        page.goto(f"{address}/{lite.link(name)}")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        page.wait_for_function("window.jupyterapp !== undefined")
        page.evaluate(RUN)
        ready, first = time.monotonic() - began, None
        ran, cells, errors, told = 0, 1, [], ""
        while ran < cells and not errors and time.monotonic() - began < limit:
            page.wait_for_timeout(1000)
            ran, cells, errors, told, trained = page.evaluate(SEEN)
            first = first or (time.monotonic() - began if trained else None)
    soon = f"first training {first:.0f} s, " if first else ""
    taken = f"kernel {ready:.0f} s, {soon}end {time.monotonic() - began:.0f} s"
    print(f"{name}: {taken}, {server.sent / 1e6:.1f} MB")
    assert errors == []
    assert ran == cells
    return told, server.sent, first


@pytest.mark.parametrize("name", TRIED)
def test_a_notebook_runs_to_its_end_with_no_network(site, name):
    """With the first one an adapter is trained, drawn, saved and loaded. In exercises nothing is filled in."""
    told, sent, first = run(site, name, limit=1500)
    if name == FIRST:
        assert "trainable params" in told
        assert sent < 25e6
        assert first < half_a_minute()
