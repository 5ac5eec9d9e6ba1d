"""Packing: several examples share a row, so that little of a batch is padding."""

import bisect
from collections.abc import Sequence


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """[[number, ...], ...]: things of these lengths in rows of at most `room`, by best fit decreasing.

    The longest first, and of equal ones the earlier; each into the row with the least room left that is enough, and
    of such rows the one begun first; else into a new row. At most about 11/9 as many rows as the best packing needs.
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, number of the row), sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        tightest = bisect.bisect_left(open_rows, (lengths[i], 0))
        if tightest < len(open_rows):
            left, row = open_rows.pop(tightest)
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(i)
        if left > lengths[i]:
            bisect.insort(open_rows, (left - lengths[i], row))
    return rows
