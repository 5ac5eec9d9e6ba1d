"""The widgets in Chromium: moved by keyboard, their effect seen, their sums compared with Python's.

`pip install playwright` and a Chromium (found on the path, or in LORA_NP_CHROMIUM) are needed: `pytest -m widgets`.
"""

import itertools

import numpy as np
import pytest

from lora_course.widgets import (
    attention_view,
    gradient_walk,
    memory_calculator,
    mixing_slider,
    rank_slider,
    rate_map,
)
from lora_course.widgets.memory import BITS, MODELS, PARTS, TARGETS, coefficients, forecast
from lora_course.widgets.widget import source
from lora_np import LoraConfig, get_peft_model
from lora_np.models import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.widgets
HEAD = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><body>'


def mixing():
    model = AutoModelForCausalLM.from_pretrained("tiny-python").eval()
    config = LoraConfig(r=2, target_modules=["c_fc"], fan_in_fan_out=True, init_lora_weights=False)
    tokenizer = AutoTokenizer.from_pretrained("tiny-python")
    windows = {"prose": np.array([tokenizer.encode("some words of prose")])}
    return mixing_slider(
        get_peft_model(model, config, "loud"), tokenizer, "loud", windows, weights=(0.0, 1.0), tokens=9
    )


def cut():
    rng = np.random.default_rng(0)
    return rank_slider({"one": rng.standard_normal((70, 70))}, {0: 2.0, 8: 1.5, 70: 1.2}, 2.0, 1.0)


MAKERS = {  # kind: (function, the element to focus, the key to press)
    "walk": (gradient_walk, "button:nth-of-type(2)", "Enter"),
    "attention": (attention_view, "[data-here]", "ArrowLeft"),
    "rates": (rate_map, "[aria-pressed=true]", "ArrowRight"),
    "memory": (memory_calculator, "input[type=range]", "ArrowRight"),
    "mixing": (mixing, "input[type=range]", "ArrowLeft"),
    "rank": (cut, "input[type=range]", "ArrowRight"),
}


def opened(chromium, folder, html, width, dark=False, **options):
    path = folder / "page.html"
    style = "<style>body{background:#111;color:#eee}</style>" if dark else ""
    path.write_text(f"{HEAD}{style}{html}", encoding="utf-8")
    page = chromium.new_page(viewport={"width": width, "height": 900}, **options)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_moved_by_keyboard_alone_of_two_on_a_page(chromium, tmp_path, kind, width):
    make, focus, key = MAKERS[kind]
    page = opened(chromium, tmp_path, 2 * make()._repr_html_(), width)
    first, second = page.locator(".lora-widget").all()
    words = [widget.locator("[role=status]") for widget in (first, second)]
    before = [one.text_content() for one in words]
    assert before[0] == before[1] != ""
    first.locator(focus).first.focus()
    page.keyboard.press(key)
    assert words[0].text_content() != before[0]
    assert words[1].text_content() == before[1]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("svg:not([aria-label]), canvas:not([aria-label])").count() == 0
    assert page.locator(".lw-static").count() == 0
    assert not page.faults
    page.close()


@pytest.mark.parametrize("dark", [False, True])
def test_it_takes_the_theme_of_the_page(chromium, tmp_path, dark):
    page = opened(chromium, tmp_path, gradient_walk()._repr_html_(), 390, dark)
    assert (page.locator(".lora-widget[data-dark]").count() == 1) is dark
    page.evaluate("document.body.style.background = '#222'")
    page.wait_for_selector(".lora-widget[data-dark]")
    page.close()


def test_without_scripts_there_is_a_table(chromium, tmp_path):
    page = opened(chromium, tmp_path, memory_calculator()._repr_html_(), 390, java_script_enabled=False)
    assert page.locator(".lw-static table").is_visible()
    page.close()


def test_the_calculator_has_the_numbers_of_costs(chromium, tmp_path):
    names = ("SmolLM2-135M", "GPT-2 (124M)", "Llama-2-7B", "Llama-3-8B", "Qwen2.5-0.5B")
    grid = itertools.product(names, TARGETS, (1, 16, 256), (128, 1000), BITS, (False, True))
    keys = ("model", "targets", "rank", "tokens", "bits", "checkpointing")
    states = [dict(zip(keys, values, strict=True)) for values in itertools.islice(grid, 0, None, 7)]
    wanted = [[{part: need[part] for part in (*PARTS, "total")} for need in forecast(**state)] for state in states]
    data = {name: coefficients(MODELS[name]) for name in names}
    page = chromium.new_page()
    script = f"([models, states]) => {{ {source('core.js')} {source('memory.js')} return states.map((s) => "
    found = page.evaluate(script + "[fullNeeds(models[s.model], s), loraNeeds(models[s.model], s)]) }", [data, states])
    page.close()
    assert len(states) > 100
    for state, mine, theirs in zip(states, found, wanted, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert all(abs(one[part] - other[part]) <= 2 for part in other), (state, one, other)  # halves are rounded


def test_a_cut_corner_is_the_svds(chromium, rng):
    matrix = rng.standard_normal((64, 64))
    layer = rank_slider({"one": matrix}, {0: 2.0, 64: 1.0}, 2.0, 1.0).data["layers"]["one"]
    page = chromium.new_page()
    script = f"([layer, k]) => {{ {source('core.js')} {source('rank.js')} return [...cornerOf(layer, k)] }}"
    U, S, Vt = np.linalg.svd(matrix)
    for k in (0, 1, 8, 64):
        found = np.reshape(page.evaluate(script, [layer, k]), (64, 64))
        assert np.abs(found - (U[:, :k] * S[:k]) @ Vt[:k]).max() < 0.1
    page.close()


def test_pointing_at_a_letter_shows_its_attention(chromium, tmp_path):
    text, T = "abc", 3
    maps = np.array([[[[1, 0, 0], [0.25, 0.75, 0], [0.5, 0, 0.5]]]])
    page = opened(chromium, tmp_path, attention_view(text, maps, start=(0, 0))._repr_html_(), 390)
    letters = page.locator(".lw-text span")
    assert letters.count() == T
    letters.nth(1).hover()
    assert "b at 1: 0.75, a at 0: 0.25" in page.locator("[role=status]").text_content()
    page.close()
