"""The KV cache: read part by part, a text gets the logits that it gets in one pass."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, relative, some_ids, tiny_llama, tiny_model
from model_helpers import padded

from lora_np import no_grad
from lora_np.models import KVCache

MAKERS = {"gpt2": tiny_model, "llama": tiny_llama}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def read_in_parts(model, ids, parts, cache, mask=None, positions=None):
    """The logits of `ids`, read part by part: `parts` are lengths that add up to the whole."""
    found, start = [], 0
    with no_grad():
        for length in parts:
            end = start + length
            options = {} if mask is None else {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
            out = model(ids[:, start:end], past_key_values=cache, **options)
            assert out.past_key_values is cache
            assert cache.length == end
            found.append(out.logits.numpy().copy())
            start = end
    return np.concatenate(found, axis=1)


def splits(T):
    """Lengths of at least 1 that add up to T."""
    cuts = st.sets(st.integers(1, T - 1))
    return cuts.map(lambda cuts: np.diff([0, *sorted(cuts), T]).tolist())


@settings(fuzz, max_examples=25)
@given(st.sampled_from(list(MAKERS)), splits(9), st.integers(0, 3), st.sampled_from([np.float32, np.float64]))
def test_read_part_by_part_the_logits_are_those_of_one_pass(kind, parts, room, dtype):
    model = MAKERS[kind]().to(dtype=dtype)
    ids = some_ids(model.config)
    found = read_in_parts(model, ids, parts, KVCache(9 + room))
    assert found.dtype == dtype
    assert relative(found, model(ids).logits.data) < (2e-6 if dtype == np.float32 else 1e-14)


@settings(fuzz, max_examples=25)
@given(st.sampled_from(list(MAKERS)), splits(9), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans())
def test_so_they_are_with_padding(kind, parts, lengths, left):
    model, lengths = MAKERS[kind](), [9, *lengths]
    ids, (mask, positions) = some_ids(model.config, len(lengths)), padded("left" if left else "right", lengths)
    found = read_in_parts(model, ids, parts, KVCache(9), mask, positions)
    expected = model(ids, attention_mask=mask, position_ids=positions).logits.data
    assert np.isfinite(found).all()
    assert relative(found[mask == 1], expected[mask == 1]) < 2e-6


@pytest.mark.parametrize("changes", [{"num_key_value_heads": 1}, {"num_key_value_heads": 4}, {"head_dim": 10}], ids=str)
def test_any_heads_are_cached(changes):
    model, cache = tiny_llama(**changes), KVCache(12)
    ids = some_ids(model.config)
    assert relative(read_in_parts(model, ids, [4, 1, 4], cache), model(ids).logits.data) < 2e-6
    heads, size = model.config.num_key_value_heads, model.config.head_dim
    assert cache.layers[1][0].shape == (2, heads, 12, size)  # keys of a group are held once


@pytest.mark.parametrize("changes", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}], ids=str)
def test_any_scale_is_kept_with_a_cache(changes):
    model = tiny_model(**changes)
    ids = some_ids(model.config)
    assert relative(read_in_parts(model, ids, [4, 1, 4], KVCache(12)), model(ids).logits.data) < 2e-6
    assert relative(tiny_model()(ids).logits.data, model(ids).logits.data) > 1e-3  # the scale matters


def test_a_cache_holds_what_it_says(make):
    model, cache = make(), KVCache(7)
    read_in_parts(model, some_ids(model.config), [3, 1], cache)
    assert (cache.length, cache.capacity, sorted(cache.layers)) == (4, 7, [0, 1])
    assert {part.shape for layer in cache.layers.values() for part in layer} == {
        (2, model.config.num_key_value_heads if make is tiny_llama else 2, 7, 4 if make is tiny_llama else 8)
    }


def test_gradients_and_a_cache_do_not_go_together(make):
    with pytest.raises(RuntimeError, match=r"past_key_values holds no gradients: call the model inside no_grad\(\)"):
        make()([[1, 2]], past_key_values=KVCache(4))


def test_a_cache_has_room_for_at_least_one_token():
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        KVCache(0)


IDS = np.array([[1, 2], [3, 4]])
FAILURES = {
    "too many": (IDS.repeat(2, 1), {}, ValueError, "room for 6 tokens and holds 3: 4 more do not fit"),
    "rows": (IDS[:1], {}, ValueError, "the cache holds 2 rows, not 1"),
    "id": ([[1, 31], [1, 2]], {}, IndexError, "token id 31 is out of range"),
    "empty": (np.zeros((2, 0), int), {}, ValueError, "at least one token"),
    "mask of these only": (IDS, {"attention_mask": np.ones((2, 2))}, ValueError, r"must be \(2, 5\).* got \(2, 2\)"),
    "position": (IDS, {"position_ids": [[3, 12], [3, 4]]}, ValueError, "13 tokens are more than .* context of 12"),
    "labels": (IDS, {"labels": [[1]]}, ValueError, "labels of shape"),
}


@pytest.mark.parametrize(("ids", "options", "error", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_a_call_that_fails_leaves_the_cache_as_it_was(make, ids, options, error, message):
    model, cache, text = make(), KVCache(6), some_ids(make().config, time=6)
    expected = model(text).logits.data
    first = read_in_parts(model, text[:, :3], [3], cache)
    with no_grad(), pytest.raises(error, match=message):
        model(ids, past_key_values=cache, **options)
    assert cache.length == 3
    with no_grad():
        rest = model(text[:, 3:], past_key_values=cache).logits.numpy()
    assert relative(np.concatenate([first, rest], axis=1), expected) < 2e-6


def test_the_context_ends_also_with_a_cache(make):
    model, cache = make(), KVCache(20)
    ids = some_ids(model.config, time=12)
    read_in_parts(model, ids, [8, 4], cache)
    with no_grad(), pytest.raises(ValueError, match="13 tokens are more than the model's context of 12"):
        model(ids[:, :1], past_key_values=cache)
    assert cache.length == 12


@pytest.mark.gpu
def test_the_gpu_reads_padded_rows_part_by_part_too(make):
    model = make()
    ids, (mask, positions) = some_ids(model.config, batch=3), padded("left")
    expected = model(ids, attention_mask=mask, position_ids=positions).logits.numpy()
    model.to("cuda")
    found = read_in_parts(model, ids, [4, 1, 4], KVCache(9), mask, positions)
    assert relative(found[mask == 1], expected[mask == 1]) < 1e-4


def test_reordered_rows_are_those_of_the_texts_that_go_on():
    """As beams need it: some rows twice, others not at all; what is read next follows what the row now holds."""
    model, rows = tiny_model(), np.array([2, 0, 0])
    ids = np.random.default_rng(0).integers(0, 31, (3, 4))
    with no_grad():
        for order in (rows, np.arange(3)):
            cache = KVCache(5)
            model(ids, past_key_values=cache)
            cache.reorder(order)
            found = model(ids[order, :1], past_key_values=cache).logits.numpy()
            whole = model(np.concatenate([ids[order], ids[order, :1]], axis=1)).logits.numpy()[:, -1:]
            np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)


def test_a_cache_that_is_given_more_room_keeps_what_it_holds(make):
    model, cache = make(), KVCache(3)
    ids = some_ids(model.config, time=6)
    with no_grad():
        model(ids[:, :3], past_key_values=cache)
        cache.make_room(2)
        assert cache.capacity == 3
        cache.make_room(6)
        found = model(ids[:, 3:], past_key_values=cache).logits.numpy()
        assert relative(found, model(ids).logits.numpy()[:, 3:]) < 1e-5
