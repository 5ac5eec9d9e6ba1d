"""The text that is continued: its ids, and which of them count."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...autograd.devices import to_numpy
from ...autograd.shape_ops import check_ids
from ...autograd.tensor import data
from ..context import one_row


class Text:
    """The ids (B, T) so far, and which of them count, `mask` (B, T): padding does not.

    Without an attention_mask, each `pad` is padding, if it is none of the tokens that end a row; but where a row alone
    ends with one, it is text.
    """

    def __init__(self, ids: Any, attention_mask: Any, pad: int | None, stops: np.ndarray) -> None:
        row = one_row(ids)
        if isinstance(row, list | tuple) and len({np.size(data(one)) for one in row}) > 1:
            raise ValueError("the rows are of different lengths: tokenizer(texts, padding=True, padding_side='left')")
        self.ids = to_numpy(data(row))
        if self.ids.ndim != 2 or self.ids.size == 0:
            raise ValueError(f"ids must be (batch, time) with at least one token, got shape {self.ids.shape}")
        check_ids(self.ids, np.iinfo(np.int64).max)
        self.ids = self.ids.astype(np.int64)
        if attention_mask is None:
            self.mask = np.ones(self.ids.shape, bool) if pad is None or pad in stops else self.ids != pad
            self.mask |= len(self.ids) == 1 and not self.mask[0, -1]
            holes = False
        else:
            mask = to_numpy(data(attention_mask if row is ids else one_row(attention_mask)))
            if mask.shape != self.ids.shape:
                raise ValueError(f"attention_mask of shape {mask.shape} does not fit ids of shape {self.ids.shape}")
            self.mask = mask.astype(bool)
            holes = (self.mask[:, :-1] > self.mask[:, 1:]).any()
        if holes or not self.mask[:, -1].all():
            raise ValueError("to be continued, rows must be padded on the left (padding_side='left')")

    @property
    def length(self) -> int:
        """T."""
        return self.ids.shape[1]

    @property
    def beginnings(self) -> np.ndarray:
        """(B,): where each row's text begins, after its padding."""
        return self.mask.argmax(axis=1)

    def repeat(self, times: int) -> None:
        """Each row so many times, one after another."""
        self.ids, self.mask = np.repeat(self.ids, times, axis=0), np.repeat(self.mask, times, axis=0)

    def append(self, tokens: np.ndarray) -> None:
        """One token (B,) more in each row."""
        self.ids = np.concatenate([self.ids, tokens[:, None]], axis=1)
        self.mask = np.concatenate([self.mask, np.ones((len(tokens), 1), bool)], axis=1)

    def positions_and_mask(self, start: int, dropped: int) -> dict[str, np.ndarray]:
        """What the model needs to know about padding: {} if there is none. `dropped` tokens are out of sight."""
        mask = self.mask[:, max(0, dropped) :]
        if mask.all():
            return {}
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        return {"attention_mask": mask, "position_ids": positions[:, start - max(0, dropped) :]}
