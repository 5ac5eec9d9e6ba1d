"""When a row is finished: rules that look at the ids (N, T) so far, with Transformers' names.

Each is called with (ids, scores) after every token, and returns a boolean for each row, (N,), or one for all. scores:
the scores (N, V) of each step so far, a tuple, if the call asks for output_scores; otherwise None.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...autograd.devices import to_numpy
from ...autograd.tensor import data


class StoppingCriteria:
    """When to stop. Abstract: a subclass writes `__call__(input_ids (N, T), scores) -> booleans (N,)`."""

    def __call__(self, input_ids: np.ndarray, scores: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not say when to stop: write __call__")


class StoppingCriteriaList(list):
    """Criteria; a row is finished when one of them says so."""

    def __call__(self, input_ids: np.ndarray, scores: Any, **options: Any) -> np.ndarray:
        done = np.zeros(len(input_ids), bool)
        for criterion in self:
            done |= _of_rows(criterion(input_ids, scores, **options), len(input_ids), criterion)
        return done


def _of_rows(found: Any, rows: int, criterion: Any) -> np.ndarray:
    """What a criterion says, as booleans (rows,)."""
    done = to_numpy(data(found)).astype(bool)
    if done.size not in (1, rows):
        name = getattr(criterion, "__name__", type(criterion).__name__)
        raise ValueError(f"the stopping criterion {name} should say True or False for each of {rows} rows, got {found}")
    return done.reshape(-1)


class MaxLengthCriteria(StoppingCriteria):
    """When the text has `max_length` tokens, the prompt's counted."""

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length = max_length

    def __call__(self, input_ids: np.ndarray, scores: Any, **options: Any) -> np.ndarray:
        return np.full(len(input_ids), input_ids.shape[1] >= self.max_length)


class MaxTimeCriteria(StoppingCriteria):
    """When more than `max_time` seconds have passed, since this was made or since `initial_timestamp`."""

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: np.ndarray, scores: Any, **options: Any) -> np.ndarray:
        return np.full(len(input_ids), time.time() - self.initial_timestamp > self.max_time)


class EosTokenCriteria(StoppingCriteria):
    """When the last token is one of these."""

    def __init__(self, eos_token_id: Any) -> None:
        self.eos_token_id = np.array(eos_token_id, np.int64).reshape(-1)

    def __call__(self, input_ids: np.ndarray, scores: Any, **options: Any) -> np.ndarray:
        return np.isin(input_ids[:, -1], self.eos_token_id)


class StopStringCriteria(StoppingCriteria):
    """When the last token completes one of these texts: it ends inside that token, and may begin in the prompt.

    No token has less than a byte, so the text lies within as many tokens as it has bytes; those are decoded, with a few
    before them: a decoder may change what a text begins with.
    """

    before = 4

    def __init__(self, tokenizer: Any, stop_strings: str | list[str]) -> None:
        self.tokenizer = tokenizer
        self.stop_strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings)
        if not self.stop_strings or not all(self.stop_strings):
            raise ValueError(f"stop_strings must be a text, or a list of texts, none empty: got {stop_strings!r}")
        self.tokens = max(len(text.encode()) for text in self.stop_strings) + self.before

    def __call__(self, input_ids: np.ndarray, scores: Any, **options: Any) -> np.ndarray:
        return np.array([self._completed(row[-self.tokens :].tolist()) for row in input_ids])

    def _completed(self, ids):
        text = self.tokenizer.decode(ids)
        begin = len(self.tokenizer.decode(ids[:-1]).rstrip("\ufffd"))  # half a character, as yet
        return any(text.find(stop, max(0, begin - len(stop) + 1)) >= 0 for stop in self.stop_strings)
