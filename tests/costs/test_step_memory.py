"""A training step of this library needs what is forecast: steps that are really run and measured, and formulas."""

import pytest
from cost_helpers import LITTLE_GPT2, LITTLE_LLAMA, SMOLLM2, traced_step
from lora_helpers import peft_model

from lora_np import GPT2Config, GPT2LMHeadModel, LoraConfig, get_peft_model
from lora_np.costs.memory import memory
from lora_np.costs.step_memory import estimate_step_memory
from lora_np.models import LlamaConfig, LlamaForCausalLM
from lora_np.nn import quantize_model

LLAMA2 = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
LLAMA2 |= {"num_hidden_layers": 32, "num_attention_heads": 32}
GPT2 = GPT2Config().to_dict()


def lora_step(model, targets, batch, length, dropout=0.0, shards=1):
    """(found, predicted): bytes of one LoRA step of `model`, by part, as traced and as computed."""
    options = {"r": 8, "lora_dropout": dropout, "fan_in_fan_out": model.config.model_type == "gpt2"}
    fields = model.config.to_dict()
    model = get_peft_model(model, LoraConfig(target_modules=targets, **options))
    found = traced_step(model, batch, length, shards)
    found["adapters"] = sum(p.data.nbytes for p in model.parameters() if p.requires_grad)
    found["weights"] -= found["adapters"]
    return found, estimate_step_memory(fields, 8, targets, batch=batch, length=length, dropout=dropout, shards=shards)


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
    small = {**LITTLE_LLAMA, "batch": 4, "length": 128, **changes}
    shape = small.pop("batch"), small.pop("length"), small.pop("dropout", 0.0)
    assert_as_predicted(*lora_step(LlamaForCausalLM(LlamaConfig(**small)), targets, *shape), activations=0.015)


@pytest.mark.parametrize("batch", [4, 5])
def test_shards_need_at_most_what_is_predicted(batch):
    found, predicted = lora_step(LlamaForCausalLM(LlamaConfig(**LITTLE_LLAMA)), Q_AND_V, batch, 128, shards=2)
    # At the least, all wait with what they keep until the last is through the forward pass.
    assert 0.8 * predicted["activations"] < found["activations"] < 1.02 * predicted["activations"]


def test_a_single_token_which_has_no_target_needs_less_than_two():
    config = {"model_type": "llama", **LITTLE_LLAMA}
    one, two = (estimate_step_memory(config, 8, length=n)["activations"] for n in (1, 2))
    assert 0 < one < two


def test_each_shard_holds_logits_of_its_own():
    config, options = {"model_type": "llama", **LITTLE_LLAMA, "vocab_size": 49152}, {"batch": 4, "length": 128}
    one, two, more = (estimate_step_memory(config, 8, **options, shards=n)["activations"] for n in (1, 2, 100))
    chunk, angles = 254 * 49152, 128 * 16  # 64 MiB of logits would be 341 rows: 508 make two chunks of 254
    assert two - one == 4 * (chunk + angles + 2)  # and two sums of losses
    assert more == estimate_step_memory(config, 8, **options, shards=4)["activations"]


def test_a_measured_step_of_the_shape_of_smollm2():
    """The largest test here: a few seconds."""
    found, predicted = lora_step(LlamaForCausalLM(LlamaConfig(**SMOLLM2)), Q_AND_V, 2, 128)
    assert predicted["weights"] == 4 * 134_515_008
    assert predicted["adapters"] == 4 * 460_800
    assert predicted["activations"] == pytest.approx(found["activations"], rel=0.01)


def test_smollm2_by_hand():
    found = estimate_step_memory({"model_type": "llama", **SMOLLM2}, 8, batch=2, length=128)
    # a block keeps x of q and v, two norms, q, k, v, SwiGLU's two arrays, E (128 per head) and z, 1/ρ twice and h twice
    blocks = 256 * 30 * (3 * 576 + 576 + 2 * 192 + 2 * 1536 + 9 * (128 + 1) + 2 + 2 * 8)
    blocks -= 256 * (576 + 1 + 576)  # the first norm has no gradient to compute, and q only serves the gradient of k
    chunk = 254 * 49152
    loss = 256 * (3 * 576 + 1) + 2 * 254 * 576 + chunk
    angles = 128 * 64
    assert found["activations"] == 4 * (blocks + loss + angles + 2)  # and two sums of losses


def test_a_measured_step_of_full_fine_tuning():
    config = GPT2Config(**LITTLE_GPT2)
    found = traced_step(GPT2LMHeadModel(config))
    predicted = memory(config.to_dict(), batch=4, length=128, method="full", weight_bytes=4)
    assert found["weights"] == predicted["weights"]
    for part in ("gradients", "optimizer"):  # Python's own objects come on top: a few dozen kB
        assert predicted[part] <= found[part] <= predicted[part] + 150_000


def test_a_measured_step_on_a_4_bit_base():
    config = GPT2Config(**LITTLE_GPT2)
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


def test_gpt2_by_hand():
    found = estimate_step_memory({**GPT2, "attn_pdrop": 0.0, "resid_pdrop": 0.0}, 8, batch=4, length=128)
    assert found["weights"] == 4 * 124_439_808
    assert (found["adapters"], found["gradients"], found["optimizer"]) == (4 * 294_912, 4 * 294_912, 8 * 294_912)
    # a block keeps x of c_attn, two norms, q k v, GELU's slope (10 C), E (128 per head) and z, 1/σ twice and h
    blocks = 512 * (12 * (10 * 768 + 12 * (128 + 1) + 2 + 8) - 769)  # the first norm has no gradient to compute
    chunk = 254 * 50257  # of 508 rows; 64 MiB of logits would be 333
    loss = 512 * (3 * 768 + 1) + 2 * 508 * 768 + chunk
    assert found["activations"] == 4 * (blocks + loss + 2)  # and two sums of losses


def test_what_is_not_followed_is_refused():
    with pytest.raises(ValueError, match="model_type 'mixtral' is a mixture of experts, which is not supported; known"):
        estimate_step_memory({**LLAMA2, "model_type": "mixtral"}, 8, length=128)
    with pytest.raises(ValueError, match="method must be one of 'full', 'lora', got 'qlora'"):
        estimate_step_memory(GPT2, 8, length=128, method="qlora")
    with pytest.raises(ValueError, match="weights in 4 bits are not trained"):
        estimate_step_memory(GPT2, length=128, method="full", four_bit=True)
    with pytest.raises(ValueError, match="1025 tokens are more than the model's context of 1024"):
        estimate_step_memory(GPT2, 8, length=1025)
