"""What all relatives of LoRA have in common."""

import numpy as np
import pytest
from lora_helpers import perturbed, relative, tiny_llama, tiny_model

from lora_np import TinyLoraConfig, VBLoRAConfig, VeraConfig, get_peft_model
from lora_np.lora.family import FAMILY
from lora_np.lora.kinds import config_class

SHARING = {
    "tinylora": lambda: TinyLoraConfig(target_modules=["c_attn"], fan_in_fan_out=True),
    "vblora": lambda: VBLoRAConfig(target_modules=["c_attn"], fan_in_fan_out=True, num_vectors=8, vector_length=8, r=2),
    "vera": lambda: VeraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True),
}


SETTINGS = {  # {peft_type: what a configuration needs beside its target_modules}
    "ADALORA": {"total_step": 10},
    "FOURIERFT": {"n_frequency": 20},
    "IA3": {"feedforward_modules": []},
    "MISS": {"r": 4, "init_weights": "bat"},
    "OFT": {"oft_block_size": 4},
    "RANDLORA": {"r": 3},
    "SHIRA": {"r": 3},
    "VBLORA": {"num_vectors": 8, "vector_length": 8, "r": 2},
}


@pytest.mark.parametrize("peft_type", [*FAMILY, "LORA"])
def test_the_update_can_be_asked_for_while_it_is_merged(peft_type):
    """Also where ΔW depends on W, which has changed."""
    config = config_class(peft_type, "")(target_modules=["q_proj"], **SETTINGS.get(peft_type, {}))
    model = perturbed(get_peft_model(tiny_llama(), config), scale=0.3)
    layers = [layer for _, layer in model.base_model.layers()]
    before = [layer.get_delta_weight("default") for layer in layers]
    model.merge_adapter()
    for layer, delta in zip(layers, before, strict=True):
        assert delta.any()
        np.testing.assert_array_equal(layer.get_delta_weight("default"), delta)
        np.testing.assert_array_equal(layer.oriented(layer.delta_weight("default")), delta)


@pytest.mark.parametrize("config", SHARING.values(), ids=SHARING)
def test_what_layers_share_has_its_gradient_in_shards_and_computed_again(config, monkeypatch):
    model = perturbed(get_peft_model(tiny_model(n_positions=128), config())).train()
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (4, 64))
    found = []
    for cores in ("1", "2"):
        for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
            monkeypatch.setenv("LORA_NP_NUM_THREADS", cores)
            switch()
            model.zero_grad()
            model(ids, labels=ids).loss.backward()
            found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert set(found[0]) == {name for name, p in model.named_parameters() if p.requires_grad}
    for other in found[1:]:
        assert set(other) == set(found[0])
        assert all(relative(other[name], gradient) < 1e-5 for name, gradient in found[0].items())
