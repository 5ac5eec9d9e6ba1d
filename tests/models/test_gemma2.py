"""Gemma 2: norms on both sides, soft caps, windows on every other layer. All of it against Transformers and PEFT."""

import json

import numpy as np
import pytest
from lora_helpers import assert_equal_to_peft, logits_of, relative, some_ids
from model_helpers import some_labels
from relative_helpers import FULL, SLIDING, SMALL, RelativeOfLlama

from lora_np import Gemma2Config, LoraConfig
from lora_np.models.gemma2 import GemmaRMSNorm
from lora_np.models.loading.checkpoints import load_pretrained


class TestGemma2(RelativeOfLlama):
    kind = "gemma2"
    norms_around = 0.0
    targets = (None, "all-linear", ["embed_tokens", "q_proj"])
    slopes = "small caps"
    configs = {
        "usual": {},
        "small caps": {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.7},
        "no caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        "cap on logits": {"attn_logit_softcapping": None, "final_logit_softcapping": 2.0},
        "cap on scores": {"attn_logit_softcapping": 1.5, "final_logit_softcapping": None},
        "untied": {"tie_word_embeddings": False},
        "layer_types": {"layer_types": [FULL, SLIDING, SLIDING], "sliding_window": 2},
        "no windows": {"layer_types": [FULL] * 3},
        "scalar": {"query_pre_attn_scalar": 5, "head_dim": 10},
        "biases, another activation": {"attention_bias": True, "hidden_activation": "silu"},
        "multi-query, theta": {"num_key_value_heads": 1, "rope_parameters": {"rope_theta": 77.0}},
    }

    def tiny(self, seed=0, **changes):
        return super().tiny(seed, **{"head_dim": 6, "query_pre_attn_scalar": 9, "sliding_window": 3, **changes})

    def test_logits_and_loss_are_capped(self):
        model = self.tiny(final_logit_softcapping=0.1)
        ids = some_ids(model.config)
        out = model(ids, labels=some_labels(ids))
        assert 0.05 < abs(out.logits.data).max() <= 0.1
        assert abs(out.loss.item() - np.log(31)) < 0.11
        wider = self.tiny(final_logit_softcapping=1e4)(ids).logits.data
        np.testing.assert_allclose(out.logits.data, 0.1 * np.tanh(wider / 0.1), rtol=1e-4, atol=1e-6)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_a_head_with_an_adapter_is_capped_too():
    base = TestGemma2().tiny(tie_word_embeddings=False, final_logit_softcapping=2.0)
    options = {"r": 3, "lora_alpha": 5, "init_lora_weights": False}
    assert_equal_to_peft(LoraConfig(**options, target_modules=["lm_head", "q_proj"]), base)


def test_norms_start_at_one():
    norm = GemmaRMSNorm(4)
    assert not norm.weight.data.any()
    x = np.array([[3.0, -4.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(norm(x).data, x / 2.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention: .* is not supported"),
        ({"attn_logit_softcapping": 0.0}, "attn_logit_softcapping must be a positive number, got 0.0"),
        ({"final_logit_softcapping": "30"}, "final_logit_softcapping must be a positive number, got '30'"),
        ({"hidden_activation": "geglu"}, "hidden_activation 'geglu' is not known; known are gelu, "),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be a positive integer, got 0"),
        ({"sliding_window": None}, "sliding_window must be a positive integer, got None"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Gemma2Config(**{**SMALL, "head_dim": 6, **changes})


def test_an_older_file_without_layer_types(tmp_path):
    model = TestGemma2().tiny()
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert "hidden_act" not in fields
    older = {name: value for name, value in fields.items() if name not in ("layer_types", "rope_parameters")}
    older |= {"hidden_act": "relu", "rope_theta": 10000.0, "cache_implementation": "hybrid"}
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert relative(logits_of(load_pretrained(tmp_path)), logits_of(model)) == 0
