"""What `generate` returns with return_dict_in_generate, and the scores of the tokens that were chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...autograd import Tensor
from ...autograd.tensor import data
from ..kv_cache import KVCache
from ..model_output import ModelOutput
from .processors import log_softmax


@dataclass(eq=False, repr=False)
class GenerateOutput(ModelOutput):
    """The result of `generate`; what was not asked for is None.

    sequences          ids (N, T + new), for each row of the batch num_return_sequences
    scores             with output_scores: for each step the scores (rows, V) that the token was chosen by, a tuple
    logits             with output_logits: the model's, before processors
    sequences_scores   with beams and output_scores: (N,) the log probability of each, by its length to a power
    beam_indices       with beams: (N, new) the row, of the batch's beams, that each token was found in; -1 at the end
    past_key_values    the cache, which holds all tokens but the last
    """

    sequences: np.ndarray
    sequences_scores: np.ndarray | None = None
    scores: tuple[np.ndarray, ...] | None = None
    logits: tuple[np.ndarray, ...] | None = None
    beam_indices: np.ndarray | None = None
    past_key_values: KVCache | None = None

    def to_tensors(self) -> None:
        """Have Tensors in the place of arrays."""
        for name in ("sequences", "sequences_scores", "scores", "logits", "beam_indices"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, tuple(map(Tensor, value)) if isinstance(value, tuple) else Tensor(value))

    names = ("sequences", "sequences_scores", "scores", "logits", "beam_indices", "past_key_values")


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
    sequences, scores, beam_indices = data(sequences), [data(step) for step in scores], data(beam_indices)
    stacked = np.stack([log_softmax(step) if normalize_logits else step for step in scores], axis=1)  # (rows, new, V)
    if beam_indices is None:
        beam_indices = np.arange(len(stacked))[:, None].repeat(len(scores), axis=1)
    longest = int((beam_indices >= 0).sum(axis=1).max())
    rows = beam_indices[:, :longest]
    tokens = np.asarray(sequences)[:, np.asarray(sequences).shape[1] - longest :]
    found = stacked[np.maximum(rows, 0), np.arange(longest), tokens]
    return np.where(rows < 0, 0, found).astype(stacked.dtype)
