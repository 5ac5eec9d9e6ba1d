"""Choosing the next token from a model's logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ...autograd.random import generator


class Text(Protocol):
    """The tokens so far: `ids` (B, T), and `mask` (B, T), False for padding."""

    ids: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Sampler:
    """How the next token is chosen from the logits.

    do_sample            draw at random; otherwise the most likely token is taken (greedy)
    temperature          logits are divided by it: below 1 the likely becomes likelier
    top_k                only the so many most likely tokens
    top_p                only the smallest set of tokens with this probability together (Holtzman et al., 2019)
    repetition_penalty   logits of tokens in the text so far are divided by it if positive, else multiplied
                         (Keskar et al., 2019); padding does not count as text
    seed                 the same seed gives the same text; without one, `manual_seed`'s generator is used
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    rng: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.do_sample and not self.temperature > 0:
            raise ValueError(
                f"temperature must be positive, got {self.temperature}; for greedy text use do_sample=False"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty must be positive, got {self.repetition_penalty}")
        rng = generator() if self.seed is None else np.random.default_rng(self.seed)
        object.__setattr__(self, "rng", rng)

    def choose(self, logits: np.ndarray, text: Text) -> np.ndarray:
        """One id for each row of logits (B, V), a float64 array that may be written to.

        FloatingPointError if a row's highest is NaN or infinite: nothing can be chosen from that.
        """
        check_logits(logits)
        if self.repetition_penalty != 1.0:
            self._penalize(logits, text)
        if not self.do_sample:
            return logits.argmax(axis=-1)
        return _sample(logits / self.temperature, self.top_k, self.top_p, self.rng)

    def _penalize(self, logits, text):
        for row, ids, mask in zip(logits, text.ids, text.mask, strict=True):
            used = np.unique(ids[mask])
            row[used] = np.where(
                row[used] > 0, row[used] / self.repetition_penalty, row[used] * self.repetition_penalty
            )


def check_logits(logits: np.ndarray) -> None:
    """FloatingPointError unless each row of logits (B, V) has a highest number; others may be -inf, as if forbidden."""
    highest = logits.max(axis=-1)
    if not np.isfinite(highest).all():
        row = int(np.argmin(np.isfinite(highest)))
        raise FloatingPointError(
            f"the model's logits for the next token are not finite ({highest[row]} in row {row}): look for NaN or "
            "infinity in its weights and adapters; in float16 numbers may grow too large, float32 would do"
        )


def _sample(logits, top_k, top_p, rng):
    """One id per row of logits (B, V), by the inverse of the cumulative distribution, most likely tokens first."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    ranked = np.take_along_axis(logits, order, axis=-1)
    p = np.exp(ranked - ranked[:, :1])
    if top_k is not None:
        p[:, top_k:] = 0
    p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None:  # a token stays if those more likely than it do not reach top_p yet
        p[np.cumsum(p, axis=-1) - p >= top_p] = 0
        p /= p.sum(axis=-1, keepdims=True)
    rank = (np.cumsum(p, axis=-1) < rng.random((len(p), 1))).sum(axis=-1)
    rank = np.minimum(rank, (p > 0).sum(axis=-1) - 1)
    return np.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
