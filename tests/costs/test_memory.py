"""Memory by part: the arithmetic of published numbers, and a training step that is really measured."""

import pytest

from lora_np import GPT2Config
from lora_np.costs.memory import activations, memory
from lora_np.costs.parameters import count, linear_layers, model_size

LLAMA2 = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
LLAMA2 |= {"num_hidden_layers": 32, "num_attention_heads": 32}
GPT2 = GPT2Config().to_dict()


def test_full_fine_tuning_takes_16_bytes_a_parameter():
    found = memory(LLAMA2, length=512, method="full")
    size = model_size(LLAMA2)
    assert (found["weights"], found["gradients"], found["optimizer"]) == (2 * size, 2 * size, 12 * size)
    assert found["total"] - found["activations"] == 16 * size == 107_814_649_856  # 112 GB at exactly 7 billion
    assert found["adapters"] == 0
    in_float32 = memory(LLAMA2, length=512, method="full", weight_bytes=4)
    assert in_float32["total"] - in_float32["activations"] == 16 * size


def test_lora_keeps_the_weights_and_drops_their_gradients_and_optimizer():
    trained, _ = count(LLAMA2, 16, "all-linear")
    found = memory(LLAMA2, 16, "all-linear", length=512)
    assert found["weights"] == 2 * model_size(LLAMA2)
    assert found["adapters"] + found["gradients"] + found["optimizer"] == 16 * trained
    assert memory(LLAMA2, 16, length=512, weight_bytes=4)["weights"] == 4 * model_size(LLAMA2)


def test_qlora_quantises_the_linear_layers_and_nothing_else():
    found = memory(LLAMA2, 16, "all-linear", length=512, method="qlora")
    linear = sum(a * b for name, (a, b) in linear_layers(LLAMA2).items() if name != "lm_head")
    others = model_size(LLAMA2) - linear
    assert found["weights"] == pytest.approx(linear * 4.12695 / 8 + 2 * others, rel=1e-6)
    lora = memory(LLAMA2, 16, "all-linear", length=512)
    assert {k: found[k] for k in ("adapters", "gradients", "optimizer", "activations")} == {
        k: lora[k] for k in ("adapters", "gradients", "optimizer", "activations")
    }


def test_activations_grow_with_the_tokens_and_hardly_shrink_under_lora():
    adapted = [name for name in linear_layers(LLAMA2) if name.endswith(("q_proj", "v_proj"))]
    full, lora = (activations(LLAMA2, names, 1, 512) for names in (linear_layers(LLAMA2), adapted))
    assert 0.6 < lora / full < 1
    assert activations(LLAMA2, adapted, 3, 512) == 3 * lora
    rows = 512 * (2 * (32 * (2 + 4 + 1) * 4096 + 32 * 3 * 11008 + 4096) + 8 * 32000)
    assert lora == rows
    again = activations(LLAMA2, adapted, 1, 512, checkpointing=True)
    assert again == 512 * (2 * ((2 + 4 + 1) * 4096 + 3 * 11008 + 32 * 4096 + 4096) + 8 * 32000)


def test_a_method_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="method must be one of 'full', 'lora', 'qlora', got 'bitfit'"):
        memory(GPT2, 8, length=128, method="bitfit")
