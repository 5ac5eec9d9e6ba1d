import base64
import hashlib
import json
import struct
from pathlib import Path

import pytest

from lora_course.book.links import Links
from lora_course.book.notebooks import only_imports, pictures, prepared

LINKS = Links([], lambda path: path == "lora_course")
COURSE = Path(__file__).parents[3] / "notebooks"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os\nfrom a import (\n    b,\n)", True),
        ("import os\n\nx = 1", False),
        ("# only a comment", False),
        ("%pip install x\nimport x", False),
    ],
)
def test_cells_of_imports_are_known(source, expected):
    assert only_imports(source) is expected


def test_the_first_long_imports_of_each_notebook_fold():
    for path in COURSE.glob("[0-9]*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        assert only_imports(next(source for source in sources if source.count("import ") > 3)), path.stem


def test_imports_are_folded_and_links_rewritten():
    notebook = {
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": ["see [it](lora_course)\n", "and"]},
            {"cell_type": "code", "metadata": {"tags": ["a"]}, "source": ["import os"], "outputs": []},
            {"cell_type": "code", "metadata": {}, "source": "x = 1", "outputs": []},
        ]
    }
    text, imports, other = prepared(notebook, "01_a.ipynb", LINKS)["cells"]
    assert text["source"] == "see it\nand"
    assert imports["metadata"]["tags"] == ["a", "hide-input"]
    assert imports["metadata"]["mystnb"]["code_prompt_show"] == "Show the imports"
    assert other["metadata"] == {}


def test_a_button_stands_below_the_title():
    notebook = {"cells": [{"cell_type": "markdown", "metadata": {}, "source": ["# A title\n", "\n", "words"]}]}
    (cell,) = prepared(notebook, "01_a.ipynb", LINKS, "lite/x?path=01_a.ipynb")["cells"]
    title, button, words = cell["source"].split("\n\n")
    assert (title, words) == ("# A title", "words")
    assert 'href="lite/x?path=01_a.ipynb">Run it in the browser</a>' in button


def test_pictures_are_found_by_their_hash_with_their_text_and_shape():
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 900, 300) + b"rest"
    shown = {"data": {"image/png": base64.b64encode(content).decode()}, "metadata": {"image/png": {"alt": "a curve"}}}
    other = {"data": {"image/jpeg": base64.b64encode(b"x").decode()}, "metadata": {"image/jpeg": {"alt": "a photo"}}}
    silent = {"data": {"image/png": base64.b64encode(b"y").decode()}, "metadata": {}}
    assert pictures({"cells": [{"outputs": [shown, other, silent]}, {}]}) == {
        hashlib.sha256(content).hexdigest(): {"alt": "a curve", "shape": 3.0},
        hashlib.sha256(b"x").hexdigest(): {"alt": "a photo", "shape": 1.0},
    }


def test_a_drawing_that_is_there_twice_keeps_the_form_with_its_alternative_text():
    both = {"image/svg+xml": "<svg/>", "text/html": '<img alt="a">', "text/plain": "Drawing"}
    outputs = [{"data": dict(both)}, {"data": {"image/svg+xml": "<svg/>"}}, {"name": "stdout", "text": "1"}]
    cell = {"cell_type": "code", "metadata": {}, "source": "x", "outputs": outputs}
    (cell,) = prepared({"cells": [cell]}, "01_a.ipynb", LINKS)["cells"]
    assert set(cell["outputs"][0]["data"]) == {"text/html", "text/plain"}
    assert set(cell["outputs"][1]["data"]) == {"image/svg+xml"}
