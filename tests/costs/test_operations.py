"""The operations of a step agree with formulas, and with the products of a step that is run for its shapes."""

import math

import numpy as np
import pytest
from cost_helpers import GPT2, LLAMA3, SMALL_LLAMA

from lora_np import LoraConfig, get_peft_model, nn
from lora_np.autograd.threads import limit_threads
from lora_np.costs.meter import metered
from lora_np.costs.operations import flops, place_of
from lora_np.costs.parameters import adapter_sizes, count, linear_layers
from lora_np.costs.weightless import build, to_shapes


def test_flops_of_a_full_step_are_three_times_the_forward():
    found = flops(LLAMA3, batch=2, length=64, method="full")
    products = 2 * 128 * sum(a * b for a, b in linear_layers(LLAMA3).values())
    attention = 32 * 4 * 2 * 64 * 64 * 4096
    assert found == {k: n * (products + attention) for k, n in (("forward", 1), ("backward", 2), ("total", 3))}


def test_a_window_bounds_the_keys_of_its_layers():
    sizes = {**SMALL_LLAMA, "num_hidden_layers": 3, "sliding_window": 5}
    mistral = {**sizes, "model_type": "mistral"}
    qwen2 = {**sizes, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2}
    for config, layers in ((mistral, 3), (qwen2, 1)):
        whole = flops({**config, "sliding_window": None}, method="full", length=64)["forward"]
        width = sizes["num_attention_heads"] * sizes["head_dim"]
        assert whole - flops(config, method="full", length=64)["forward"] == layers * 4 * 64 * (64 - 5) * width
        short = flops(config, method="full", length=4)
        assert short == flops({**config, "sliding_window": None}, method="full", length=4)


@pytest.mark.parametrize("config", [GPT2, LLAMA3], ids=["gpt2", "llama"])
def test_a_lora_step_takes_about_two_thirds_of_a_full_one(config):
    full, lora = flops(config, length=128, method="full"), flops(config, 8, length=128)
    assert lora["total"] / full["total"] == pytest.approx(2 / 3, rel=0.02)
    branch = 2 * 128 * count(config, 8)[0]
    assert lora["forward"] == full["forward"] + branch
    assert flops(config, 8, batch=3, length=128)["total"] == 3 * lora["total"]


def test_nothing_is_computed_backward_below_the_lowest_adapter():
    first, last = (flops(GPT2, 1, [f"{i}.mlp.c_proj"], length=8)["backward"] for i in (0, 11))
    block = sum(a * b for name, (a, b) in linear_layers(GPT2).items() if ".5." in name) + 4 * 8 * 768
    assert first - last == 2 * 8 * 11 * block
    head, branch = 2 * 8 * 768 * 50257, 2 * 2 * 8 * (768 + 3072)
    assert last == head + branch
    with pytest.raises(ValueError, match="method must be 'full' or 'lora', got 'qlora'"):
        flops(GPT2, 8, length=8, method="qlora")


def test_q_k_and_v_stand_side_by_side():
    """What the first block reads needs no gradient: its k and v pass none on, whichever of them has an adapter."""
    fields = {"model_type": "llama", **SMALL_LLAMA}
    q, v = (flops(fields, 2, [f"0.self_attn.{name}"], length=4)["backward"] for name in ("q_proj", "v_proj"))
    assert q - v == 2 * 4 * 2 * 2 * (64 - 32)  # only the branches differ: q's is wider


def products_of_a_step(config, r, targets, batch, length, method):
    """Operations of the real step forward, and of the whole of it, both with two for each multiply-add."""
    model = build(config)
    if method == "lora":
        gpt2 = config["model_type"] == "gpt2"
        with nn.weightless():
            model = get_peft_model(model, LoraConfig(r=r, target_modules=targets, fan_in_fan_out=gpt2))
    ids = np.zeros((batch, length), np.int64)
    with metered() as meter, limit_threads(1):
        logits = to_shapes(model).train()(input_ids=ids).logits
        forward = meter.products
        logits.sum().backward()
    return 2 * forward, 2 * meter.products


@pytest.mark.parametrize("length", [3, 64])
@pytest.mark.parametrize("config", [GPT2, LLAMA3, {**LLAMA3, "num_hidden_layers": 2, "head_dim": 64}], ids=str)
def test_the_products_of_a_real_full_step_are_counted(config, length):
    found = products_of_a_step(config, None, None, 2, length, "full")
    expected = flops(config, batch=2, length=length, method="full")
    assert found == (expected["forward"], expected["total"])


@pytest.mark.parametrize(
    ("config", "targets"),
    [(GPT2, ["c_attn"]), (GPT2, ["5.mlp.c_proj"]), (LLAMA3, "all-linear"), (LLAMA3, ["30.mlp.up_proj"])],
    ids=str,
)
def test_the_products_of_a_real_lora_step_are_counted(config, targets):
    """But for one: the layers in the lowest place pass no gradient on through their A, r·in a row."""
    forward, total = products_of_a_step(config, 8, targets, 2, 16, "lora")
    expected, places = flops(config, 8, targets, batch=2, length=16), {}
    for name in adapter_sizes(config, 8, targets):
        places.setdefault(place_of(name, config), []).append(linear_layers(config)[name][0])
    assert forward == expected["forward"]
    assert total == expected["total"] - 2 * 2 * 16 * 8 * sum(places[min(places)])


def test_places_are_known_by_name():
    gpt2 = {"attn.c_attn": 0, "attn.c_proj": 2, "mlp.c_fc": 3, "mlp.c_proj": 4}
    for name, place in gpt2.items():
        assert place_of(f"transformer.h.3.{name}") == place_of(f"transformer.h.3.{name}", GPT2) == (3, place)
    assert place_of("transformer.h.11.attn.c_attn.q") == place_of("transformer.h.11.attn.c_attn", GPT2) == (11, 0)
    llama = {"self_attn.k_proj": 0, "self_attn.o_proj": 2, "mlp.gate_proj": 3, "mlp.up_proj": 3, "mlp.down_proj": 4}
    for name, place in llama.items():
        assert place_of(f"model.layers.7.{name}") == place_of(f"model.layers.7.{name}", LLAMA3) == (7, place)
    assert place_of("lm_head") == (math.inf, 0)
    with pytest.raises(KeyError, match="no linear layer has the name 'q_attn'"):
        place_of("q_attn")
