import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises import lora_init as exercise
from lora_course.exercises.lora_init import check
from lora_np import manual_seed
from lora_np.lora.init import init_lora


def uniform(rng, n, shape):
    return rng.uniform(-1 / np.sqrt(n), 1 / np.sqrt(n), shape)


def both_zero(n_out, n_in, r, rng):
    return np.zeros((r, n_in)), np.zeros((n_out, r))


def other_way_round(n_out, n_in, r, rng):
    return np.zeros((r, n_in)), uniform(rng, r, (n_out, r))


def both_random(n_out, n_in, r, rng):
    return uniform(rng, n_in, (r, n_in)), uniform(rng, r, (n_out, r))


def constant(n_out, n_in, r, rng):
    return np.full((r, n_in), 0.02), np.zeros((n_out, r))


def own_generator(n_out, n_in, r, rng):
    return uniform(np.random.default_rng(0), n_in, (r, n_in)), np.zeros((n_out, r))


def no_seed(n_out, n_in, r, rng):
    return uniform(np.random.default_rng(), n_in, (r, n_in)), np.zeros((n_out, r))


def equal_rows(n_out, n_in, r, rng):
    return np.tile(uniform(rng, n_in, (1, n_in)), (r, 1)), np.zeros((n_out, r))


def positive(n_out, n_in, r, rng):
    return rng.random((r, n_in)) / np.sqrt(n_in), np.zeros((n_out, r))


def bound_from_rank(n_out, n_in, r, rng):
    return uniform(rng, r, (r, n_in)), np.zeros((n_out, r))


def bound_from_outputs(n_out, n_in, r, rng):
    return uniform(rng, n_out, (r, n_in)), np.zeros((n_out, r))


def no_root(n_out, n_in, r, rng):
    return uniform(rng, n_in**2, (r, n_in)), np.zeros((n_out, r))


def normal(n_out, n_in, r, rng):
    return rng.standard_normal((r, n_in)) / np.sqrt(n_in), np.zeros((n_out, r))


def of_fixed_size(n_out, n_in, r, rng):
    return rng.normal(0, 0.02, (r, n_in)), np.zeros((n_out, r))


def transposed(n_out, n_in, r, rng):
    return uniform(rng, n_in, (n_in, r)), np.zeros((r, n_out))


def swapped(n_out, n_in, r, rng):
    return np.zeros((n_out, r)), uniform(rng, n_in, (r, n_in))


def nothing(n_out, n_in, r, rng):
    uniform(rng, n_in, (r, n_in))


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (both_zero, "nothing is ever learned"),
        (other_way_round, "other way round"),
        (both_random, "B is not zero"),
        (constant, "all entries of A are the same"),
        (own_generator, "not from a new one"),
        (no_seed, "one seed"),
        (equal_rows, "all rows"),
        (positive, "no negative entries"),
        (bound_from_rank, "the rank r"),
        (bound_from_outputs, "comes from n_out"),
        (no_root, "square root"),
        (normal, "A is normal"),
        (of_fixed_size, "deviate by 0.02"),
        (transposed, "transposed"),
        (swapped, "wrong order"),
        (nothing, "`return` missing"),
    ],
)
def test_usual_mistakes_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "lora_init", capsys)


@pytest.mark.parametrize("seed", range(20))
def test_other_ways_to_draw_are_right_whatever_the_seed(seed):
    def lora_init(n_out, n_in, r, rng):
        for _ in range(seed):
            rng.random()
        return (2 * rng.random((r, n_in)) - 1) / np.sqrt(n_in), np.zeros((n_out, r))

    assert check(lora_init) is lora_init


def test_the_reference_draws_from_the_library_s_distribution():
    manual_seed(0)
    theirs, zero = init_lora(True, np.zeros((300, 400), np.float32), 50, 1.0)
    ours, ours_zero = exercise.lora_init(300, 400, 50, np.random.default_rng(0))
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours_zero, zero)
    np.testing.assert_allclose([ours.std(), ours.max()], [theirs.std(), theirs.max()], rtol=0.02)
