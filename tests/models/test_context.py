"""Padding and positions: whatever way a text is read, its tokens get the same logits."""

import itertools

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, relative, some_ids, tiny_llama, tiny_model
from model_helpers import LENGTHS, assert_gradients_are_slopes, assert_is_transformers, loss_and_gradients, padded

from lora_np import Tensor
from lora_np.models.context import Context

IDS = np.array([[1, 2], [3, 4]])
MAKERS = {"gpt2": tiny_model, "llama": tiny_llama}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


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


TEXTS = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 2], [7, 7, 7, 7, 7, 7, 7, 7, 7], [0, 1, 2, 2, 2, 2, 0, 0, 0]])


def texts_of(numbers):
    """[(row, slice)] of the texts in rows of these numbers."""
    cuts = [[0, *np.flatnonzero(np.diff(row)) + 1, len(row)] for row in numbers]
    return [(i, slice(a, b)) for i, row in enumerate(cuts) for a, b in itertools.pairwise(row)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_texts_in_one_row_have_the_logits_and_the_gradients_that_they_have_alone(make, checkpointing):
    model = make().to(dtype=np.float64)
    ids = some_ids(model.config, batch=3)
    found = model(ids, seq_idx=TEXTS).logits.data
    labels, total = ids.copy(), 0
    for row, text in texts_of(TEXTS):
        alone = ids[row, text][None]
        assert relative(found[row, text], model(alone).logits.data[0]) < 1e-12
        labels[row, text.start] = -100  # no text is predicted from another
        if alone.size > 1:
            total = total + model(alone, labels=alone).loss * (alone.size - 1)
    (total * (1 / (labels != -100).sum())).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing = checkpointing
    _, gradients = loss_and_gradients(model, ids, labels, seq_idx=TEXTS)
    for name, gradient in gradients.items():
        assert relative(gradient, expected[name]) < 1e-9, name


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_texts_in_one_row_are_what_transformers_makes_of_positions_that_begin_anew(make, dtype):
    positions = np.concatenate([np.arange(text.stop - text.start) for _, text in texts_of(TEXTS)]).reshape(TEXTS.shape)
    assert_is_transformers(make().to(dtype=dtype), ours={"seq_idx": TEXTS}, position_ids=positions, use_cache=False)
    assert_is_transformers(make().to(dtype=dtype), position_ids=positions, use_cache=False)
    assert_is_transformers(make().to(dtype=dtype), position_ids=positions)  # with its cache it tells none apart


@pytest.mark.parametrize("keep", [1, 4, 9, 20])
def test_logits_of_the_last_positions_only(make, keep):
    model = make()
    ids = some_ids(model.config)
    found = model(ids, logits_to_keep=keep).logits.data
    assert relative(found, model(ids).logits.data[:, -keep:]) < 1e-6


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
        ({"seq_idx": [0, 1]}, ValueError, r"seq_idx must be integers \(2, 2\), .* got \(2,\)"),
        ({"seq_idx": [[0.0, 1.0], [0.0, 1.0]]}, ValueError, r"seq_idx must be integers \(2, 2\)"),
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
