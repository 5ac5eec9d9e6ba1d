"""Memory by part: the arithmetic of published numbers, and a training step that is really measured."""

import tracemalloc

import numpy as np
import pytest
from lora_helpers import peft_model

from lora_np import GPT2Config, GPT2LMHeadModel, LoraConfig, get_peft_model
from lora_np.autograd.threads import limit_threads
from lora_np.costs.memory import activations, memory
from lora_np.costs.step_memory import estimate_step_memory as this_library
from lora_np.costs.parameters import count, linear_layers, model_size
from lora_np.models import LlamaConfig, LlamaForCausalLM
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


def traced_step(model, batch=4, length=128, shards=1):
    """{"weights", "gradients", "optimizer", "activations"}: bytes of one training step of what is not frozen."""
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, (batch, length))
    found = {"weights": memory_footprint(model)}
    with limit_threads(shards):
        model.train()(input_ids=ids[:shards], labels=ids[:shards])  # what is set up at first use does not count
        tracemalloc.start()
        try:
            model(input_ids=ids, labels=ids).loss.backward()
            found["gradients"], found["activations"] = tracemalloc.get_traced_memory()
            optimizer.step()
            found["optimizer"] = tracemalloc.get_traced_memory()[0] - found["gradients"]
        finally:
            tracemalloc.stop()
    return found


def lora_step(model, targets, batch, length, dropout=0.0, shards=1):
    """(found, predicted): bytes of one LoRA step of `model`, by part, as traced and as computed."""
    options = {"r": 8, "lora_dropout": dropout, "fan_in_fan_out": model.config.model_type == "gpt2"}
    fields = model.config.to_dict()
    model = get_peft_model(model, LoraConfig(target_modules=targets, **options))
    found = traced_step(model, batch, length, shards)
    found["adapters"] = sum(p.data.nbytes for p in model.parameters() if p.requires_grad)
    found["weights"] -= found["adapters"]
    return found, this_library(fields, 8, targets, batch=batch, length=length, dropout=dropout, shards=shards)


def assert_as_predicted(found, predicted, activations=0.02):
    """Weights and adapters to the byte, activations within 2%. Python's objects come on top of the rest."""
    assert (predicted["weights"], predicted["adapters"]) == (found["weights"], found["adapters"])
    for part in ("gradients", "optimizer"):
        assert predicted[part] <= found[part] <= predicted[part] + 100_000
    assert predicted["activations"] == pytest.approx(found["activations"], rel=activations)
    assert predicted["total"] == sum(predicted.values()) - predicted["total"]


@pytest.mark.parametrize(
    ("targets", "changes"),
    [
        (["c_attn"], {}),
        (["c_attn"], {"dropout": 0.1}),
        (["c_attn"], {"vocab_size": 8000, "batch": 4}),  # the loss is the largest moment
        ("all-linear", {"batch": 8}),
        (["mlp.c_proj"], {"batch": 8, "lora_dropout": 0.1}),
        (["mlp.c_proj"], {"n_layer": 1, "dropout": 0.1}),
        (["2.attn.c_attn"], {"batch": 8}),  # below the third block, nothing is kept
        (["3.mlp.c_proj"], {"batch": 8}),
        (["c_attn"], {"n_inner": 128, "n_layer": 2}),
        (["c_attn"], {"n_inner": 128, "batch": 1, "length": 512}),  # attention's backward pass is
        (["c_fc"], {"activation_function": "relu"}),
        (["c_fc"], {"activation_function": "tanh"}),
        (["c_fc"], {"activation_function": "silu"}),
    ],
    ids=str,
)
def test_a_measured_step_of_gpt2_needs_what_is_predicted(targets, changes):
    small = {"vocab_size": 256, "n_embd": 128, "n_layer": 4, "n_head": 4, "batch": 16, "length": 128, **changes}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), small.pop("dropout", 0.0))
    shape = small.pop("batch"), small.pop("length"), small.pop("lora_dropout", 0.0)
    assert_as_predicted(*lora_step(GPT2LMHeadModel(GPT2Config(**small, **dropout)), targets, *shape))


Q_AND_V = ["q_proj", "v_proj"]
SMALL_LLAMA = {"vocab_size": 256, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3}
SMALL_LLAMA |= {"num_attention_heads": 6, "num_key_value_heads": 2}
ATTENTION = {"num_hidden_layers": 1, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 64}
ATTENTION |= {"length": 256}


