"""Mistral: a Llama with a window on every layer. All of it against Transformers and PEFT."""

import json

import numpy as np
import pytest
from lora_helpers import relative, some_ids
from relative_helpers import SMALL, RelativeOfLlama

from lora_np import MistralConfig
from lora_np.models.loading.checkpoints import load_pretrained


class TestMistral(RelativeOfLlama):
    kind = "mistral"
    slopes = "window"
    configs = {
        "usual": {},
        "window": {"sliding_window": 3},
        "window of two": {"sliding_window": 2},
        "window as long as the text": {"sliding_window": 9},
        "no window": {"sliding_window": None},
        "multi-query": {"num_key_value_heads": 1, "sliding_window": 4},
        "heads by default": {"num_key_value_heads": None, "sliding_window": 5},
        "wide heads, tied": {"head_dim": 6, "tie_word_embeddings": True, "sliding_window": 2},
        "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "hidden_act": "gelu"},
    }

    def test_a_token_out_of_all_windows_has_no_influence(self):
        """Three layers of windows of 2 look back by 3 tokens."""
        model = self.tiny(sliding_window=2).to(dtype=np.float64)
        ids = some_ids(model.config)
        other = ids.copy()
        other[:, 2] = (other[:, 2] + 1) % 31
        changed = abs(model(other).logits.data - model(ids).logits.data).max(axis=(0, 2)) > 1e-12
        assert changed.tolist() == [False] * 2 + [True] * 4 + [False] * 3


def test_fields_that_mistral_does_not_read_are_passed_over(tmp_path):
    """As in Transformers, where a Mistral has no biases whatever its file says."""
    model = TestMistral().tiny(sliding_window=3)
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert "attention_bias" not in fields
    more = {"attention_bias": True, "mlp_bias": True, "use_cache": True, "rope_theta": 10000.0}
    (tmp_path / "config.json").write_text(json.dumps({**fields, **more, "rope_parameters": None}))
    assert relative(load_pretrained(tmp_path)(ids := some_ids(model.config)).logits.data, model(ids).logits.data) == 0


@pytest.mark.parametrize("value", [0, -1, "4096", 2.5, [3]])
def test_a_window_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="sliding_window must be a positive integer, got"):
        MistralConfig(**{**SMALL, "sliding_window": value})
