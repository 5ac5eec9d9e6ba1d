"""The sampler by itself: the penalty by hand, the order of its steps. Its distributions: test_generate.py."""

from types import SimpleNamespace

import numpy as np
import pytest

from lora_np import manual_seed
from lora_np.models.generation.sampling import Sampler

LOGITS = np.array([[1.0, -1.0, 0.5, 2.0], [3.0, 2.9, 0.0, -4.0]])


def text(*rows, mask=None):
    """What a sampler looks at of a text: ids, and which of them are no padding."""
    ids = np.array(rows)
    return SimpleNamespace(ids=ids, mask=np.ones(ids.shape, bool) if mask is None else np.array(mask, bool))


def penalized(logits, penalty, seen):
    """Keskar et al., 2019, section 4.1, one logit at a time."""
    return [(x / penalty if x > 0 else x * penalty) if i in seen else x for i, x in enumerate(logits)]


@pytest.mark.parametrize("penalty", [1.3, 2.0, 0.5, 1e3])
@pytest.mark.parametrize("seen", [[], [0], [1], [3, 3, 3], [0, 1, 3], [0, 1, 2, 3]])
def test_the_penalty_by_hand(penalty, seen):
    logits = LOGITS[:1].copy()
    rows = np.array([seen], int).reshape(1, -1)
    chosen = Sampler(repetition_penalty=penalty).choose(logits, text(*rows))
    expected = penalized(LOGITS[0], penalty, seen)
    np.testing.assert_allclose(logits[0], expected, rtol=1e-15)  # a token seen three times is penalised once
    assert chosen.tolist() == [int(np.argmax(expected))]


def test_each_row_is_penalised_for_its_own_text():
    chosen = Sampler(repetition_penalty=4.0).choose(LOGITS.copy(), text([3, 3], [0, 2]))
    assert chosen.tolist() == [0, 1]
    assert Sampler().choose(LOGITS.copy(), text([3, 3], [0, 2])).tolist() == [3, 0]


def test_padding_is_not_penalised():
    padded = text([3, 0], [0, 2], mask=[[0, 1], [0, 1]])
    assert Sampler(repetition_penalty=4.0).choose(LOGITS.copy(), padded).tolist() == [3, 0]


def test_a_penalty_of_one_looks_at_nothing():
    logits = LOGITS.copy()
    assert Sampler(repetition_penalty=1.0).choose(logits, None).tolist() == [3, 0]
    np.testing.assert_array_equal(logits, LOGITS)


def test_the_penalty_comes_before_temperature_and_top_k():
    sampler = Sampler(do_sample=True, top_k=1, temperature=0.5, repetition_penalty=4.0, seed=0)
    assert sampler.choose(LOGITS.copy(), text([3], [0])).tolist() == [0, 1]


def test_infinite_logits_are_never_drawn():
    logits = np.array([[-np.inf, 0.0, -np.inf, 0.0]]).repeat(200, 0)
    drawn = Sampler(do_sample=True, seed=0).choose(logits, None)
    assert set(drawn) == {1, 3}


def test_samples_go_on_and_do_not_start_again():
    sampler, logits = Sampler(do_sample=True, seed=5), np.zeros((50, 4))
    first, second = sampler.choose(logits.copy(), None), sampler.choose(logits.copy(), None)
    assert (first != second).any()
    again = Sampler(do_sample=True, seed=5)
    np.testing.assert_array_equal(again.choose(logits.copy(), None), first)
    np.testing.assert_array_equal(again.choose(logits.copy(), None), second)


def test_greedy_draws_nothing_from_the_generator():
    drawn = []
    for sampler in (Sampler(), None):
        manual_seed(3)
        if sampler:
            sampler.choose(LOGITS.copy(), None)
        drawn.append(Sampler(do_sample=True).choose(np.zeros((50, 4)), None))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty must be positive, got 0"),
        ({"repetition_penalty": -1.5}, "repetition_penalty must be positive, got -1.5"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be positive, got nan"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": float("nan")}, r"top_p must be in \(0, 1\], got nan"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**options)


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(do_sample=True, seed=0), Sampler(repetition_penalty=2.0)])
@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_nothing_is_chosen_from_logits_that_are_no_numbers(sampler, number, row):
    """Greedily, that would be token 0 for ever."""
    logits = LOGITS.copy()
    logits[row, 2] = number
    with pytest.raises(FloatingPointError, match=rf"logits .*not finite \({number} in row {row}\)"):
        sampler.choose(logits, text([0], [1]))


def test_a_row_of_which_everything_is_forbidden_is_an_error_and_one_with_something_left_is_not():
    logits = LOGITS.copy()
    logits[0, :3] = -np.inf
    for sampler in (Sampler(), Sampler(do_sample=True, seed=0)):
        assert sampler.choose(logits.copy(), text([0], [1]))[0] == 3
    logits[0] = -np.inf
    with pytest.raises(FloatingPointError, match=r"-inf in row 0"):
        Sampler().choose(logits, text([0], [1]))
