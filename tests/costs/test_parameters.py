"""What is computed from a config agrees with published numbers and with models that are really built."""

import warnings

import pytest
from cost_helpers import GPT2, GPT3, LLAMA2, LLAMA3, PROJECTIONS, SMALL_LLAMA
from hypothesis import given
from hypothesis import strategies as st
from lora_helpers import fuzz, tiny_config

from lora_np import GPT2LMHeadModel, LoraConfig, get_peft_model
from lora_np.costs.parameters import adapter_sizes, count, linear_layers, model_size, weight_shapes
from lora_np.models import LlamaConfig, LlamaForCausalLM


def test_gpt2():
    assert model_size(GPT2) == 124_439_808
    assert count(GPT2, 8) == count(GPT2, 8, ["c_attn"]) == (294_912, 124_734_720)
    assert count(GPT2, 8, "all-linear")[0] == 1_179_648


def test_llama_3_8b():
    assert model_size(LLAMA3) == 8_030_261_248
    trainable, total = count(LLAMA3, 16, PROJECTIONS)
    assert (trainable, total) == (41_943_040, 8_072_204_288)
    assert f"{100 * trainable / total:.4f}" == "0.5196"


@pytest.mark.parametrize("r", [1, 4, 16])
def test_llama_2_7b(r):
    assert model_size(LLAMA2) == 6_738_415_616
    assert count(LLAMA2, r, PROJECTIONS)[0] == count(LLAMA2, r, "all-linear")[0] == 2_498_560 * r


@pytest.mark.parametrize("r", [1, 4])
def test_gpt_3_with_q_and_v(r):
    """GPT-3 has GPT-2's form: q and v are thirds of c_attn. Layers of their own, as in a Llama, come to the same."""
    C, blocks = GPT3["n_embd"], GPT3["n_layer"]
    assert count(GPT3, r, ["c_attn.q", "c_attn.v"])[0] == 2 * blocks * r * (C + C) == 4_718_592 * r
    alike = {**LLAMA2, "hidden_size": C, "num_hidden_layers": blocks, "num_attention_heads": 96}
    assert count({**alike, "num_key_value_heads": 96}, r)[0] == 4_718_592 * r
    assert model_size(GPT3) == pytest.approx(175e9, rel=0.005)


@st.composite
def gpt2_configs(draw):
    heads = draw(st.integers(1, 3))
    return tiny_config(
        n_head=heads,
        n_embd=heads * draw(st.sampled_from([2, 4, 6])),
        n_layer=draw(st.integers(1, 3)),
        vocab_size=draw(st.integers(2, 40)),
        n_positions=draw(st.integers(1, 9)),
        n_inner=draw(st.sampled_from([None, 5, 24])),
        tie_word_embeddings=draw(st.booleans()),
    )


TARGETS = [None, ["c_attn"], "all-linear", ["mlp.c_proj", "c_fc"], r".*\.0\..*c_proj"]


@fuzz
@given(gpt2_configs(), st.integers(1, 5), st.sampled_from(TARGETS))
def test_a_gpt2_that_is_built_has_these_parameters(config, r, targets):
    assert_counts(GPT2LMHeadModel(config), r, targets)


def assert_counts(model, r, targets):
    """Every parameter's name and shape, and what PEFT counts, follow from the config of the model that is built."""
    fields = model.config.to_dict()
    assert weight_shapes(fields) == {name: p.shape for name, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        conv1d = fields["model_type"] == "gpt2"
        adapted = get_peft_model(model, LoraConfig(r=r, target_modules=targets, fan_in_fan_out=conv1d))
    assert count(fields, r, targets) == adapted.get_nb_trainable_parameters()
    sizes = adapter_sizes(fields, r, targets)
    for name, layer in adapted.base_model.layers():
        assert sizes.pop(name) == layer.lora_A["default"].weight.size + layer.lora_B["default"].weight.size
    assert not sizes


@st.composite
def llama_configs(draw):
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    heads = kv_heads * group
    return LlamaConfig(
        num_attention_heads=heads,
        num_key_value_heads=draw(st.just(kv_heads) if group > 1 else st.sampled_from([None, kv_heads])),
        hidden_size=heads * draw(st.sampled_from([2, 4])),
        head_dim=draw(st.sampled_from([None, 2, 6])),
        intermediate_size=draw(st.integers(1, 30)),
        num_hidden_layers=draw(st.integers(1, 3)),
        vocab_size=draw(st.integers(2, 40)),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
    )


LLAMA_TARGETS = [None, ["k_proj"], "all-linear", ["down_proj", "up_proj"], r".*\.0\..*(gate|o)_proj", ["lm_head"]]


@fuzz
@given(llama_configs(), st.integers(1, 5), st.sampled_from(LLAMA_TARGETS))
def test_a_llama_that_is_built_has_these_parameters(config, r, targets):
    assert_counts(LlamaForCausalLM(config), r, targets)


VARIANTS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", {"head_dim": None, "num_key_value_heads": None}),
    ("mistral", {}),
    ("qwen2", {"tie_word_embeddings": True}),
]


@pytest.mark.parity
@pytest.mark.parametrize(("kind", "changes"), VARIANTS, ids=str)
@pytest.mark.parametrize("targets", [None, "all-linear", ["o_proj", "up_proj"]], ids=str)
def test_a_llama_of_transformers_has_these_parameters(kind, changes, targets):
    import peft
    import torch
    import transformers

    fields = {name: value for name, value in {**SMALL_LLAMA, **changes}.items() if value is not None}
    config = transformers.AutoConfig.for_model(kind, **fields)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert weight_shapes({"model_type": kind, **config.to_dict()}) == found
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert linear_layers(config.to_dict()) == {name: (m.in_features, m.out_features) for name, m in linear.items()}
    with torch.device("meta"):
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules=targets or ["q_proj", "v_proj"]))
    assert count(config.to_dict(), 3, targets) == adapted.get_nb_trainable_parameters()


@pytest.mark.parametrize(
    ("config", "targets", "message"),
    [
        (GPT2, ["q_attn"], "no layer matches 'q_attn'; did you mean 'c_attn'"),
        (GPT2, ["c_attn", "c_porj"], "no layer matches 'c_porj'; did you mean 'c_proj'"),
        (GPT2, "c_attn", "no layer matches 'c_attn'"),  # a string must match the whole name
        (LLAMA3, ["c_attn.q"], "no layer matches 'c_attn.q'"),
        (GPT2, ["wte"], "'transformer.wte' is none"),
        (LLAMA3, ["input_layernorm"], "'model.layers.0.input_layernorm' is a RMSNorm"),
    ],
    ids=str,
)
def test_a_wrong_target_is_answered_in_words(config, targets, message):
    with pytest.raises(ValueError, match=message):
        count(config, 8, targets)


def test_a_config_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="model_type 'bert' is not known; known are gpt2, "):
        model_size({"model_type": "bert"})
    for config, field in ((GPT2, "n_positions"), (GPT2, "n_embd"), (LLAMA3, "intermediate_size")):
        with pytest.raises(ValueError, match=f"needs the field '{field}'"):
            model_size({name: value for name, value in config.items() if name != field})
    for r in (0, 1.5, None):
        with pytest.raises(ValueError, match="r must be an integer of at least 1"):
            count(GPT2, r)
