"""For the tests of the course's exercises: notebooks' code run in this process, and wrong answers shown to a check."""

import contextlib
import io
import json
import os
import re
from pathlib import Path
from unittest import mock

import pytest

from lora_course.budget import VARIABLE
from lora_course.exercises.checking import WrongAnswerError

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = "raise NotImplementedError  # your code in the place of this line"


def read(path):
    """A notebook as plain dicts and lists."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def code_cells(path):
    """The sources of a notebook's code cells."""
    return ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def run_cells(path):
    """Run a notebook's code cells one after the other, on a small budget; (its names, all that was printed)."""
    pytest.importorskip("IPython", reason="needs IPython: pip install -e '.[notebooks]'")
    names, printed = {}, io.StringIO()
    small = mock.patch.dict(os.environ, {VARIABLE: "small"})
    with contextlib.redirect_stdout(printed), small:
        for number, source in enumerate(code_cells(path)):
            exec(compile(source, f"{path.name}[{number}]", "exec"), names)
    return names, printed.getvalue()


def solution_length(source):
    """How many lines of code a cell's solution has, without comments and empty ones."""
    inside = re.findall(rf"{BEGIN}\n(.*?){END}", source, flags=re.DOTALL)
    lines = [line.strip() for line in "\n".join(inside).split("\n")]
    return len([line for line in lines if line and not line.startswith("#")])


def solutions(topic):
    """{name: function}: the solutions in the notebook NN_topic, with its imports and without its checks."""
    (path,) = (NOTEBOOKS / "solutions").glob(f"[0-9][0-9]_{topic}.ipynb")
    names, cells = {}, code_cells(path)
    exec(cells[0], names)
    for source in cells:
        if BEGIN in source:
            exec(source, names)
    functions = [
        name for source in cells if BEGIN in source for name in re.findall(r"^(?:def|class) (\w+)", source, re.M)
    ]
    return {name: names[name] for name in functions}


def assert_told(check, function, hint, name, capsys):
    """The check says that `function`, under the exercise's name, is wrong, and that `hint` (a pattern) is why."""
    function.__name__ = name
    capsys.readouterr()
    with pytest.raises(WrongAnswerError, match=hint):
        check(function)
    assert re.search(hint, capsys.readouterr().out)
