"""OLMo 2: norms behind what is added, and of all queries and all keys. All of it against Transformers and PEFT."""

import pytest
from lora_helpers import logits_of, relative
from relative_helpers import RelativeOfLlama


class TestOlmo2(RelativeOfLlama):
    kind = "olmo2"
    targets = (["q_proj", "v_proj"], "all-linear")
    configs = {
        "usual": {},
        "multi-head": {"num_key_value_heads": None},
        "biases": {"attention_bias": True},
        "tied, large epsilon": {"tie_word_embeddings": True, "rms_norm_eps": 0.1},
        "wide heads": {"head_dim": 6, "hidden_act": "gelu"},
        "theta": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0}},
    }

    @pytest.mark.parametrize("name", ["q_norm", "k_norm"])
    def test_the_norms_are_over_all_heads(self, name):
        model = self.tiny()
        before, norm = logits_of(model), getattr(model.model.layers[0].self_attn, name)
        assert norm.weight.shape == ((16,) if name == "q_norm" else (8,))
        norm.weight.data[:2] *= 3
        assert relative(logits_of(model), before) > 1e-3
