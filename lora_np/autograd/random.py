"""Random numbers: one seed for all of them, in each thread, for each array library.

Dropout on a GPU has a way of its own, since a recorded step has to draw anew in each replay (`cuda/dropout.py`): a mask
follows from a key, which follows from the seed, and from its number, how many masks were drawn since the seed was set.
"""

import threading

import numpy as np

from ..expect import expect_whole
from .temporarily import temporarily


class _Random(threading.local):
    """The current seed and, for each library, the generator made from it (one per thread); the masks' key and count."""

    def __init__(self):
        self.seed, self.generators, self.key, self.masks = None, {}, None, 0


_random = _Random()


def manual_seed(seed):
    """Start the random numbers of this thread anew. `seed`: an int, or a tuple of ints such as (seed, step).

    Initial weights, dropout masks and sampling all draw from here, so the same seed gives the same run. None: other
    numbers each time. TypeError, or ValueError if it is negative, for what is no seed.
    """
    entropy = _entropy(seed)
    _random.seed, _random.generators, _random.key, _random.masks = entropy, {}, None, 0


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
    return temporarily(_random, seed=_entropy(seed), generators={}, key=None, masks=0)


class Stretch:
    """A stretch of work that is done twice and is to draw the same random numbers both times."""

    def __init__(self):
        self.seed, self.place = _entropy(int(generator().integers(2**63))), (mask_key(), _random.masks)

    def first_time(self):
        """Around the work, the first time."""
        return temporarily(_random, seed=self.seed, generators={})  # masks are counted on

    def second_time(self):
        """Around the work, the second time."""
        key, masks = self.place
        return temporarily(_random, seed=self.seed, generators={}, key=key, masks=masks)


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


def mask_key():
    """The key of dropout's masks on a GPU, 64 bits that follow from the seed."""
    if _random.key is None:
        _random.key = int((_random.seed or np.random.SeedSequence()).generate_state(1, np.uint64)[0])
    return _random.key


def next_masks(count=1):
    """(key, number) of the next mask; as many as `count` are taken, one number after another."""
    number = _random.masks
    _random.masks += count
    return mask_key(), number


def masks_drawn():
    """How many masks were drawn on a GPU since the seed was set."""
    return _random.masks


def draw_masks_from(number):
    """Let the next mask have this number: those that were drawn from there on have not been used."""
    _random.masks = number
