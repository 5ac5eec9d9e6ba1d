"""What `generate` returns with return_dict_in_generate, and the scores of the tokens that were chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..kv_cache import KVCache
from .processors import log_softmax


@dataclass
class GenerateOutput:
    """The result of `generate`; what was not asked for is None.

    sequences          ids (N, T + new), for each row of the batch num_return_sequences
    scores             with output_scores: for each step the scores (rows, V) that the token was chosen by, a tuple
    logits             with output_logits: the model's, before processors
    sequences_scores   with beams and output_scores: (N,) the log probability of each, by its length to a power
    beam_indices       with beams: (N, new) the row, of the batch's beams, that each token was found in; -1 at the end
    past_key_values    the cache, which holds all tokens but the last
    As in Transformers, also `output["sequences"]`, and `output[0]` counts what is not None.
    """

    sequences: np.ndarray
    sequences_scores: np.ndarray | None = None
    scores: tuple[np.ndarray, ...] | None = None
    logits: tuple[np.ndarray, ...] | None = None
    beam_indices: np.ndarray | None = None
    past_key_values: KVCache | None = None

    def items(self) -> list[tuple[str, Any]]:
        """(name, value) of what is not None."""
        named = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in named if value is not None]

    def keys(self) -> list[str]:
        """The names of what is not None."""
        return [name for name, _ in self.items()]

    def to_tuple(self) -> tuple[Any, ...]:
        """What is not None."""
        return tuple(value for _, value in self.items())

    def __getitem__(self, key: Any) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __contains__(self, name: str) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.items())


def transition_scores(
    sequences: np.ndarray,
    scores: Sequence[np.ndarray],
    beam_indices: np.ndarray | None = None,
    normalize_logits: bool = False,
) -> np.ndarray:
    """The scores (N, new) of the tokens that were chosen; 0 behind a beam's end.

    sequences, scores, beam_indices: as in a `GenerateOutput`, without beams no indices.
    normalize_logits: the scores become log probabilities first
    """
    stacked = np.stack([log_softmax(step) if normalize_logits else step for step in scores], axis=1)  # (rows, new, V)
    if beam_indices is None:
        beam_indices = np.arange(len(stacked))[:, None].repeat(len(scores), axis=1)
    longest = int((beam_indices >= 0).sum(axis=1).max())
    rows = beam_indices[:, :longest]
    tokens = np.asarray(sequences)[:, np.asarray(sequences).shape[1] - longest :]
    found = stacked[np.maximum(rows, 0), np.arange(longest), tokens]
    return np.where(rows < 0, 0, found).astype(stacked.dtype)
