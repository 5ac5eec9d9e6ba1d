"""The notebooks, with small budgets, and the exercises, with their solutions, run under Pyodide in Node.

That is the Python that the site has, without the page around it. A few of them are run; with
LORA_NP_BROWSER_NOTEBOOKS=all it is every one that the site offers, which took an hour of half a core.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from browser_helpers import ROOT, in_node, own_wheel, whole_runtime

from lora_course import lite

pytestmark = pytest.mark.browser
FEW = ("07_parameter_counts.ipynb", "06_lora_forward.ipynb", "13_graph.ipynb")
PACKAGES = ("numpy", "matplotlib", "ipython", "pydoc-data")
PROGRAM = Path(__file__).with_name("notebook.py").read_text(encoding="utf-8")


def solved(path):
    """The notebook itself, or for an exercise the same with its solution."""
    return ROOT / "notebooks" / "solutions" / path.name if path.parent.name == "exercises" else path


EVERY = [solved(path) for path in lite.notebooks()]
ALL = os.environ.get("LORA_NP_BROWSER_NOTEBOOKS", "few") == "all"
TRIED = [path for path in EVERY if ALL or path.name in FEW]


def run(path, folder):
    """What the notebook prints. AssertionError if a cell fails."""
    shutil.copyfile(path, folder / "notebook.ipynb")
    files = [own_wheel(ROOT / "notebooks"), folder / "notebook.ipynb"]
    return in_node(PROGRAM, *PACKAGES, files=files, timeout=1800, folder=whole_runtime())


@pytest.mark.parametrize("path", TRIED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_it_runs_to_its_end(path, tmp_path):
    printed = run(path, tmp_path)
    print(printed.splitlines()[-1])
    assert re.search(r"^all cells ran in \d+ s$", printed, re.MULTILINE)


def test_a_cell_that_fails_is_found(tmp_path):
    source = tmp_path / "wrong.ipynb"
    cells = [{"cell_type": "code", "source": [line]} for line in ("x = 1", "x / 0")]
    source.write_text(json.dumps({"cells": cells}))
    with pytest.raises(AssertionError, match=r"cell 1 fails: ZeroDivisionError"):
        run(source, tmp_path)


def test_the_few_are_there():
    assert {path.name for path in EVERY} >= set(FEW)
