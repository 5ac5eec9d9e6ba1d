"""Qwen3: a Llama with norms of queries and keys, and with Qwen2's windows."""

import pytest
from lora_helpers import logits_of, relative
from relative_helpers import WINDOWS, RelativeOfLlama


class TestQwen3(RelativeOfLlama):
    kind = "qwen3"
    slopes = "windows from layer 1"
    configs = {
        "usual": {"head_dim": 6},
        "multi-head": {"num_key_value_heads": 4, "head_dim": 4},
        "narrow heads": {"head_dim": 2},
        "attention_bias": {"attention_bias": True, "head_dim": 6},
        "tied": {"tie_word_embeddings": True, "head_dim": 6},
        "large epsilon": {"rms_norm_eps": 0.1, "head_dim": 6},
        "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "head_dim": 6},
        **{name: {**changes, "head_dim": 6} for name, changes in WINDOWS.items()},
    }

    def tiny(self, seed=0, **changes):
        return super().tiny(seed, **{"head_dim": 6, **changes})

    @pytest.mark.parametrize("name", ["q_norm", "k_norm"])
    def test_the_norms_matter(self, name):
        model = self.tiny()
        before = logits_of(model)
        getattr(model.model.layers[0].self_attn, name).weight.data[:2] *= 3
        assert relative(logits_of(model), before) > 1e-3
