"""Values that hold inside a block."""

import types

import pytest
from interruption_helpers import interrupted, points_of

from lora_np.autograd import is_grad_enabled, no_grad
from lora_np.autograd.random import generator, random_seed
from lora_np.autograd.temporarily import temporarily
from lora_np.autograd.threads import limit_threads, num_threads
from lora_np.nn import is_weightless, weightless


def test_afterwards_the_values_are_those_from_before():
    where = types.SimpleNamespace(a=1, b=2)
    with temporarily(where, a=3) as inside:
        assert inside is where
        with temporarily(where, a=4, b=5):
            assert (where.a, where.b) == (4, 5)
        assert (where.a, where.b) == (3, 2)
    assert (where.a, where.b) == (1, 2)


def test_an_error_ends_the_block():
    where = types.SimpleNamespace(a=1)
    with pytest.raises(ZeroDivisionError), temporarily(where, a=2):
        raise ZeroDivisionError
    assert where.a == 1


def test_an_unknown_attribute_is_refused_and_not_made():
    where = types.SimpleNamespace(a=1)
    with pytest.raises(AttributeError), temporarily(where, a=2, b=3):
        pass
    assert vars(where) == {"a": 1}


def now():
    return is_grad_enabled(), num_threads(), is_weightless()


BLOCKS = {
    "no_grad": no_grad,
    "random_seed": lambda: random_seed(3),
    "limit_threads": lambda: limit_threads(7),
    "weightless": weightless,
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_interrupted_anywhere_the_values_are_those_from_before(block):
    def action():
        with block():
            now()
            generator()

    with random_seed(1):
        expected, numbers = now(), generator().bit_generator.state
        points = points_of(action)
        assert len(points) > 5
        for at in points:
            assert interrupted(action, at)
            assert now() == expected
            assert generator().bit_generator.state == numbers
