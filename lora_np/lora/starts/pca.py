r"""The directions in which rows of numbers vary most, found batch by batch.

Incremental principal component analysis (Ross et al., 2008, "Incremental learning for robust visual tracking"): what is
kept of all rows X so far is their mean μ, their count n, the first k right singular vectors V (k, in) of X - μ, and the
singular values S (k,). With a batch Y of m rows and mean ν they become those of the rows of

    [ S∘V ;  Y - ν ;  √(n m / (n + m)) (μ - ν) ]

The first part stands for all rows before. That is exact if k is their rank, and else forgets a little each time. It is
what PEFT computes, up to its randomised singular value decomposition.
"""

import numpy as np

from ..types import Array


class Directions:
    """The first k directions of rows of width `width`, so far.

    components       V (k, in): orthonormal rows, each with its largest entry positive; None before the first batch
    singular_values  S (k,)
    explained        (k,): which part of the rows' variance lies in each direction
    converged        (k,) bool: whether the last batch left it almost as it was
    """

    def __init__(self, k: int, tau: float) -> None:
        self.k, self.tau, self.count = k, tau, 0
        self.components: Array | None = None
        self.converged = np.zeros(k, bool)

    def add(self, rows: Array) -> None:
        """Take rows (m, in) into account; m is at least k."""
        m, mean = len(rows), rows.mean(axis=0, dtype=np.float64)
        squares = ((rows - mean) ** 2).sum(axis=0, dtype=np.float64)  # of deviations: the variance times the count
        parts = [rows - mean]
        if self.components is None:
            self.mean, self.squares = mean, squares
        else:
            shift = np.sqrt(self.count * m / (self.count + m)) * (self.mean - mean)
            parts = [self.singular_values[:, None] * self.components, *parts, shift[None]]
            self.squares = self.squares + squares + shift**2
            self.mean = (self.count * self.mean + m * mean) / (self.count + m)
        self.count += m
        before = self.components
        self._decompose(np.concatenate(parts))
        if before is not None:
            self.converged = (before * self.components).sum(axis=1) >= self.tau

    def _decompose(self, rows):
        """V, S and the explained part from the rows. R of a QR decomposition has the same V and S, and is small."""
        _, S, V = np.linalg.svd(np.linalg.qr(rows, mode="r"), full_matrices=False)
        V, self.singular_values = V[: self.k], S[: self.k]
        largest = np.take_along_axis(V, np.abs(V).argmax(axis=1)[:, None], axis=1)
        self.components = V * np.where(largest < 0, -1, 1)
        total = self.squares.sum()
        self.explained = self.singular_values**2 / (total if total > 0 else 1.0)
