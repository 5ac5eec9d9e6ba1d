"""What Python computes for the widgets, against the sources that it comes from, and the page that it writes."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lora_course.sweep import rate_grid, shipped
from lora_course.widgets import (
    attention_view,
    gradient_walk,
    memory_calculator,
    mixing_slider,
    rank_slider,
    rate_map,
)
from lora_course.widgets.attention import attention_of
from lora_course.widgets.memory import MODELS
from lora_course.widgets.walk import EXAMPLES, trace
from lora_np import LoraConfig, Tensor, evaluate, get_peft_model, no_grad
from lora_np.autograd import functional as F
from lora_np.costs.parameters import model_size
from lora_np.models import AutoModelForCausalLM, AutoTokenizer

SIZES = {  # as the models' own pages or their files say
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-1.7B": 1_711_376_384,
    "GPT-2 (124M)": 124_439_808,
    "GPT-2 XL (1.6B)": 1_557_611_200,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-2-7B": 6_738_415_616,
    "Llama-3-8B": 8_030_261_248,
    "Llama-3-70B": 70_553_706_496,
    "Mistral-7B": 7_241_732_096,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-7B": 7_615_616_512,
}


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tiny():
    return AutoModelForCausalLM.from_pretrained("tiny-python").eval()


@pytest.mark.parametrize("make", [gradient_walk, attention_view, rate_map, memory_calculator])
def test_a_widget_is_one_element_that_needs_nothing_else(make):
    text = make()._repr_html_()
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    assert len(text) < 150_000
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|src=|import |fetch\(", text)
    assert "<table>" in text.split("<script")[0]  # for readers without scripts


def test_data_cannot_close_its_script():
    rows = attention_view("a</script>b")._repr_html_()
    assert rows.count("</script>") == 2
    assert json.loads(re.search(r'json">(.*?)</script>', rows).group(1))["text"] == "a</script>b"


def test_the_models_have_the_sizes_that_are_known():
    assert {name: model_size(config) for name, config in MODELS.items()} == SIZES


def test_the_map_has_the_sweeps_means():
    cells = rate_map().data["maps"]["all linear, alpha = 2r"]
    _, _, losses = rate_grid(shipped()["runs"], "alpha = 2r")
    assert np.allclose([[np.mean([seed[1] for seed in cell]) for cell in row] for row in cells], losses)


def test_attention_is_the_models():
    model, text = tiny(), "for i in range(3):"
    ids = np.array(AutoTokenizer.from_pretrained("tiny-python").encode(text))
    maps = attention_of(model, ids)
    assert np.allclose(maps.sum(-1), 1, atol=1e-5)
    block = model.transformer.h[0]
    with no_grad():
        x = model.transformer.wte(ids[None]) + model.transformer.wpe(np.arange(len(ids))[None])
        qkv = block.attn.c_attn(block.ln_1(x))
        theirs = F.self_attention(qkv, 4).numpy()[0]
    v = qkv.numpy()[0][:, 256:].reshape(len(ids), 4, 32).swapaxes(0, 1)
    assert np.allclose((maps[0] @ v).swapaxes(0, 1).reshape(len(ids), 128), theirs, atol=1e-5)
    model(input_ids=ids[None])  # and it works as before


@pytest.mark.parametrize(("text", "maps"), [("", None), ("x" * 97, None), ("ab", np.ones((1, 1, 3, 3)))])
def test_attention_of_a_text_that_does_not_fit_is_refused(text, maps):
    with pytest.raises(ValueError, match=r"text|maps"):
        attention_view(text, maps)


def test_a_walk_has_the_engines_own_gradients():
    walk = trace(*EXAMPLES["b = a + a, c = b + b"]())
    assert [step["node"] for step in walk["steps"]] == ["c", "b", "a"]
    assert [step["arrived"] for step in walk["steps"]] == [1.0, 2.0, 4.0]
    assert walk["steps"][0]["given"] == [["b", 1.0], ["b", 1.0]]
    steps = trace(*EXAMPLES["L = (w·x − t)², w = 3, x = 2, t = 5"]())["steps"]
    assert {step["node"]: step["arrived"] for step in steps} == {"L": 1, "e": 2, "y": 2, "t": -2, "w": 4, "x": 6}


@pytest.mark.parametrize("title", EXAMPLES)
def test_what_arrives_is_what_was_handed_on(title):
    steps = trace(*EXAMPLES[title]())["steps"]
    for i, step in enumerate(steps[1:], 1):
        handed = [value for before in steps[:i] for name, value in before["given"] if name == step["node"]]
        assert step["arrived"] == pytest.approx(sum(handed))


def test_a_node_without_a_name_is_refused():
    a = Tensor(1.0, requires_grad=True)
    with pytest.raises(ValueError, match="name"):
        trace({"a": a, "c": (a + a) * a}, {})


def test_the_pieces_of_a_corner_add_up_to_it(rng):
    matrix = rng.standard_normal((100, 80))
    part = rank_slider({"one": matrix}, {0: 2.0, 80: 1.0}, 2.0, 1.0).data["layers"]["one"]
    left, right = (np.frombuffer(base64.b64decode(part[s]), np.int8).reshape(64, -1) for s in ("left", "right"))
    again = (left.astype(float) * part["scale"]) @ right.T.astype(float)
    assert np.abs(again - matrix[:64, :64]).max() < 0.1 * np.abs(matrix).max()
    assert np.allclose(part["values"], np.linalg.svd(matrix)[1], rtol=1e-3)


def test_mixing_is_the_base_at_0_and_the_adapter_at_1_and_leaves_it_there():
    base, tokenizer = tiny(), AutoTokenizer.from_pretrained("tiny-python")
    ids = np.array([tokenizer.encode("The value of the statement is a string")])
    before = evaluate(base, ids)
    config = LoraConfig(r=2, target_modules=["c_fc"], fan_in_fan_out=True, init_lora_weights=False)
    model = get_peft_model(base, config, "loud")
    whole = evaluate(model, ids)
    data = mixing_slider(model, tokenizer, "loud", {"x": ids}, weights=(-0.5, 0.0, 1.0), tokens=4).data
    assert data["losses"]["x"][1:] == pytest.approx([before, whole], abs=1e-4)
    assert data["losses"]["x"][0] != pytest.approx(before, abs=1e-3)
    assert evaluate(model, ids) == whole
