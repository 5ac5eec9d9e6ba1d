"""Random numbers: one seed for all of them, in each thread, for each array library."""

import threading

import numpy as np

from ..expect import expect_whole
from .temporarily import temporarily


class _Random(threading.local):
    """The current seed and, for each library, the generator made from it (one per thread)."""

    def __init__(self):
        self.seed, self.generators = None, {}


_random = _Random()


def manual_seed(seed):
    """Start the random numbers of this thread anew. `seed`: an int, or a tuple of ints such as (seed, step).

    Initial weights, dropout masks and sampling all draw from here, so the same seed gives the same run. None: other
    numbers each time. TypeError, or ValueError if it is negative, for what is no seed.
    """
    entropy = _entropy(seed)
    _random.seed, _random.generators = entropy, {}


def set_seed(seed, deterministic=False):
    """Transformers' name: `manual_seed`, and the seeds of Python's and NumPy's own random numbers.

    deterministic: torch's, to compute in the same order each time; that is so here
    """
    import random  # this package does without

    manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def random_seed(seed):
    """Inside this block, random numbers follow from `seed`; after it they go on as if it had not been."""
    return temporarily(_random, seed=_entropy(seed), generators={})


def _entropy(seed):
    """NumPy's SeedSequence of a seed, which may be None."""
    parts = seed if isinstance(seed, (tuple, list, np.ndarray)) else () if seed is None else (seed,)
    for part in parts:
        expect_whole(part, "seed" if part is seed else "a number in seed", 0)
    return np.random.SeedSequence(seed)


def generator(xp=np):
    """The random generator in use for the library `xp` (numpy.random.Generator or CuPy's)."""
    if xp not in _random.generators:
        entropy = _random.seed or np.random.SeedSequence()
        seed = entropy if xp is np else int(entropy.generate_state(1, np.uint64)[0])
        _random.generators[xp] = xp.random.default_rng(seed)
    return _random.generators[xp]
