"""Qwen2: a Llama with biases on queries, keys and values, and windows from a layer on."""

import json

import pytest
from lora_helpers import hugging_face_twin, logits_of, relative
from relative_helpers import FULL, SLIDING, SMALL, WINDOWS, RelativeOfLlama

from lora_np import Qwen2Config, Qwen3Config
from lora_np.models.loading.checkpoints import load_pretrained


class TestQwen2(RelativeOfLlama):
    kind = "qwen2"
    slopes = "windows from layer 1"
    configs = {
        "usual": {},
        "multi-head": {"num_key_value_heads": None},
        "tied": {"tie_word_embeddings": True, "hidden_act": "relu"},
        "wide heads": {"head_dim": 6},
        **WINDOWS,
    }


@pytest.mark.parametrize("config_class", [Qwen2Config, Qwen3Config])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": [SLIDING] * 3}, r"layer_types\[0\] is 'sliding_attention', but no sliding_window says"),
        ({"layer_types": [FULL] * 2}, "layer_types has 2 entries for num_hidden_layers = 3"),
        ({"layer_types": [FULL, FULL, "linear_attention"]}, "'linear_attention' is not supported"),
        ({"layer_types": [FULL, FULL, 3]}, "layer_types must be a list, each a text, got"),
        ({"max_window_layers": -1}, "max_window_layers must be an integer of at least 0, got -1"),
        ({"use_sliding_window": True, "sliding_window": 0}, "sliding_window must be a positive integer, got 0"),
    ],
)
def test_windows_that_make_no_sense_are_refused(config_class, changes, message):
    with pytest.raises(ValueError, match=message):
        config_class(**{**SMALL, **changes})


@pytest.mark.parity
@pytest.mark.parametrize("make", [TestQwen2], ids=["qwen2"])
def test_layer_types_in_a_file_count_and_not_what_they_were_made_from(tmp_path, make):
    model = make().tiny(use_sliding_window=True, sliding_window=2, layer_types=[FULL, SLIDING, FULL])
    hugging_face_twin(model).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["layer_types"] == [FULL, SLIDING, FULL]
    assert relative(logits_of(load_pretrained(tmp_path)), logits_of(model)) < 1e-6
    older = {**fields, "max_window_layers": 1}
    older.pop("layer_types")
    (tmp_path / "config.json").write_text(json.dumps(older))
    expected = make().tiny(use_sliding_window=True, sliding_window=2, layer_types=[FULL, SLIDING, SLIDING])
    assert relative(logits_of(load_pretrained(tmp_path)), logits_of(expected)) < 1e-6
