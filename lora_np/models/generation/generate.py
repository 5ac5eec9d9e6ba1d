"""Writing on: one token after another, each chosen from the model's probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ...autograd import no_grad
from ...autograd.devices import to_numpy
from ...autograd.shape_ops import check_ids
from ...autograd.tensor import Tensor, data
from ...nn import evaluating
from ..context import one_row
from ..kv_cache import KVCache
from ..rope import context_length
from .defaults import most_tokens, sampler

if TYPE_CHECKING:
    from ..base import CausalLM


def generate(model: CausalLM, ids: ArrayLike | Tensor, **options: Any) -> np.ndarray:
    """Continue each row of `ids` (B, T), or a list of T, by at most `max_new_tokens`
    tokens; returns ids (B, T + tokens).

    The options, with Transformers' names, are those of `stream`. Rows that stop early are filled up with
    `pad_token_id`.
    """
    new = [tokens[:, None] for tokens in stream(model, ids, **options)]
    return np.concatenate([to_numpy(data(one_row(ids))).astype(np.int64), *new], axis=1)


def stream(
    model: CausalLM,
    ids: ArrayLike | Tensor,
    attention_mask: ArrayLike | Tensor | None = None,
    max_new_tokens: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    use_cache: bool = True,
    **sampling: Any,
) -> Iterator[np.ndarray]:
    """An iterator over the tokens that continue `ids`: one array (B,) for each step, as soon as it is chosen.

    ids (B, T)       the text so far. Rows of different lengths are padded on the left, and `attention_mask` (B, T) is
                     0 there; the result for each row is the one it would have alone.
    max_new_tokens   the most tokens that are written; 20 if nothing else is said
    eos_token_id     a token, or a list of them, after which a row is finished; without it, the model's own; [] for
                     none. When all rows are finished, the iterator ends. Finished rows go on with `pad_token_id`
    use_cache        keep the keys and values of earlier tokens (`KVCache`) instead of computing them again
    sampling         do_sample, temperature, top_k, top_p, repetition_penalty, seed: see `Sampler`
    What is not given is as the model's generation_config.json says: all of these but seed and use_cache. Also None
    counts as given, for what is sampled: top_k=None draws from all tokens.
    Where the text outgrows the model's context, the model sees the last part of it, without a cache from then on:
    each token then stands at a new position. No dropout, whatever the model is set to; it is not changed. Each step
    has what this call was told (`disable_adapter`), also if the iterator is used after that block.
    """
    row = one_row(ids)
    text = _Text(row, attention_mask if row is ids else one_row(attention_mask))
    chooser = sampler(model.generation_config, sampling)
    most = most_tokens(model.generation_config, max_new_tokens, text.length)
    stops = stop_tokens(model, eos_token_id)
    pad = _pad_token(model, pad_token_id, stops)
    return _told(copy_context(), _stream(model, text, chooser, stops, pad, most, use_cache))


def _told(context, steps):
    """The same iterator, each step of which runs in that context."""
    end = object()
    while (tokens := context.run(next, steps, end)) is not end:
        yield tokens


def _stream(model, text, sampler, stops, pad, max_new_tokens, use_cache):
    window = context_length(model.config)
    cache = KVCache(min(window, text.length + max_new_tokens)) if use_cache and text.length <= window else None
    finished = np.zeros(len(text.ids), bool)
    for _ in range(max_new_tokens):
        cache = cache if text.length <= window else None
        logits = _next_logits(model, text, cache, window)
        tokens = np.where(finished, pad, sampler.choose(logits, text))
        text.append(tokens)
        finished |= np.isin(tokens, stops)
        yield tokens
        if finished.all():
            return


def _next_logits(model, text, cache, window):
    """The logits (B, V) of the next token, in float64 on the host."""
    if cache is not None and model.reads_anew(cache.length, text.length):
        cache.length = 0
    start = cache.length if cache is not None else max(0, text.length - window)
    options = text.positions_and_mask(start, text.length - window if cache is None else 0)
    with no_grad(), evaluating():
        out = model(text.ids[:, start:], past_key_values=cache, logits_to_keep=1, **options)
        return out.logits.numpy()[:, -1].astype(np.float64)


class _Text:
    """The ids (B, T) so far, and which of them count: padding on the left does not."""

    def __init__(self, ids, attention_mask):
        self.ids = to_numpy(data(ids))
        if self.ids.ndim != 2 or self.ids.size == 0:
            raise ValueError(f"ids must be (batch, time) with at least one token, got shape {self.ids.shape}")
        check_ids(self.ids, np.iinfo(np.int64).max)
        self.ids = self.ids.astype(np.int64)
        mask = np.ones(self.ids.shape, bool) if attention_mask is None else to_numpy(data(attention_mask))
        if mask.shape != self.ids.shape:
            raise ValueError(f"attention_mask of shape {mask.shape} does not fit ids of shape {self.ids.shape}")
        self.mask = mask.astype(bool)
        if (self.mask[:, :-1] > self.mask[:, 1:]).any() or not self.mask[:, -1].all():
            raise ValueError("to be continued, rows must be padded on the left (padding_side='left')")

    @property
    def length(self):
        return self.ids.shape[1]

    def append(self, tokens):
        self.ids = np.concatenate([self.ids, tokens[:, None]], axis=1)
        self.mask = np.concatenate([self.mask, np.ones((len(tokens), 1), bool)], axis=1)

    def positions_and_mask(self, start, dropped):
        """What the model needs to know about padding: {} if there is none. `dropped` tokens are out of sight."""
        mask = self.mask[:, max(0, dropped) :]
        if mask.all():
            return {}
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        return {"attention_mask": mask, "position_ids": positions[:, start - max(0, dropped) :]}


def stop_tokens(model: CausalLM, given: int | Sequence[int] | None = None) -> np.ndarray:
    """The ids that end a row: as given, or the model's."""
    if given is None:
        given = model.generation_config.get("eos_token_id", model.config.eos_token_id)
    return np.array([] if given is None else given, np.int64).reshape(-1)


def _pad_token(model, given, stops):
    """What finished rows are filled up with: as given, the model's, or a stop token."""
    if given is not None:
        return given
    own = (model.generation_config.get("pad_token_id"), getattr(model.config, "pad_token_id", None))
    known = [i for i in own if i is not None and 0 <= i < model.config.vocab_size]  # some files name one that is none
    return next(iter(known), int(stops[0]) if len(stops) else 0)
