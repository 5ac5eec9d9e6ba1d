"""Models that take no memory have every name and shape of real ones."""

import math
import time
import tracemalloc

import pytest
from cost_helpers import GPT2, GPT3, LLAMA3, PROJECTIONS

from lora_np import LoraConfig, get_peft_model, nn
from lora_np.costs.places import places
from lora_np.costs.weightless import build, cached, model_of


def test_llama_3_8b_without_memory():
    build(LLAMA3)
    tracemalloc.start()
    began = time.process_time()
    model = build(LLAMA3)
    seconds = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.num_parameters() == 8_030_261_248
    assert peak < 36 * 2**20
    assert seconds < 0.2  # 0.02 s without tracing
    tracemalloc.start()
    with nn.weightless():
        adapted = get_peft_model(model, LoraConfig(r=16, target_modules=PROJECTIONS))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 36 * 2**20
    assert adapted.get_nb_trainable_parameters() == (41_943_040, 8_072_204_288)


def test_gpt_3_without_memory():
    tracemalloc.start()
    assert build(GPT3).num_parameters() == 174_604_259_328
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_gpt_3_is_described_by_arrays_that_exist_in_32_bits():
    """NumPy refuses arrays of more than 2³¹ bytes there, whatever they take; its table of tokens has 2.5 GB."""
    arrays = [p.data for p in build(GPT3).parameters()]
    assert max(x.nbytes for x in arrays) == 4 * 50257 * 12288 > 2**31
    assert max(x.layout.nbytes for x in arrays) < 2**31


def test_qwen2_has_biases_on_q_k_and_v_only():
    model = build({**LLAMA3, "model_type": "qwen2"})
    biases = {name for name, _ in model.model.layers[5].named_parameters() if name.endswith("bias")}
    assert biases == {f"self_attn.{part}_proj.bias" for part in "qkv"}


def test_a_config_is_built_once_for_reading():
    assert model_of(GPT2) is model_of(dict(GPT2))
    assert model_of(GPT2) is not model_of({**GPT2, "n_embd": 12})
    assert build(GPT2) is not build(GPT2)
    calls = []
    double = cached(lambda config: calls.append(config) or 2 * config["n"])
    assert [double({"n": 3}), double({"n": 3}), double({"n": 4})] == [6, 6, 8]
    assert calls == [{"n": 3}, {"n": 4}]


@pytest.mark.parametrize("kind", ["yarn", "dynamic"])
def test_positions_that_no_class_here_knows_do_not_matter(kind):
    assert build({**LLAMA3, "rope_scaling": {"type": kind, "factor": 4.0}}).num_parameters() == 8_030_261_248


def test_places_are_seen_and_not_told():
    seen = places({**GPT2, "n_layer": 2})
    block = {"attn.c_attn": 0, "attn.c_proj": 2, "mlp.c_fc": 3, "mlp.c_proj": 4}
    expected = {f"transformer.h.{i}.{name}": (i, place) for i in (0, 1) for name, place in block.items()}
    assert seen.layers == {**expected, "lm_head": (math.inf, 0)}
    assert seen.attention == {(0, 1): 768, (1, 1): 768}
    seen = places({**LLAMA3, "head_dim": 64, "num_hidden_layers": 3})
    beside = [place for name, place in seen.layers.items() if name.endswith(("q_proj", "k_proj", "v_proj"))]
    assert beside == [(0, 0)] * 3 + [(1, 0)] * 3 + [(2, 0)] * 3
    assert seen.attention == {(i, 1): 32 * 64 for i in range(3)}
