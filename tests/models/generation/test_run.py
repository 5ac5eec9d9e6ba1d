"""A call that is ready to run: what its processors leave, its cache, and the numbers it starts from."""

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, some_ids, tiny_llama, tiny_model

from lora_np import KVCache, no_grad
from lora_np.models.generation.run import check_logits

LOGITS = np.array([[1.0, -1.0, 0.5, 2.0], [3.0, 2.9, 0.0, -4.0]])


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_logits_that_are_no_numbers_are_refused(number, row):
    """Greedily, that would be token 0 for ever."""
    logits = LOGITS.copy()
    check_logits(logits)
    logits[row, 2] = number
    with pytest.raises(FloatingPointError, match=rf"logits .*not finite \({number} in row {row}\)"):
        check_logits(logits)


def test_a_row_of_which_everything_is_forbidden_is_an_error_and_one_with_something_left_is_not():
    logits = LOGITS.copy()
    logits[0, :3] = -np.inf
    check_logits(logits)
    logits[0] = -np.inf
    with pytest.raises(FloatingPointError, match=r"-inf in row 0"):
        check_logits(logits)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_processors_that_leave_no_token_are_named(options):
    with pytest.raises(
        ValueError, match="no token is left to choose from in row 0, after SuppressTokensLogitsProcessor"
    ):
        tiny_model().generate([[1, 2]], max_new_tokens=2, suppress_tokens=list(range(31)), **options)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own
def test_invalid_values_can_be_removed_as_in_transformers():
    model = tiny_model(n_layer=1, tie_word_embeddings=False)
    model.lm_head.weight.data[3] = np.nan
    with pytest.raises(FloatingPointError):
        model.generate([[1, 2]], max_new_tokens=2)
    assert model.generate([[1, 2]], max_new_tokens=2, remove_invalid_values=True).shape == (1, 4)


def test_a_cache_that_holds_the_beginning_is_gone_on_with(monkeypatch):
    for model in (tiny_model(), tiny_llama()):
        ids = some_ids(model.config, batch=2, time=5)
        expected, cache, read = model.generate(ids, max_new_tokens=4, eos_token_id=[]), KVCache(9), []
        with no_grad():
            model(ids[:, :3], past_key_values=cache)
        forward = type(model).forward
        monkeypatch.setattr(
            type(model), "forward", lambda *a, f=forward, r=read, **kw: r.append(a[1].shape[1]) or f(*a, **kw)
        )
        found = model.generate(
            ids, past_key_values=cache, max_new_tokens=4, eos_token_id=[], return_dict_in_generate=True
        )
        np.testing.assert_array_equal(found.sequences, expected)
        assert read == [2, 1, 1, 1]
        assert found.past_key_values is cache
        with pytest.raises(ValueError, match="past_key_values holds 8 tokens; input_ids, the whole text, has 5"):
            model.generate(ids, past_key_values=cache, max_new_tokens=1)


def test_a_conversation_goes_on_from_the_cache_of_what_was_said():
    for model in (tiny_model(n_positions=40), tiny_llama(max_position_embeddings=40)):
        options = {"max_new_tokens": 5, "eos_token_id": [], "return_dict_in_generate": True}
        first = model.generate([[1, 2, 3]], **options)
        said = np.concatenate([first.sequences, [[4, 5]]], axis=1)
        cache = first.past_key_values
        assert cache.length == 7
        second = model.generate(said, past_key_values=cache, **options)
        np.testing.assert_array_equal(second.sequences, model.generate(said, **options).sequences)
        assert (second.past_key_values is cache, cache.length) == (True, 14)


def test_several_texts_for_each_row_stand_together():
    model, ids = tiny_model(eos_token_id=None), np.array([[1, 2], [3, 4]])
    found = model.generate(ids, max_new_tokens=4, do_sample=True, num_return_sequences=3, seed=0)
    np.testing.assert_array_equal(found[:, :2], ids.repeat(3, 0))
    again = model.generate(ids.repeat(3, 0), max_new_tokens=4, do_sample=True, seed=0)
    np.testing.assert_array_equal(found, again)
    steps = model.stream(ids, max_new_tokens=4, do_sample=True, num_return_sequences=3, seed=0)
    np.testing.assert_array_equal(np.stack(list(steps), 1), found[:, 2:])


@pytest.mark.parity
def test_rows_without_an_end_token_write_on_as_in_transformers():
    """A stop criterion ends a row, and only an end token says what it is filled up with."""
    import torch

    model, ids = tiny_model(eos_token_id=None), np.array([[1, 2], [3, 4]])
    twin = hugging_face_twin(model)
    whole = model.generate(ids, max_new_tokens=8)

    def at_that_token(ids, scores, **options):
        return ids[:, -1] == int(whole[0, 3])

    options = {"max_new_tokens": 8, "pad_token_id": 0, "stopping_criteria": [at_that_token]}
    expected = twin.generate(torch.tensor(ids), attention_mask=torch.ones(2, 2), **options)
    np.testing.assert_array_equal(model.generate(ids, **options), expected)
