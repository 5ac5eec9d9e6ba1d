"""What all relatives of LoRA have in common."""

import numpy as np
import pytest
from lora_helpers import perturbed, relative, tiny_model

from lora_np import TinyLoraConfig, VBLoRAConfig, VeraConfig, get_peft_model

SHARING = {
    "tinylora": lambda: TinyLoraConfig(target_modules=["c_attn"], fan_in_fan_out=True),
    "vblora": lambda: VBLoRAConfig(target_modules=["c_attn"], fan_in_fan_out=True, num_vectors=8, vector_length=8, r=2),
    "vera": lambda: VeraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True),
}


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
