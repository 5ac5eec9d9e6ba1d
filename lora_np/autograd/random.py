"""Random numbers: one seed for all of them, in each thread, for each array library."""

import threading

import numpy as np

from .temporarily import temporarily


class _Random(threading.local):
    """The current seed and, for each library, the generator made from it (one per thread)."""

    def __init__(self):
        self.seed, self.generators = None, {}


_random = _Random()


def manual_seed(seed):
    """Start the random numbers of this thread anew. `seed`: an int, or a tuple of ints such as (seed, step).

    Initial weights, dropout masks and sampling all draw from here, so the same seed gives the same run.
    """
    entropy = np.random.SeedSequence(seed)  # refuses what is not a valid seed
    _random.seed, _random.generators = entropy, {}


def random_seed(seed):
    """Inside this block, random numbers follow from `seed`; after it they go on as if it had not been."""
    return temporarily(_random, seed=np.random.SeedSequence(seed), generators={})


def generator(xp=np):
    """The random generator in use for the library `xp` (numpy.random.Generator or CuPy's)."""
    if xp not in _random.generators:
        entropy = _random.seed or np.random.SeedSequence()
        seed = entropy if xp is np else int(entropy.generate_state(1, np.uint64)[0])
        _random.generators[xp] = xp.random.default_rng(seed)
    return _random.generators[xp]
