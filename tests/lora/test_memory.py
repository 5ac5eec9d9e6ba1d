"""Memory by part: the arithmetic of published numbers, and a training step that is really measured."""

import tracemalloc

import pytest
from lora_helpers import peft_model, some_ids

from lora_np import GPT2Config, GPT2LMHeadModel
from lora_np.lora.memory import activations, memory, this_library
from lora_np.lora.sizes import count, linear_layers, model_size
from lora_np.nn import memory_footprint, quantize_model
from lora_np.training import AdamW

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


def traced_step(model, batch=4):
    """{"weights", "gradients", "optimizer", "activations"}: bytes of one training step of what is not frozen."""
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = some_ids(model.config, batch, 128)
    model.train()(input_ids=ids[:1], labels=ids[:1])  # what is set up at first use does not count
    found = {"weights": memory_footprint(model)}
    tracemalloc.start()
    try:
        model(input_ids=ids, labels=ids).loss.backward()
        found["gradients"], found["activations"] = tracemalloc.get_traced_memory()
        optimizer.step()
        found["optimizer"] = tracemalloc.get_traced_memory()[0] - found["gradients"]
    finally:
        tracemalloc.stop()
    return found


def small_step(targets, **changes):
    """(found, predicted): bytes of one LoRA step on a 4 x 128 GPT-2, by part, as traced and as computed."""
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), changes.pop("dropout", 0.0))
    batch, small = changes.pop("batch", 16), {"vocab_size": 256, "n_embd": 128, "n_layer": 4, "n_head": 4}
    config = GPT2Config(n_positions=128, **{**small, **changes}, **dropout)
    model = peft_model(targets, GPT2LMHeadModel(config), r=8)
    found = traced_step(model, batch)
    found["adapters"] = sum(p.data.nbytes for p in model.parameters() if p.requires_grad)
    found["weights"] -= found["adapters"]
    return found, this_library(config.to_dict(), 8, targets, batch=batch, length=128)


@pytest.mark.parametrize(
    ("targets", "changes"),
    [
        (["c_attn"], {}),
        (["c_attn"], {"dropout": 0.1}),
        (["c_attn"], {"vocab_size": 8000, "batch": 4}),  # the loss is the largest moment
        ("all-linear", {"batch": 8}),
        (["mlp.c_proj"], {"batch": 8}),
        (["2.attn.c_attn"], {"batch": 8}),  # below the third block, nothing is kept
        (["3.mlp.c_proj"], {"batch": 8}),
        (["c_attn"], {"n_inner": 128, "n_layer": 2}),
    ],
    ids=str,
)
def test_a_measured_step_needs_what_is_predicted(targets, changes):
    found, predicted = small_step(targets, **changes)
    assert (predicted["weights"], predicted["adapters"]) == (found["weights"], found["adapters"])
    # Python's own objects come on top of gradients and optimizer state: a few dozen kB.
    for part in ("gradients", "optimizer"):
        assert predicted[part] <= found[part] <= predicted[part] + 100_000
    assert predicted["activations"] == pytest.approx(found["activations"], rel=0.05)
    assert predicted["total"] == sum(predicted.values()) - predicted["total"]


SMALL = {"vocab_size": 256, "n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 128}
SMALL |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)


def test_a_measured_step_of_full_fine_tuning():
    config = GPT2Config(**SMALL)
    found = traced_step(GPT2LMHeadModel(config))
    predicted = memory(config.to_dict(), batch=4, length=128, method="full", weight_bytes=4)
    assert found["weights"] == predicted["weights"]
    for part in ("gradients", "optimizer"):  # Python's own objects come on top: a few dozen kB
        assert predicted[part] <= found[part] <= predicted[part] + 150_000


def test_a_measured_step_on_a_4_bit_base():
    config = GPT2Config(**SMALL)
    model = quantize_model(GPT2LMHeadModel(config))
    found = traced_step(peft_model(["c_attn"], model, r=8))
    full = traced_step(peft_model(["c_attn"], GPT2LMHeadModel(config), r=8))
    predicted = memory(config.to_dict(), 8, ["c_attn"], batch=4, length=128, method="qlora", weight_bytes=4)
    assert found["weights"] == pytest.approx(predicted["weights"] + predicted["adapters"], rel=2e-3)
    assert found["weights"] < 0.35 * full["weights"]
    for part in ("gradients", "optimizer"):
        assert predicted[part] <= found[part] <= predicted[part] + 150_000
    # Nothing of W is kept for the backward pass: each is made anew, one at a time.
    largest = 4 * 128 * 4 * 128
    assert abs(found["activations"] - full["activations"]) < 4 * largest


def test_gpt2_in_this_library():
    found = this_library({**GPT2, "attn_pdrop": 0.0, "resid_pdrop": 0.0}, 8, batch=4, length=128)
    assert found["weights"] == 4 * 124_439_808
    assert (found["adapters"], found["gradients"], found["optimizer"]) == (4 * 294_912, 4 * 294_912, 8 * 294_912)
    # a block keeps x of c_attn, two norms, q k v, GELU's slope (10 C), P (128 per head), 1/σ twice and h
    blocks = 512 * (12 * (10 * 768 + 12 * 128 + 2 + 8) - 769)  # the first norm has no gradient to compute
    chunk = (1 << 25) // (4 * 50257) * 50257
    loss = 512 * (3 * 768 + 1) + 2 * 508 * 768 + chunk
    assert found["activations"] == 4 * (blocks + loss)


def test_what_is_not_followed_is_refused():
    with pytest.raises(ValueError, match="this_library follows GPT-2's operations; the config is of a 'llama' model"):
        this_library(LLAMA2, 8, length=128)
    with pytest.raises(ValueError, match="does not follow a head with an adapter"):
        this_library(GPT2, 8, ["lm_head"], length=128)
    with pytest.raises(ValueError, match="method must be one of 'full', 'lora', 'qlora', got 'bitfit'"):
        memory(GPT2, 8, length=128, method="bitfit")
