"""What a reader builds: the same lines in notebook and package, and right by finite differences."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from lora_course.engine import Array

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
BUILT = {"engine.py": "02_autograd"}  # what a reader builds: file of lora_course -> notebook


def definitions(source):
    """{name: source} of the functions and classes of a file or a cell."""
    found = [n for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return {n.name: ast.get_source_segment(source, n) for n in found}


def of_notebook(name):
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [definitions("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("file", BUILT)
def test_the_package_has_the_lines_of_the_notebook(file):
    theirs = {name: text for cell in of_notebook(BUILT[file]) for name, text in cell.items()}
    mine = definitions((NOTEBOOKS / "lora_course" / file).read_text(encoding="utf-8"))
    assert mine
    for name, text in mine.items():
        assert theirs.get(name) == text, f"{name} differs between {file} and {BUILT[file]}"


def test_the_engine_stands_whole_in_one_cell():
    assert {"Array", "summed"} in [set(cell) for cell in of_notebook("02_autograd")]


W = np.random.default_rng(1).standard_normal((3, 2))
OPERATIONS = {
    "add": lambda x: x + x[:1],
    "mul": lambda x: x * x[1:2],
    "matmul": lambda x: x @ Array(W),
    "matmul of a batch": lambda x: x.reshape(2, 2, 3) @ Array(W),
    "matmul with itself": lambda x: x @ x.swapaxes(0, 1),
    "pow": lambda x: x**-0.5,
    "sub, div": lambda x: (x - x.mean(-1)) / x,
    "exp, log, tanh": lambda x: (x.exp() + 1.0).log() * x.tanh(),
    "picked twice": lambda x: x[[0, 0, 2]],
    "sums": lambda x: x.sum(0) * x.sum(),
    "number and array": lambda x: x * 2.0 + np.ones(3),
}


def gradient(f, x, h=1e-6):
    found = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = h
        found[at] = (f(x + step) - f(x - step)) / (2 * h)
    return found


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_gradients_are_those_of_finite_differences(operation):
    rng = np.random.default_rng(0)
    x = Array(rng.uniform(0.5, 1.5, (4, 3)), trained=True)
    weights = rng.standard_normal(operation(x).value.shape)
    (operation(x) * weights).sum().backward()
    tried = gradient(lambda v: (operation(Array(v)).value * weights).sum(), x.value)
    assert x.grad.shape == x.value.shape
    np.testing.assert_allclose(x.grad, tried, atol=1e-7)


def test_a_shared_result_hands_on_its_gradient_once_and_whole():
    a = Array(1.0, trained=True)
    b = a + a
    (b + b).backward()
    assert a.grad == 4


def test_what_is_frozen_gets_no_gradient_and_no_place_in_the_graph():
    x, w = Array(np.ones((2, 3)), trained=True), Array(np.ones((3, 2)))
    y = x @ w
    y.sum().backward()
    assert [parent for parent, _ in y.parents] == [x]
    assert w.grad == 0.0
    assert (w + w).parents == []


def test_float32_stays_float32():
    x = Array(np.ones(3, np.float32), trained=True)
    y = ((x * 2.0 + 1.0) ** 0.5).mean()
    y.backward()
    assert y.value.dtype == x.grad.dtype == np.float32
