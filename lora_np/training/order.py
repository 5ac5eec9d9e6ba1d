"""Which rows a step reads."""

import numpy as np


def rows_of_step(seed: int, step: int, batch_size: int, rows: int) -> list[int]:
    """The numbers of the rows in the batch of a step, counted from 0.

    The order of every epoch is a permutation that follows from the seed and the epoch's number, so the batch of any
    step follows from seed and step, and each row comes once per epoch. A batch at the end of an epoch is filled from
    the next one.
    """
    numbers = step * batch_size + np.arange(batch_size)  # of all rows so far, epoch after epoch
    epochs = numbers // rows
    orders = {epoch: np.random.default_rng((seed, epoch)).permutation(rows) for epoch in np.unique(epochs)}
    return [int(orders[epoch][number % rows]) for epoch, number in zip(epochs, numbers, strict=True)]
