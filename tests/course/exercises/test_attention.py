import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises.attention import causal_attention, check
from lora_np.autograd.fused import attention_forward


def softmax(scores, axis=-1):
    e = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def scores_of(q, k):
    return np.einsum("htd,hsd->hts", q, k) / q.shape[-1] ** 0.5


def before(T):
    return np.tri(T, dtype=bool)


def looking_ahead(q, k, v):
    P = softmax(np.where(before(q.shape[1]).T, scores_of(q, k), -np.inf))
    return P @ v, P


def unmasked(q, k, v):
    P = softmax(scores_of(q, k))
    return P @ v, P


def masked_late(q, k, v):
    P = np.tril(softmax(scores_of(q, k)))
    return P @ v, P


def masked_with_zero(q, k, v):
    P = softmax(np.tril(scores_of(q, k)))
    return P @ v, P


def not_itself(q, k, v):
    P = softmax(np.where(np.tri(q.shape[1], k=-1, dtype=bool), scores_of(q, k), -1e30))
    return P @ v, P


def scaled_by(power):
    def wrong(q, k, v):
        D = q.shape[-1]
        P = softmax(np.where(before(q.shape[1]), scores_of(q, k) * D**0.5 * D**power, -np.inf))
        return P @ v, P

    return wrong


def positions_for_size(q, k, v):
    scores = q @ k.swapaxes(1, 2) / np.sqrt(len(q[0]))
    P = softmax(np.where(before(q.shape[1]), scores, -np.inf))
    return P @ v, P


def keys_ask(q, k, v):
    P = softmax(np.where(before(q.shape[1]), scores_of(k, q), -np.inf))
    return P @ v, P


def over_the_queries(q, k, v):
    P = softmax(np.where(before(q.shape[1]), scores_of(q, k), -np.inf), axis=-2)
    return P @ v, P


def mixed_by_the_transpose(q, k, v):
    P = softmax(np.where(before(q.shape[1]), scores_of(q, k), -np.inf))
    return P.swapaxes(1, 2) @ v, P


def scores_returned(q, k, v):
    P = softmax(np.where(before(q.shape[1]), scores_of(q, k), -np.inf))
    return P @ v, scores_of(q, k)


def overflowing(q, k, v):
    e = np.exp(np.where(before(q.shape[1]), scores_of(q, k), -np.inf))
    P = e / e.sum(-1, keepdims=True)
    return P @ v, P


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (looking_ahead, "wrong way round"),
        (unmasked, "there is no mask"),
        (masked_late, "after the softmax"),
        (masked_with_zero, "they have to be -infinity"),
        (not_itself, "see itself too"),
        (scaled_by(0), "not divided by √D"),
        (scaled_by(-1), "divided by D"),
        (positions_for_size, "number of positions"),
        (keys_ask, "changed places"),
        (over_the_queries, "over the queries"),
        (mixed_by_the_transpose, "mixed by Pᵀ"),
        (scores_returned, "P holds scores"),
        (overflowing, "large ones overflow"),
    ],
)
def test_usual_mistakes_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "causal_attention", capsys)


def test_the_reference_s_result_and_weights_are_the_library_s():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 6, 4))
    out, P = causal_attention(q, k, v)
    expected, (((_, _, (E, z, *_)),), *_) = attention_forward(q[None], k[None], v[None])
    np.testing.assert_allclose(out, expected[0], atol=1e-12)
    np.testing.assert_allclose(P, (E / z)[0], atol=1e-12)


def weighing(weights):
    """Attention with a student's own way to the weights."""

    def wrong(q, k, v):
        with np.errstate(invalid="ignore"):
            P = weights(q, k)
        return P @ v, P

    return wrong


def strictly_before(q, k):
    return softmax(np.where(np.tri(q.shape[1], k=-1, dtype=bool), scores_of(q, k), -np.inf))


def where_turned(q, k):
    return softmax(np.where(before(q.shape[1]), -np.inf, scores_of(q, k)))


def mask_times_infinity(q, k):
    return softmax(scores_of(q, k) + (1 - np.tri(q.shape[1])) * -np.inf)


def over_the_heads(q, k):
    return softmax(np.where(before(q.shape[1]), scores_of(q, k), -np.inf), axis=0)


@pytest.mark.parametrize(
    ("weights", "hint"),
    [
        (strictly_before, "see itself too"),
        (where_turned, "looks only at what comes after"),
        (mask_times_infinity, "0 · ∞ is NaN"),
        (over_the_heads, "over the heads"),
    ],
)
def test_mistakes_that_give_nan_are_named(weights, hint, capsys):
    assert_told(check, weighing(weights), hint, "causal_attention", capsys)
