"""Gemma 3's text model: two rotary bases, norms of queries and keys, windows but on each sixth layer."""

import json

import pytest
from lora_helpers import hugging_face_twin, logits_of, relative, some_ids
from relative_helpers import FULL, SLIDING, SMALL, RelativeOfLlama

from lora_np import AutoModelForCausalLM, Gemma3TextConfig
from lora_np.models.loading.checkpoints import load_pretrained

ROPES = {FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, SLIDING: {"rope_theta": 50.0}}


class TestGemma3(RelativeOfLlama):
    kind = "gemma3_text"
    norms_around = 0.0
    targets = (None, "all-linear", ["embed_tokens", "q_proj"])
    slopes = "one layer of each"
    configs = {
        "usual": {},
        "one layer of each": {"layer_types": [SLIDING, FULL, SLIDING]},
        "another order": {"layer_types": [FULL, FULL, SLIDING], "sliding_window": 2, "rope_parameters": ROPES},
        "six layers": {"num_hidden_layers": 6, "rope_parameters": ROPES},
        "caps": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 0.5},  # the second has no effect
        "untied, bias": {"tie_word_embeddings": False, "attention_bias": True},
        "scalar": {"query_pre_attn_scalar": 5, "head_dim": 10, "rms_norm_eps": 0.1},
        "no windows": {"layer_types": [FULL] * 3, "num_key_value_heads": 4},
    }

    def tiny(self, seed=0, **changes):
        return super().tiny(seed, **{"head_dim": 6, "query_pre_attn_scalar": 9, "sliding_window": 3, **changes})


OLDER = {
    "nothing said": {},
    "thetas": {"rope_theta": 333.0, "rope_local_base_freq": 44.0},
    "scaling": {"rope_theta": 333.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "scaling, older": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "pattern": {"sliding_window_pattern": 2},
    "pattern of one": {"sliding_window_pattern": 1, "rope_local_base_freq": 44.0},
    "layer_types go first": {"sliding_window_pattern": 2, "layer_types": [FULL, SLIDING, FULL]},
    "new": {"rope_parameters": ROPES},
    "new, one": {"rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 9.0}}, "rope_theta": 5.0},
    "new and beside": {"rope_parameters": {SLIDING: {"rope_type": "default"}}, "rope_local_base_freq": 9.0},
}


@pytest.mark.parity
@pytest.mark.parametrize("more", OLDER.values(), ids=OLDER)
def test_files_of_any_age_are_read_as_by_transformers(tmp_path, more):
    import torch
    import transformers

    model = TestGemma3().tiny()
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields = {name: value for name, value in fields.items() if name not in ("layer_types", "rope_parameters")}
    (tmp_path / "config.json").write_text(json.dumps({**fields, **more}))
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    ids = some_ids(model.config)
    assert loaded.config.layer_types == twin.config.layer_types
    with torch.no_grad():
        assert relative(logits_of(loaded, ids), twin(torch.tensor(ids)).logits) < 2e-5
    loaded.save_pretrained(tmp_path / "again")
    assert relative(logits_of(load_pretrained(tmp_path / "again"), ids), logits_of(loaded, ids)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {FULL: 3}}, "full_attention must be an object, got 3"),
        ({"rope_parameters": {SLIDING: {"rope_type": "spiral"}}}, "rope_type 'spiral' is not supported"),
        ({"rope_scaling": [1]}, r"rope_scaling must be an object, got \[1\]"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern must be a positive integer, got 0"),
        ({"sliding_window_pattern": 2, "num_hidden_layers": "3"}, "num_hidden_layers must be a positive integer"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention: .* is not supported"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Gemma3TextConfig.from_dict({**SMALL, "head_dim": 6, **changes})


@pytest.mark.parity
def test_one_with_a_vision_tower_is_refused_by_name(tmp_path):
    text = hugging_face_twin(TestGemma3().tiny()).config.to_dict()
    fields = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "model.safetensors").write_bytes(b"")
    TestGemma3().tiny().save_pretrained(tmp_path / "weights")
    (tmp_path / "weights" / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"config\.json: model_type 'gemma3' is a model of images or sound"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
