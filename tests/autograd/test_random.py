"""Random numbers follow from the seed, in each thread and for each library."""

import threading

import numpy as np
import pytest

from lora_np import manual_seed
from lora_np.autograd.devices import to_numpy
from lora_np.autograd.random import generator, random_seed


@pytest.mark.parametrize("seed", [0, 7, (7, 0), (7, 1), 2**63])
def test_manual_seed_starts_the_same_numbers_again(xp, seed):
    def draw():
        manual_seed(seed)
        return [to_numpy(generator(xp).random(5)) for _ in range(2)]

    first, second = draw(), draw()
    np.testing.assert_array_equal(first, second)
    assert (first[0] != first[1]).all()


def test_different_seeds_differ(xp):
    seeds = [0, 1, (0, 1), (1, 1), (1, 2), (2, 1)]
    drawn = set()
    for seed in seeds:
        manual_seed(seed)
        drawn.add(float(generator(xp).random(1)[0]))
    assert len(drawn) == len(seeds)


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "seed must be at least 0, got -1"),
        ((3, -1), ValueError, "a number in seed must be at least 0, got -1"),
        ("one", TypeError, "seed should be a whole number, got a str: 'one'"),
        (("1",), TypeError, "a number in seed should be a whole number, got a str: '1'"),
        (1.5, TypeError, "seed should be a whole number, got a float: 1.5"),
        (True, TypeError, "seed should be a whole number, got a bool: True"),
        ({"a": 1}, TypeError, "seed should be a whole number, got a dict"),
    ],
)
def test_a_bad_seed_is_refused_and_changes_nothing(seed, error, message):
    manual_seed(3)
    expected = generator().random(4)
    manual_seed(3)
    with pytest.raises(error, match=message):
        manual_seed(seed)
    with pytest.raises(error, match=message):
        random_seed(seed)
    np.testing.assert_array_equal(generator().random(4), expected)


def test_each_thread_has_its_own_random_numbers():
    manual_seed(5)
    expected = generator().random(4)
    manual_seed(5)

    def other():
        manual_seed(6)
        generator().random(100)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(generator().random(4), expected)
