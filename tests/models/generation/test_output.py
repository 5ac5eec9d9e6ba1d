"""What comes back: by name, by key, by place; the scores of the tokens that were chosen."""

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, some_ids, tiny_model

from lora_np.models.generation import GenerateOutput

ALL = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


def test_parts_are_found_by_name_key_and_place():
    ids = np.ones((1, 3), int)
    output = GenerateOutput(ids, scores=(np.zeros((1, 5)),))
    assert output.sequences is output["sequences"] is output[0] is ids
    assert output[1] is output.scores
    assert (output.logits, list(output), len(output)) == (None, ["sequences", "scores"], 2)
    assert "scores" in output
    assert "logits" not in output
    assert {**output}.keys() == {"sequences", "scores"}
    with pytest.raises(KeyError):
        output["logits"]


def test_only_what_is_asked_for_comes_back():
    model = tiny_model(eos_token_id=None)
    ids = some_ids(model.config, time=3)
    found = model.generate(ids, max_new_tokens=4, return_dict_in_generate=True)
    assert list(found) == ["sequences", "past_key_values"]
    np.testing.assert_array_equal(found.sequences, model.generate(ids, max_new_tokens=4))
    assert found.past_key_values.length == 6


@pytest.mark.parity
@pytest.mark.parametrize("rules", [{}, {"repetition_penalty": 1.5, "suppress_tokens": [3, 4]}], ids=str)
def test_scores_and_logits_are_transformers(rules):
    import torch

    model = tiny_model(eos_token_id=None)
    ids = some_ids(model.config, time=3)
    options = {"max_new_tokens": 4, **ALL, **rules}
    twin = hugging_face_twin(model)
    expected = twin.generate(torch.tensor(ids), attention_mask=torch.ones(ids.shape), pad_token_id=0, **options)
    found = model.generate(ids, **options)
    for name in ("scores", "logits"):
        assert isinstance(getattr(found, name), tuple)
        for own, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert own.dtype == np.float32
            np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)
    for normalize in (False, True):
        own = model.compute_transition_scores(found.sequences, found.scores, normalize_logits=normalize)
        other = twin.compute_transition_scores(expected.sequences, expected.scores, normalize_logits=normalize)
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)
