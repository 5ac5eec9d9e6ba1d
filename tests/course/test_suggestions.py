"""Every "what to try" of the course is an edit: it fits the notebook as it is, and the notebook runs with it.

That the edits fit is read in every run. That the notebooks run with them, each in a fresh kernel with small budgets,
takes minutes: `pytest -m suggestions`. With LORA_NP_SUGGESTIONS=first it is the first edit of each notebook, as in CI.
"""

import copy
import json
import os
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
COURSE = sorted(NOTEBOOKS.glob("[01][0-9]_*.ipynb"))
TIMEOUT = 120  # seconds for a cell


def suggestions(path):
    """The cells of a notebook that suggest an edit."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if "suggestion" in cell["metadata"]]


EVERY = [(path, number, cell) for path in COURSE for number, cell in enumerate(suggestions(path), 1)]
IDS = [f"{path.stem}-{number}" for path, number, _ in EVERY]
FIRST = os.environ.get("LORA_NP_SUGGESTIONS", "all") == "first"
TRIED = [one for one in EVERY if one[1] == 1 or not FIRST]
TRIED_IDS = [f"{path.stem}-{number}" for path, number, _ in TRIED]
each = pytest.mark.parametrize(("path", "cell"), [(path, cell) for path, _, cell in EVERY], ids=IDS)


def edited(notebook, suggestion):
    """A copy of the notebook (a dict) with the edit made. AssertionError if it does not fit."""
    made = copy.deepcopy(notebook)
    found = [cell for cell in made["cells"] if cell.get("id") == suggestion["cell"]]
    assert len(found) == 1, f"there is no single cell {suggestion['cell']}"
    source = "".join(found[0]["source"])
    assert found[0]["cell_type"] == "code"
    assert source.count(suggestion["old"]) == 1, (
        f"{suggestion['old']!r} is there {source.count(suggestion['old'])} times"
    )
    assert suggestion["new"] != suggestion["old"]
    found[0]["source"] = source.replace(suggestion["old"], suggestion["new"])
    return made


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_a_notebook_has_suggestions(path):
    assert len(suggestions(path)) >= 2


@each
def test_the_edit_fits_the_notebook(path, cell):
    assert sorted(cell["metadata"]["suggestion"]) == ["cell", "new", "old"]
    assert "suggestion" in cell["metadata"]["tags"]
    edited(json.loads(path.read_text(encoding="utf-8")), cell["metadata"]["suggestion"])


@each
def test_the_words_show_the_edit(path, cell):
    """In a fenced block of the cell stand both the old lines and the new ones."""
    (block,) = re.findall(r"^```\w*\n(.*?)^```", "".join(cell["source"]), re.MULTILINE | re.DOTALL)
    suggestion = cell["metadata"]["suggestion"]
    for line in suggestion["old"].splitlines() + suggestion["new"].splitlines():
        assert line.strip() in block


def test_an_edit_that_does_not_fit_is_found():
    notebook = {"cells": [{"id": "a", "cell_type": "code", "source": ["x = 1\n", "y = 1"]}]}
    assert edited(notebook, {"cell": "a", "old": "x = 1", "new": "x = 2"})["cells"][0]["source"] == "x = 2\ny = 1"
    for wrong in ({"cell": "b", "old": "x"}, {"cell": "a", "old": "z"}, {"cell": "a", "old": "1"}):
        with pytest.raises(AssertionError):
            edited(notebook, {**wrong, "new": "2"})


def run(notebook, folder):
    """Execute a notebook (a dict) in a fresh kernel; CellExecutionError names the cell that fails."""
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.reads(json.dumps(notebook), as_version=4)
    NotebookClient(made, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()


@pytest.mark.suggestions
@pytest.mark.parametrize(("path", "cell"), [(path, cell) for path, _, cell in TRIED], ids=TRIED_IDS)
def test_the_notebook_runs_with_the_edit(path, cell, monkeypatch):
    monkeypatch.setenv("LORA_NP_BUDGET", "small")
    monkeypatch.delenv("LORA_NP_CONFIRM", raising=False)  # as a reader has it: told, and not stopped
    run(edited(json.loads(path.read_text(encoding="utf-8")), cell["metadata"]["suggestion"]), path.parent)


@pytest.mark.suggestions
def test_an_edit_that_stops_the_notebook_is_found(tmp_path):
    import nbformat
    from nbclient.exceptions import CellExecutionError

    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "1 / x")]
    notebook = edited(nbformat.v4.new_notebook(cells=cells), {"cell": cells[0]["id"], "old": "1", "new": "0"})
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run(notebook, tmp_path)