@pytest.mark.parametrize(
    ("targets", "changes"),
    [
        (Q_AND_V, {}),
        (Q_AND_V, {"length": 32, "batch": 16}),
        (Q_AND_V, {"length": 512, "batch": 1}),
        (Q_AND_V, {"length": 512, "batch": 2}),  # attention's backward pass, a row at a time, is the largest moment
        (Q_AND_V, {**ATTENTION, "batch": 1, "num_key_value_heads": 1}),
        (Q_AND_V, {**ATTENTION, "batch": 1, "num_key_value_heads": 4}),
        (Q_AND_V, {"num_key_value_heads": 6}),
        (Q_AND_V, {"num_key_value_heads": 1, "head_dim": 32}),
        (Q_AND_V, {"attention_dropout": 0.1}),
        (Q_AND_V, {"dropout": 0.1}),
        (Q_AND_V, {"vocab_size": 8000}),  # the loss is
        (Q_AND_V, {"num_hidden_layers": 1}),
        ("all-linear", {}),
        ("all-linear", {"length": 1024, "batch": 1}),
        ("all-linear", {"dropout": 0.1, "attention_bias": True, "mlp_bias": True}),
        (["k_proj"], {}),
        (["o_proj"], {"attention_dropout": 0.1}),
        (["gate_proj"], {}),
        (["up_proj"], {}),
        (["down_proj"], {}),
        # The lowest adapter of all: what its block keeps depends on the gradients that are needed.
        (["2.self_attn.q_proj"], {"length": 512, "batch": 2}),
        (["2.self_attn.k_proj"], {"length": 512, "batch": 2}),
        (["2.self_attn.v_proj"], {"length": 512, "batch": 2}),
        (["2.self_attn.q_proj"], {"num_key_value_heads": 6}),
        (["2.self_attn.k_proj"], {"num_key_value_heads": 6}),
        (["2.self_attn.v_proj"], {"num_key_value_heads": 6}),
        (["1.self_attn.o_proj"], {"attention_dropout": 0.1}),
        (["2.mlp.gate_proj"], {"batch": 8}),
        (["2.mlp.up_proj"], {"batch": 8}),
        (["2.mlp.down_proj"], {"batch": 8}),
        ("all-linear", {"hidden_act": "gelu"}),
        (Q_AND_V, {"hidden_act": "relu"}),
        (["gate_proj"], {"hidden_act": "tanh", "num_hidden_layers": 1}),
    ],
    ids=str,
)
def test_a_measured_step_of_a_llama_needs_what_is_predicted(targets, changes):
    small = {**SMALL_LLAMA, "batch": 4, "length": 128, **changes}
    shape = small.pop("batch"), small.pop("length"), small.pop("dropout", 0.0)
    assert_as_predicted(*lora_step(LlamaForCausalLM(LlamaConfig(**small)), targets, *shape), activations=0.015)


@pytest.mark.parametrize("batch", [4, 5])
def test_shards_need_at_most_what_is_predicted(batch):
    found, predicted = lora_step(LlamaForCausalLM(LlamaConfig(**SMALL_LLAMA)), Q_AND_V, batch, 128, shards=2)
    # At the least, all wait with what they keep until the last is through the forward pass.
    assert 0.8 * predicted["activations"] < found["activations"] < 1.02 * predicted["activations"]


def test_a_single_token_has_no_target_and_no_logits():
    config = {"model_type": "llama", **SMALL_LLAMA}
    one, two = (this_library(config, 8, length=n)["activations"] for n in (1, 2))
    assert 0 < one < two


def test_each_shard_holds_logits_of_its_own():
    config = {"model_type": "llama", **SMALL_LLAMA, "vocab_size": 49152}
    one, two, more = (this_library(config, 8, batch=4, length=128, shards=n)["activations"] for n in (1, 2, 100))
    chunk, angles = 254 * 49152, 128 * 16  # 64 MiB of logits would be 341 rows: 508 make two chunks of 254
    assert two - one == 4 * (chunk + angles)
    assert more == this_library(config, 8, batch=4, length=128, shards=4)["activations"]


SMOLLM2 = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
SMOLLM2 |= {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}


def test_a_measured_step_of_the_shape_of_smollm2():
    """The largest test here: a few seconds."""
    found, predicted = lora_step(LlamaForCausalLM(LlamaConfig(**SMOLLM2)), Q_AND_V, 2, 128)
    assert predicted["weights"] == 4 * 134_515_008
    assert predicted["adapters"] == 4 * 460_800
    assert predicted["activations"] == pytest.approx(found["activations"], rel=0.01)


def test_smollm2_in_this_library():
    found = this_library({"model_type": "llama", **SMOLLM2}, 8, batch=2, length=128)
    # a block keeps x of q and v, two norms, q, k, v, SwiGLU's two arrays, E (128 per head) and z, 1/ρ twice and h twice
    blocks = 256 * 30 * (3 * 576 + 576 + 2 * 192 + 2 * 1536 + 9 * (128 + 1) + 2 + 2 * 8)
    blocks -= 256 * (576 + 1 + 576)  # the first norm has no gradient to compute, and q only serves the gradient of k
    chunk = 254 * 49152
    loss = 256 * (3 * 576 + 1) + 2 * 254 * 576 + chunk
    angles = 128 * 64
    assert found["activations"] == 4 * (blocks + loss + angles)


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
    # a block keeps x of c_attn, two norms, q k v, GELU's slope (10 C), E (128 per head) and z, 1/σ twice and h
    blocks = 512 * (12 * (10 * 768 + 12 * (128 + 1) + 2 + 8) - 769)  # the first norm has no gradient to compute
    chunk = 254 * 50257  # of 508 rows; 64 MiB of logits would be 333
    loss = 512 * (3 * 768 + 1) + 2 * 508 * 768 + chunk
    assert found["activations"] == 4 * (blocks + loss)


def test_what_is_not_followed_is_refused():
    with pytest.raises(ValueError, match="follows the operations of gpt2 and llama; the config is of a 'qwen2' model"):
        this_library({**LLAMA2, "model_type": "qwen2"}, 8, length=128)
    with pytest.raises(ValueError, match="does not follow a head with an adapter"):
        this_library(GPT2, 8, ["lm_head"], length=128)
    with pytest.raises(ValueError, match="method must be one of 'full', 'lora', 'qlora', got 'bitfit'"):
        memory(GPT2, 8, length=128, method="bitfit")
