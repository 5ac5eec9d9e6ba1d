"""What a reader builds: the same lines in notebook and package, and right by finite differences."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

import lora_np
from lora_course.engine import Array
from lora_course.lora_linear import LoRALinear
from lora_course.transformer import GPT, AdamW, cross_entropy

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
# what a reader builds: file of lora_course -> notebook
BUILT = {"engine.py": "02_autograd", "lora_linear.py": "04_lora_layer"}


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


IDS = np.random.default_rng(2).integers(0, 256, (2, 24))


def library():
    return lora_np.AutoModelForCausalLM.from_pretrained("tiny-python")


def parameters(model):
    return {name.removeprefix("transformer."): p for name, p in model.named_parameters()}


def gpt_of(model, trained=False):
    return GPT({name: p.data.copy() for name, p in parameters(model).items()}, H=4, trained=trained)


def test_the_gpt_has_the_logits_and_every_gradient_of_the_library():
    model = library()
    gpt = gpt_of(model, trained=True)
    np.testing.assert_allclose(gpt(IDS).value, model(IDS).logits.numpy(), atol=1e-4)
    loss, theirs = cross_entropy(gpt(IDS), IDS).mean(), model(IDS, labels=IDS).loss
    loss.backward()
    theirs.backward()
    np.testing.assert_allclose(loss.value, theirs.item(), rtol=1e-6)
    assert gpt.w.keys() == parameters(model).keys()
    for name, p in parameters(model).items():
        np.testing.assert_allclose(gpt.w[name].grad, p.grad, atol=1e-5, err_msg=name)


def test_a_head_that_is_off_adds_nothing():
    gpt = gpt_of(library())
    logits = gpt(IDS).value
    _, P = gpt.attention(gpt.w["wte.weight"][IDS], "h.0", keep=0.0)
    assert P.value.shape == (2, 4, 24, 24)
    np.testing.assert_allclose(P.value.sum(-1), 1, rtol=1e-5)
    every = [(0, head) for head in range(4)]
    added, _ = gpt.attention(gpt.w["wte.weight"][IDS], "h.0", keep=0.0)
    np.testing.assert_array_equal(added.value, np.broadcast_to(gpt.w["h.0.attn.c_proj.bias"].value, added.value.shape))
    assert not np.allclose(gpt(IDS, off=every).value, logits)


def test_adamw_moves_as_the_librarys():
    values = np.random.default_rng(3).standard_normal((2, 5)).astype(np.float32)
    mine, theirs = Array(values, trained=True), lora_np.Tensor(values.copy(), requires_grad=True)
    how = {"lr": 0.1, "betas": (0.9, 0.98)}
    optimizers = AdamW([mine], decay=0.1, **how), lora_np.AdamW([theirs], weight_decay=0.1, **how)
    for _ in range(5):
        (mine * mine * mine).sum().backward()
        (theirs * theirs * theirs).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        theirs.grad = None
    np.testing.assert_allclose(mine.value, theirs.data, rtol=1e-5)


def test_lora_on_the_engine_learns_as_the_librarys():
    model = library()
    gpt = gpt_of(model)
    before = gpt(IDS).value
    config = lora_np.LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", fan_in_fan_out=True)
    theirs = lora_np.get_peft_model(model, config)
    trained = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    rng = np.random.default_rng(4)
    layers = {name: LoRALinear(linear, 4, 12, rng) for name, linear in gpt.linear.items()}
    gpt.linear.update(layers)
    np.testing.assert_array_equal(gpt(IDS).value, before)
    for name, layer in layers.items():  # B random: with zeros a wrong dA would not show
        for letter, mine in (("A", layer.A), ("B", layer.B)):
            p = trained.pop(f"base_model.model.transformer.{name}.lora_{letter}.default.weight")
            if letter == "B":
                mine.value = 0.02 * rng.standard_normal(mine.value.shape).astype(np.float32)
            assert p.shape == mine.value.shape
            p.data, layer.__dict__[f"their_{letter}"] = mine.value.copy(), p
    assert not trained  # all of the library's have been found
    loss, their_loss = cross_entropy(gpt(IDS), IDS).mean(), theirs(IDS, labels=IDS).loss
    loss.backward()
    their_loss.backward()
    np.testing.assert_allclose(loss.value, their_loss.item(), rtol=1e-5)
    for name, layer in layers.items():
        np.testing.assert_allclose(layer.A.grad, layer.their_A.grad, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(layer.B.grad, layer.their_B.grad, atol=1e-5, err_msg=name)
    assert not any(np.any(array.grad) for array in gpt.w.values())  # frozen
    for layer in layers.values():
        layer.on = False
    np.testing.assert_array_equal(gpt(IDS).value, before)
