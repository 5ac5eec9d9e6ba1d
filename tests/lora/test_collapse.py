"""Tables of many layers."""

import pytest
from lora_helpers import tiny_model

from lora_np import LoraConfig, get_peft_model
from lora_np.lora.collapse import MOST_ROWS, collapsed


def rows(blocks, text=lambda i, name: "r 4"):
    return [(f"model.layers.{i}.{name}", text(i, name)) for i in blocks for name in ("attn.q", "mlp.1.up")]


def test_equal_blocks_are_one_row():
    assert collapsed(rows(range(30))) == [
        ("model.layers.(0-29).attn.q", "r 4"),
        ("model.layers.(0-29).mlp.1.up", "r 4"),
    ]


def test_blocks_that_differ_are_not():
    found = collapsed(rows(range(30), lambda i, name: "r 8" if i == 2 and name == "attn.q" else "r 4"))
    assert found == [
        ("model.layers.(0-1,3-29).attn.q", "r 4"),
        ("model.layers.(0-29).mlp.1.up", "r 4"),
        ("model.layers.2.attn.q", "r 8"),
    ]


def test_layers_outside_of_blocks_stay_as_they_are():
    given = [*rows(range(20)), ("lm_head", "r 2")]
    assert collapsed(given)[-1] == ("lm_head", "r 2")


def test_a_short_table_stays_whole():
    given = rows(range(MOST_ROWS // 2))
    assert collapsed(given) is given
    assert len(collapsed(rows(range(MOST_ROWS // 2 + 1)))) == 2


@pytest.mark.parametrize("blocks", [2, 40])
def test_a_model_as_text_is_short(blocks):
    model = tiny_model()
    model.transformer.h = type(model.transformer.h)([model.transformer.h[0] for _ in range(1)])
    for _ in range(blocks - 1):
        model.transformer.h.append(type(model.transformer.h[0])(model.config, 0))
    text = repr(get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)))
    assert len(text.splitlines()) == (2 + 2 * blocks if blocks == 2 else 4)
    assert text.splitlines()[1].split() == ["layer", "kind", "adapter", "rank", "scaling", "state"]
