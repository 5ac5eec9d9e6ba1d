"""A recorded step of one token writes what the ordinary one does."""

import numpy as np
import pytest
from lora_helpers import peft_model, tiny_llama, tiny_model

from lora_np import LoraConfig, get_peft_model
from lora_np.models.generation import recorded
from lora_np.models.kv_cache import KVCache

gpu = pytest.mark.gpu
MODELS = {
    "gpt2": lambda: tiny_model(n_positions=64),
    "llama": lambda: tiny_llama(max_position_embeddings=64),
    "adapted": lambda: get_peft_model(
        tiny_llama(max_position_embeddings=64), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    ),
    "adapted gpt2": lambda: peft_model(model=tiny_model(n_positions=64)),
}


@gpu
@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_same_text(monkeypatch, kind, dtype, rows):
    ids = np.random.default_rng(0).integers(0, 31, (rows, 5))
    model, made = MODELS[kind]().to("cuda"), []
    if dtype == "bfloat16":
        model = model.to("bfloat16")
    record = recorded.RecordedSteps.__init__
    monkeypatch.setattr(recorded.RecordedSteps, "__init__", lambda *a: made.append(1) or record(*a))
    options = {"max_new_tokens": 30, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    found = model.generate(ids, **options)
    assert made == [1]
    monkeypatch.setattr(recorded, "FEWEST", 10**6)
    expected = model.generate(ids, **options)
    assert made == [1]
    same = (found.sequences == expected.sequences).all(axis=0)
    first = len(same) if same.all() else int(np.argmin(same))  # after a near tie the texts may differ
    assert first >= 5 + (10 if dtype == "bfloat16" else 30)
    for a, b in list(zip(found.logits, expected.logits, strict=True))[: first - 5]:
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max() if dtype == "bfloat16" else 1e-4)
    assert found.past_key_values.length == expected.past_key_values.length


def test_what_is_on_a_cpu_is_not_recorded():
    model, cache = tiny_llama(), KVCache(40)
    model.generate([[1, 2, 3]], max_new_tokens=2, past_key_values=cache)
    assert cache.length
    assert not recorded.can_be_recorded(model, cache, 30)
    assert not recorded.can_be_recorded(model, None, 30)
