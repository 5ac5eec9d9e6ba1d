"""Padding, positions and the KV cache: whatever way a text is read, its tokens get the same logits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, hugging_face_twin, relative, some_ids, tiny_llama, tiny_model
from model_helpers import assert_gradients_are_slopes, assert_is_transformers, loss_and_gradients

from lora_np import Tensor, no_grad
from lora_np.models import KVCache
from lora_np.models.context import Context

MAKERS = {"gpt2": tiny_model, "llama": tiny_llama}
LENGTHS = (9, 4, 1)  # tokens in each row that are not padding


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def padded(side, lengths=LENGTHS):
    """A mask (B, T) for rows of these lengths, and positions as `generate` counts them."""
    T = max(lengths)
    mask = np.array([[1] * n + [0] * (T - n) for n in lengths])
    mask = mask if side == "right" else mask[:, ::-1].copy()
    return mask, np.maximum(mask.cumsum(1) - 1, 0)


def labels_of(ids, mask):
    """Labels that ask nothing of padding: not for it, and not from it, which sees nothing to tell them by."""
    labels = np.where(mask == 1, ids, -100)
    labels[:, 1:][mask[:, :-1] == 0] = -100
    return labels


@pytest.mark.parity
@pytest.mark.parametrize("counted", [True, False], ids=["positions", "no positions"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_rows_are_transformers(make, side, counted):
    import torch

    model = make()
    ids, (mask, positions) = some_ids(model.config, batch=3), padded(side)
    inputs = {"attention_mask": mask, **({"position_ids": positions} if counted else {})}
    with torch.no_grad():
        twin = hugging_face_twin(model)
        expected = twin(torch.tensor(ids), **{name: torch.tensor(array) for name, array in inputs.items()}).logits
    found = model(ids, **inputs).logits.data
    assert relative(found[mask == 1], expected.numpy()[mask == 1]) < 2e-5
    without = model(ids).logits.data
    assert side == "right" or relative(found[mask == 1], without[mask == 1]) > 1e-3


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_gradients_with_padding_and_positions_are_transformers(make, dtype):
    """On the right, so that every query sees something: what one that sees nothing gets, each library decides."""
    mask, positions = padded("right")
    assert_is_transformers(make().to(dtype=dtype), attention_mask=mask, position_ids=positions + 2)


def test_gradients_with_padding_are_those_of_finite_differences(make):
    model, (mask, positions) = make(), padded("left", (9, 4))
    labels = labels_of(some_ids(model.config), mask)
    assert_gradients_are_slopes(model, labels, attention_mask=mask, position_ids=positions)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_has_the_logits_that_it_has_alone(make, side):
    model = make()
    ids, (mask, positions) = some_ids(model.config, batch=3), padded(side)
    found = model(ids, attention_mask=mask, position_ids=positions).logits.data
    assert np.isfinite(found).all()
    for row, length in enumerate(LENGTHS):
        here = mask[row] == 1
        alone = model(ids[row][here][None]).logits.data[0]
        assert alone.shape[0] == length
        assert relative(found[row][here], alone) < 2e-6


def test_padding_has_no_part_in_the_gradient(make):
    """Other tokens in its place change nothing, as long as no label asks for them."""
    model, ids, (mask, positions) = make(), some_ids(make().config, batch=3), padded("left", (9, 4, 2))
    results = []
    for padding in (0, 7):
        filled = np.where(mask == 1, ids, padding)
        inputs = {"attention_mask": mask, "position_ids": positions}
        results.append(loss_and_gradients(model, filled, labels_of(ids, mask), **inputs)[1])
    for name, gradient in results[0].items():
        assert relative(gradient, results[1][name]) < 1e-6, name


def test_a_mask_of_ones_is_no_mask(make):
    model = make()
    ids = some_ids(model.config)
    for ones in (np.ones(ids.shape, int), np.ones(ids.shape, bool), Tensor(np.ones(ids.shape, np.float32))):
        np.testing.assert_array_equal(model(ids, attention_mask=ones).logits.data, model(ids).logits.data)


@pytest.mark.parametrize("shape", [(9,), (1, 9), (2, 9)])
def test_positions_may_be_given_once_for_all_rows(make, shape):
    model = make()
    ids = some_ids(model.config)
    positions = np.broadcast_to(np.arange(9), shape)
    assert relative(model(ids, position_ids=positions).logits.data, model(ids).logits.data) < 1e-6
    assert relative(model(ids, position_ids=positions[..., ::-1]).logits.data, model(ids).logits.data) > 1e-3


@pytest.mark.parametrize("keep", [1, 4, 9, 20])
def test_logits_of_the_last_positions_only(make, keep):
    model = make()
    ids = some_ids(model.config)
    found = model(ids, logits_to_keep=keep).logits.data
    assert relative(found, model(ids).logits.data[:, -keep:]) < 1e-6


# Reading with a cache


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
    with pytest.raises(ValueError, match="room for at least one token, got 0"):
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


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attention_mask": [1, 1]}, ValueError, r"attention_mask must be \(2, 2\), .* got \(2,\)"),
        ({"attention_mask": [[1, 1]]}, ValueError, r"attention_mask must be \(2, 2\), .* got \(1, 2\)"),
        ({"attention_mask": [[1, 1, 1], [1, 1, 1]]}, ValueError, r"attention_mask must be \(2, 2\)"),
        ({"attention_mask": [[1, 2], [1, 1]]}, ValueError, "1 for a token and 0 for padding; it has other values"),
        ({"attention_mask": [[1.0, -np.inf], [1, 1]]}, ValueError, "1 for a token and 0 for padding"),
        ({"position_ids": [0, 1, 2]}, ValueError, r"position_ids must be \(2,\) or \(2, 2\), got \(3,\)"),
        ({"position_ids": [[0], [1]]}, ValueError, r"position_ids must be \(2,\) or \(2, 2\), got \(2, 1\)"),
        ({"position_ids": [0, -1]}, IndexError, "position -1 is out of range"),
        ({"position_ids": [0.0, 1.0]}, TypeError, "positions must be integers, not float64"),
        ({"position_ids": [0, 12]}, ValueError, "13 tokens are more than the model's context of 12"),
    ],
)
def test_masks_and_positions_that_make_no_sense_are_refused(make, options, error, message):
    with pytest.raises(error, match=message):
        make()(IDS, **options)


def test_a_context_without_padding_or_cache_holds_nothing_but_positions():
    context = Context(IDS, "cpu", attention_mask=np.ones((2, 2)))
    assert context.key_mask is None
    assert context.cache is None
    np.testing.assert_array_equal(context.positions, [0, 1])


@pytest.mark.gpu
def test_the_gpu_reads_padded_rows_part_by_part_too(make):
    model = make()
    ids, (mask, positions) = some_ids(model.config, batch=3), padded("left")
    expected = model(ids, attention_mask=mask, position_ids=positions).logits.numpy()
    model.to("cuda")
    found = read_in_parts(model, ids, [4, 1, 4], KVCache(9), mask, positions)
    assert relative(found[mask == 1], expected[mask == 1]) < 1e-4
