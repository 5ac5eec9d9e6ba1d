"""How long the traceback of a refusal is, in a notebook and by itself."""

import importlib.util
import json
import subprocess
import sys
import traceback

import numpy as np
import pytest

from lora_np import LoraConfig, get_peft_model
from lora_np.refusals import is_refusal, refuses_here

SCREEN = 45  # lines
BEGIN = """
import numpy as np, lora_np as torch
from lora_np import *
from lora_np import nn
config = GPT2Config(vocab_size=31, n_positions=12, n_embd=16, n_layer=2, n_head=2)
model, base, frozen = GPT2LMHeadModel(config), GPT2LMHeadModel(config), GPT2LMHeadModel(config).requires_grad_(False)
peft_model = get_peft_model(base, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
ids, wrong = np.ones((1, 5), int), np.full((1, 5), 40)
loss = model(ids, labels=ids).loss
loss.backward()
class Wrong:
    def batch(self, seed, step):
        return {"input_ids": wrong, "labels": wrong}
"""
CELLS = {
    'get_peft_model(model, LoraConfig(target_modules=["q_attn", "v_attn"]))': "ValueError: target_modules: no layer",
    'LoraConfig(r=0, target_modules=["c_attn"])': "ValueError: r must be an integer",
    "TrainingArguments(steps=0)": "ValueError: steps must be",
    "model(wrong, labels=ids)": "IndexError: token id 40 is out of range",
    "peft_model(input_ids=wrong, labels=wrong)": "IndexError: token id 40 is out of range",
    "model(np.ones((1, 40), int))": "ValueError: 40 tokens are more than",
    "model(ids, labels=ids[:, :3])": "ValueError: labels of shape",
    "model(ids.astype(float))": "TypeError: token ids must be integers",
    "loss.backward()": "RuntimeError: this graph was already used",
    "frozen(ids, labels=ids).loss.backward()": "RuntimeError: backward() on a tensor",
    "model(ids).logits.backward()": "RuntimeError: backward() without a gradient",
    "torch.ones(2, 3) @ torch.ones(2, 3)": "ValueError: matmul: shapes",
    "torch.ones(2, 3) + torch.ones(4)": "ValueError: add: shapes",
    "nn.Linear(3, 2)(torch.ones(2, 4))": "ValueError: linear expects",
    "if torch.ones(3) > 0: pass": "ValueError: a tensor of shape (3,) is not one number",
    "torch.ones(3).item()": "ValueError: a tensor of shape (3,) is not one number",
    "train(peft_model, Wrong(), TrainingArguments(steps=3), progress=False)": "IndexError: token id 40",
    'peft_model.set_adapter("other")': "UnknownAdapterError: no adapter 'other'",
    'PeftModel.from_pretrained(model, "not/a/folder")': "FileNotFoundError: not/a/folder",
    "AdamW(model, lr=1e-3)": "TypeError: params should be",
    "AdamW([p for p in frozen.parameters() if p.requires_grad])": "ValueError: the optimizer was given no parameters",
    'torch.save(model.state_dict(), "model.pt")': "NotImplementedError: torch.save writes pickles",
    'model.load_state_dict({"weight": np.ones(3)})': "KeyError: 'state does not fit",
}
NOTEBOOK = """
import contextlib, io, json, re, sys
from IPython.core.interactiveshell import InteractiveShell

begin, cells = json.load(sys.stdin)
shell, shown = InteractiveShell.instance(), {}
shell.run_cell(begin)
for cell in cells:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        shell.run_cell(cell)
    shown[cell] = re.sub(r"\\x1b\\[[0-9;]*m", "", out.getvalue()).strip().splitlines()
print(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """{cell: the lines that a notebook shows for it}."""
    if importlib.util.find_spec("IPython") is None:
        pytest.skip("needs IPython: pip install -e '.[notebooks]'")
    folder = tmp_path_factory.mktemp("ipython")
    env = {**__import__("os").environ, "LORA_NP_FULL_TRACEBACKS": "0", "IPYTHONDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        input=json.dumps([BEGIN, list(CELLS)]),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=env,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("cell", CELLS)
def test_the_common_mistakes_end_within_a_screen(shown, cell):
    lines = shown[cell]
    assert any(line.startswith(CELLS[cell]) for line in lines), "\n".join(lines)
    assert len(lines) <= SCREEN, "\n".join(lines)


def frames(function, *args):
    """The names of the functions in the traceback of what it raises."""
    try:
        function(*args)
    except Exception as error:
        return [frame.name for frame in traceback.extract_tb(error.__traceback__)][1:]
    raise AssertionError("nothing was raised")


def wrong_target():
    from lora_helpers import tiny_model

    get_peft_model(tiny_model(), LoraConfig(target_modules=["q_attn"]))


def test_refusals_lose_the_frames_below_the_call(monkeypatch):
    monkeypatch.setenv("LORA_NP_FULL_TRACEBACKS", "0")
    assert frames(wrong_target) == ["wrong_target", "asked"]
    monkeypatch.setenv("LORA_NP_FULL_TRACEBACKS", "1")
    assert len(frames(wrong_target)) > 4


def own_mistake():
    return {}["missing"]


def own_refusal():
    raise ValueError("raised by a user's class")


def numpys():
    np.zeros(2).reshape(3)


@pytest.mark.parametrize("function", [own_mistake, own_refusal, numpys])
def test_everything_else_keeps_its_traceback(monkeypatch, function):
    monkeypatch.setenv("LORA_NP_FULL_TRACEBACKS", "0")
    assert frames(refuses_here(function)) == ["asked", function.__name__]


def test_what_a_refusal_is():
    assert not is_refusal(ValueError("never raised"))
    for call, expected in ((lambda: LoraConfig(r=0), True), (own_mistake, False), (own_refusal, False)):
        with pytest.raises((ValueError, KeyError)) as caught:
            call()
        assert is_refusal(caught.value) is expected


def test_the_cause_stays(monkeypatch):
    monkeypatch.setenv("LORA_NP_FULL_TRACEBACKS", "0")

    def failing():
        from lora_np.storage import read_json

        read_json("no/where.json")

    with pytest.raises(FileNotFoundError) as plain:
        failing()
    with pytest.raises(FileNotFoundError) as short:
        refuses_here(failing)()
    assert str(short.value) == str(plain.value)
    assert type(short.value.__cause__) is type(plain.value.__cause__)


def test_the_function_is_still_itself():
    assert get_peft_model.__name__ == "get_peft_model"
    assert get_peft_model.__doc__.startswith("Freeze `model`")


def test_warnings_point_at_the_users_line():
    from lora_helpers import tiny_model

    config = LoraConfig(target_modules=["c_attn"])
    with pytest.warns(UserWarning, match="fan_in_fan_out set to True") as caught:
        model = get_peft_model(tiny_model(), config)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="fan_in_fan_out set to True") as caught:
        model.add_adapter("other", LoraConfig(target_modules=["c_attn"]))
    assert [warning.filename for warning in caught] == [__file__]
