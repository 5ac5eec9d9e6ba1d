"""SmolLM3: layers without rotary positions. All of it against Transformers and PEFT."""

import numpy as np
import pytest
from lora_helpers import relative, some_ids
from relative_helpers import FULL, SLIDING, SMALL, RelativeOfLlama

from lora_np import SmolLM3Config


class TestSmolLM3(RelativeOfLlama):
    kind = "smollm3"
    targets = (["q_proj", "v_proj"], "all-linear")
    slopes = "some"
    configs = {
        "usual": {"no_rope_layer_interval": 2},
        "all turn": {},
        "none turns": {"no_rope_layers": [0, 0, 0]},
        "some": {"no_rope_layers": [0, 1, 0, 1]},
        "windows": {"no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 3},
        "windows not used": {"no_rope_layers": [0, 1, 0], "sliding_window": 3},
        "layer_types": {"layer_types": [SLIDING, FULL, SLIDING], "use_sliding_window": True, "sliding_window": 2},
        "layer_types alone": {"layer_types": [SLIDING, FULL, SLIDING], "sliding_window": 2},
        "untied, biases": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
        "multi-head": {"num_key_value_heads": None, "no_rope_layer_interval": 1},
    }

    def test_without_rotary_positions_the_order_of_what_stands_before_is_not_seen(self):
        model = self.tiny(num_hidden_layers=1, no_rope_layers=[0]).to(dtype=np.float64)
        ids = some_ids(model.config)
        swapped = ids[:, [1, 0, *range(2, 9)]]
        assert relative(model(swapped).logits.data[:, 2:], model(ids).logits.data[:, 2:]) < 1e-12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_rope_layers": [1, 0]}, "no_rope_layers has 2 entries for num_hidden_layers = 3"),
        ({"no_rope_layers": ["1"] * 3}, "no_rope_layers must be a list, each an integer, got"),
        ({"no_rope_layer_interval": 0}, "no_rope_layer_interval must be a positive integer, got 0"),
        ({"layer_types": [SLIDING] * 3}, "but no sliding_window says"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SmolLM3Config(**{**SMALL, **changes})


def test_theta_has_its_own_default():
    assert SmolLM3Config().rope_parameters["rope_theta"] == 2e6
    assert SmolLM3Config.from_dict({}).rope_parameters["rope_theta"] == 2e6
    assert SmolLM3Config.from_dict({"rope_theta": 5e6}).rope_parameters["rope_theta"] == 5e6
