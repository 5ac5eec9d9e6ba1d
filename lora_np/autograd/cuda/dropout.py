"""Dropout's masks by counting (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3").

A generator that goes from state to state would repeat itself in each replay of a recorded step. Here every number is a
function, Philox, of a key, of the mask's number since the seed was set, and of the number's own place in the mask. A
replay is sent key and number of its first mask; those of the others follow.

The place is (all axes but the last two, the last but one, the last): in (B, T, C) row, token, channel. So a batch that
is filled up on the right to be longer has the same masks where it has its tokens.
"""

import cupy
import numpy as np

from .. import random
from .launch import by_elements, long
from .record import place_in_recording

AT_ONCE = 4  # numbers that one call of Philox gives


def dropout_mask(like, shape, p):
    """An array of `shape` in the dtype of `like`: 0 with probability p, else 1 / (1 - p)."""
    out = cupy.empty(shape, like.dtype)
    columns, rows = (*shape[::-1], 1, 1)[:2]
    key, number = random.next_masks()
    place, first = place_in_recording() or (None, 0)
    groups = out.size // max(1, columns) * -(-columns // AT_ONCE)
    options = columns, rows, long(groups), np.uint64(key), np.uint32((number - first) & 0xFFFFFFFF)
    limit = np.uint32(min(round(p * 2**32), 2**32 - 1))
    by_elements("dropout_mask", groups, out, place, *options, limit, float(1 / (1 - p)))
    return out
