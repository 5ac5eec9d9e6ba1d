"""Rules for the next token: each changes the scores (B, V) of all tokens, knowing the ids (B, T) so far.

They have Transformers' names and arguments. -inf forbids a token. A processor returns a new array. `warpers.py` has
those that shape the distribution which is drawn from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...autograd.devices import to_numpy
from ...autograd.tensor import data
from ...expect import expect_method


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """log softmax(x) = x - max - log Σ exp(x - max), of each row."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class LogitsProcessor:
    """What changes scores. Abstract: a subclass writes `__call__(input_ids (B, T), scores (B, V)) -> scores`."""

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} does not say how it changes the scores: write __call__")


class LogitsProcessorList(list):
    """Processors, one after another."""

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        for processor in self:
            found = to_numpy(data(processor(input_ids, scores)))
            if found.shape != scores.shape:
                name = getattr(processor, "__name__", type(processor).__name__)
                raise ValueError(f"{name} should return scores of shape {scores.shape}, got {found!r}")
            scores = found
        return scores


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Scores of tokens in the text are divided by `penalty` if positive, else multiplied (Keskar et al., 2019, 4.1).

    prompt_ignore_length (B,): how many tokens of each row do not count, its padding
    """

    def __init__(self, penalty: float, prompt_ignore_length: np.ndarray | None = None) -> None:
        if not penalty > 0:
            raise ValueError(f"repetition_penalty must be positive, got {penalty}")
        self.penalty, self.ignored = penalty, prompt_ignore_length

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        V, seen = scores.shape[1], np.zeros((len(scores), scores.shape[1] + 1), bool)
        ids = np.minimum(input_ids, V)
        if self.ignored is not None:
            ids = np.where(np.arange(ids.shape[1]) < self.ignored[:, None], V, ids)
        np.put_along_axis(seen, ids, True, axis=1)
        penalized = np.where(scores < 0, scores * self.penalty, scores / self.penalty)
        return np.where(seen[:, :V], penalized, scores)


class EncoderRepetitionPenaltyLogitsProcessor(RepetitionPenaltyLogitsProcessor):
    """Above 1, tokens of the prompt become likelier: the repetition penalty's inverse, for these alone."""

    def __init__(self, penalty: float, encoder_input_ids: np.ndarray) -> None:
        if not penalty > 0:
            raise ValueError(f"encoder_repetition_penalty must be positive, got {penalty}")
        super().__init__(1 / penalty)
        self.prompt = encoder_input_ids

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return super().__call__(np.repeat(self.prompt, len(scores) // len(self.prompt), axis=0), scores)


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """No `ngram_size` tokens in a row appear twice (Paulus et al., 2017): what would complete them is forbidden."""

    def __init__(self, ngram_size: int) -> None:
        self.size = ngram_size

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return self.without_repeats(input_ids, input_ids, scores)

    def without_repeats(self, earlier: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Forbid what, after the last tokens of `ids`, would repeat n tokens of `earlier` (B, T)."""
        if min(ids.shape[1] + 1, earlier.shape[1]) < self.size:
            return scores
        last = ids[:, ids.shape[1] + 1 - self.size :]
        windows = np.lib.stride_tricks.sliding_window_view(earlier, self.size, axis=1)  # (B, T - n + 1, n)
        repeats = (windows[:, :, :-1] == last[:, None]).all(axis=-1)
        scores = scores.copy()
        for row, completes in enumerate(repeats):
            banned = windows[row, completes, -1]
            scores[row, banned[banned < scores.shape[1]]] = -np.inf
        return scores


class EncoderNoRepeatNGramLogitsProcessor(NoRepeatNGramLogitsProcessor):
    """No `encoder_ngram_size` tokens in a row are written that stand in the prompt."""

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: np.ndarray) -> None:
        super().__init__(encoder_ngram_size)
        self.prompt = encoder_input_ids

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        earlier = np.repeat(self.prompt, len(scores) // len(self.prompt), axis=0)
        return self.without_repeats(earlier, input_ids, scores)


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """A number is added to the score of a token, or, of several in a row, to the last where the others stand before.

    sequence_bias: {(id, ...): number}, or [[[id, ...], number], ...]
    """

    name = "sequence_bias"

    def __init__(self, sequence_bias: dict[tuple[int, ...], float] | list[Any]) -> None:
        pairs = sequence_bias.items() if isinstance(sequence_bias, dict) else sequence_bias
        try:
            self.biases = {tuple(int(i) for i in ids): float(bias) for ids, bias in pairs}
        except (TypeError, ValueError):
            self.biases = {}
        if not self.biases or any(not ids or min(ids) < 0 for ids in self.biases):
            raise ValueError(
                f"{self.name} must be {{(token id, ...): number}} or [[[token id, ...], number], ...], "
                f"got {sequence_bias!r}"
            )

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        bias = np.zeros_like(scores)
        for ids, number in self.biases.items():
            *before, last = ids
            if max(ids) >= scores.shape[1]:
                raise ValueError(f"{self.name} names token {max(ids)}, and the model has {scores.shape[1]}")
            if len(before) <= input_ids.shape[1]:
                follows = (input_ids[:, input_ids.shape[1] - len(before) :] == np.array(before, int)).all(axis=1)
                bias[follows, last] += number
        return scores + bias


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """None of these lists of ids is written: a bias of -inf. A single end token among them does not count."""

    name = "bad_words_ids"

    def __init__(self, bad_words_ids: list[list[int]], eos_token_id: Any = None) -> None:
        stops = np.array([] if eos_token_id is None else eos_token_id, int).reshape(-1).tolist()
        words = [tuple(word) for word in bad_words_ids if list(word) not in [[stop] for stop in stops]]
        if words or not bad_words_ids:
            super().__init__(dict.fromkeys(words, -np.inf))
        else:
            self.biases = {}


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """These tokens are never written."""

    def __init__(self, suppress_tokens: Any) -> None:
        self.tokens = np.array(list(suppress_tokens), int).reshape(-1)

    def applies(self, length: int) -> bool:
        """Are they forbidden after a text of this length?"""
        return True

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if not self.applies(input_ids.shape[1]):
            return scores
        scores = scores.copy()
        scores[:, self.tokens[self.tokens < scores.shape[1]]] = -np.inf
        return scores


class SuppressTokensAtBeginLogitsProcessor(SuppressTokensLogitsProcessor):
    """These tokens are not the first that is written, after a text of `begin_index` tokens."""

    def __init__(self, begin_suppress_tokens: Any, begin_index: int) -> None:
        super().__init__(begin_suppress_tokens)
        self.begin = begin_index

    def applies(self, length: int) -> bool:
        """At the first token alone."""
        return length == self.begin


class MinLengthLogitsProcessor(SuppressTokensLogitsProcessor):
    """The text does not end before it has `min_length` tokens, the prompt's counted."""

    def __init__(self, min_length: int, eos_token_id: Any) -> None:
        super().__init__(np.array(eos_token_id).reshape(-1))
        self.least = min_length

    def applies(self, length: int) -> bool:
        """While the text is too short."""
        return length < self.least


class MinNewTokensLengthLogitsProcessor(MinLengthLogitsProcessor):
    """The text does not end before `min_new_tokens` have been written after the prompt's."""

    def __init__(self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: Any) -> None:
        super().__init__(prompt_length_to_skip + min_new_tokens, eos_token_id)


class ForcedTokenLogitsProcessor(LogitsProcessor):
    """After a text of `length` tokens, one of these tokens follows: their score is 0, all others' -inf."""

    def __init__(self, length: int, tokens: Any) -> None:
        self.length, self.tokens = length, np.array(tokens, int).reshape(-1)

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if input_ids.shape[1] == self.length:
            scores = np.full_like(scores, -np.inf)
            scores[:, self.tokens] = 0
        return scores


class ForcedBOSTokenLogitsProcessor(ForcedTokenLogitsProcessor):
    """The second token of a text is this one: the first of a translation, say, after what it begins with."""

    def __init__(self, bos_token_id: int) -> None:
        super().__init__(1, bos_token_id)


class ForcedEOSTokenLogitsProcessor(ForcedTokenLogitsProcessor):
    """A text that becomes `max_length` tokens long ends with one of these."""

    def __init__(self, max_length: int, eos_token_id: Any) -> None:
        super().__init__(max_length - 1, eos_token_id)


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """From `start` new tokens on, ending becomes likelier with each: its score x grows by |x|·(factor**n - 1).

    exponential_decay_length_penalty: (start, factor); n counts the tokens after that
    """

    def __init__(self, exponential_decay_length_penalty: Any, eos_token_id: Any, input_ids_seq_length: int) -> None:
        try:
            start, self.factor = (float(number) for number in exponential_decay_length_penalty)
        except (TypeError, ValueError):
            raise ValueError(
                "exponential_decay_length_penalty must be (a number of tokens, a factor), "
                f"got {exponential_decay_length_penalty!r}"
            ) from None
        self.start, self.stops = start + input_ids_seq_length, np.array(eos_token_id, int).reshape(-1)

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        after = input_ids.shape[1] - self.start
        if after <= 0:
            return scores
        scores, ends = scores.copy(), scores[:, self.stops]
        grown = np.abs(np.where(np.isfinite(ends), ends, 0)) * (self.factor**after - 1)
        scores[:, self.stops] = ends + grown
        return scores


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Only the tokens that a function allows follow (De Cao et al., 2020).

    prefix_allowed_tokens_fn(row of the batch, ids (T,) of the text) -> the allowed ids; num_beams: rows for each of the
    batch's. Where all that is allowed is forbidden otherwise, it is allowed, with a score of 0.
    """

    def __init__(self, prefix_allowed_tokens_fn: Callable[[int, np.ndarray], Any], num_beams: int) -> None:
        expect_method(prefix_allowed_tokens_fn, "__call__", "prefix_allowed_tokens_fn", "a function of (row, ids)")
        self.allowed, self.rows = prefix_allowed_tokens_fn, num_beams

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        V, mask = scores.shape[1], np.full_like(scores, -np.inf)
        for row, ids in enumerate(input_ids):
            tokens = to_numpy(data(self.allowed(row // self.rows, ids))).reshape(-1)
            if not tokens.size or tokens.dtype.kind not in "iu" or not 0 <= tokens.min() <= tokens.max() < V:
                raise ValueError(
                    f"prefix_allowed_tokens_fn should list some of the model's {V} tokens for row {row // self.rows}, "
                    f"got {tokens.tolist()}"
                )
            mask[row, tokens] = 0
        found = scores + mask
        nothing = np.isneginf(found.max(axis=1)).reshape(-1, self.rows).all(axis=1).repeat(self.rows)
        return np.where(nothing[:, None], mask, found)


class InfNanRemoveLogitsProcessor(LogitsProcessor):
    """NaN becomes 0, infinity the largest float32."""

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        most = float(np.finfo(np.float32).max)
        return np.nan_to_num(scores, nan=0.0, posinf=most, neginf=-most)


class LogitNormalization(LogitsProcessor):
    """The scores become log probabilities; forbidden tokens stay so."""

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return log_softmax(scores)
