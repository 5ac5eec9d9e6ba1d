"""What is called beside a PeftModel."""

import numpy as np
import pytest
from lora_helpers import logits_of, peft_model, refusal, tiny_llama, tiny_model

from lora_np import (
    AdaLoraConfig,
    LoraConfig,
    VeraConfig,
    cast_mixed_precision_params,
    check_if_peft_model,
    get_peft_model,
    nn,
    prepare_model_for_kbit_training,
    rescale_adapter_scale,
)


def test_a_base_in_4_bits_is_prepared():
    model = nn.quantize_model(tiny_llama(hidden_size=64, intermediate_size=64))
    assert prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False}) is model
    assert model.gradient_checkpointing
    assert not any(p.requires_grad for p in model.parameters())
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    ids = np.array([[1, 2, 3]])
    adapted.train()
    adapted(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


def test_a_plain_base_is_frozen_and_in_float32():
    model = prepare_model_for_kbit_training(tiny_model().to(dtype=np.float16))
    assert not model.gradient_checkpointing
    assert model.dtype == np.float32
    assert not any(p.requires_grad for p in model.parameters())


def test_scales_are_put_back_whatever_ends_the_block():
    model = peft_model(["c_attn"], init_lora_weights=False)
    before = logits_of(model)
    block = rescale_adapter_scale(model, 3)
    block.__enter__()
    assert not np.array_equal(logits_of(model), before)
    assert not block.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    np.testing.assert_array_equal(logits_of(model), before)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["c_fc", "wte"], init_lora_weights=False, trainable_token_indices={"wpe": [1]}),
        LoraConfig(r=2, target_modules=["wte"], init_lora_weights=False, use_dora=True),
        LoraConfig(target_modules=["wte", "lm_head"], init_lora_weights=False, ensure_weight_tying=True),
        AdaLoraConfig(init_r=3, target_modules=["c_fc"], init_lora_weights=False, total_step=5),
    ],
    ids=["embedding", "dora", "tied", "adalora"],
)
def test_every_kind_of_lora_is_rescaled(config):
    model = get_peft_model(tiny_model(), config)
    with rescale_adapter_scale(model, 0.5):
        found = logits_of(model)
    model.set_scale("default", 0.5)
    np.testing.assert_array_equal(found, logits_of(model))


@pytest.mark.parametrize("multiplier", ["2", None, True])
def test_a_multiplier_is_a_number(multiplier):
    model = peft_model(["c_attn"])
    assert "multiplier" in refusal(TypeError, lambda: rescale_adapter_scale(model, multiplier).__enter__())


def test_a_model_whose_adapters_have_no_scale():
    vera = get_peft_model(tiny_model(), VeraConfig(r=2, target_modules=["c_attn"]))
    for model in (vera, tiny_model()):
        assert "no LoRA adapters" in refusal(
            ValueError, lambda model=model: rescale_adapter_scale(model, 2.0).__enter__()
        )


def test_what_is_frozen_is_cast_and_what_is_trained_is_not():
    model = peft_model(["c_attn"])
    cast_mixed_precision_params(model, np.float16)
    assert {p.dtype.name for p in model.parameters() if p.requires_grad} == {"float32"}
    assert {p.dtype.name for p in model.parameters() if not p.requires_grad} == {"float16"}


def test_which_folders_have_an_adapter(tmp_path):
    peft_model(["c_attn"]).save_pretrained(tmp_path / "adapter")
    tiny_model().save_pretrained(tmp_path / "model")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text("{")
    found = {name: check_if_peft_model(tmp_path / name) for name in ("adapter", "model", "broken", "nothing")}
    assert found == {"adapter": True, "model": False, "broken": False, "nothing": False}
