"""Writing on: one token after another, each chosen from the model's probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import numpy as np

from ...autograd import Tensor
from .beams import beam_search
from .output import GenerateOutput
from .run import Run, prepare
from .warpers import possible

if TYPE_CHECKING:
    from ..base import CausalLM


def generate(model: CausalLM, inputs: Any = None, *more: Any, **options: Any) -> np.ndarray | GenerateOutput:
    """Continue each row of ids; see `GenerationMixin.generate`, which is this."""
    run = prepare(model, inputs, *more, **options)
    tensors = isinstance(options.get("input_ids", inputs), Tensor)
    if run.options.num_beams > 1:
        output = beam_search(run)
    else:
        for _ in steps(run):
            pass
        output = GenerateOutput(run.text.ids, past_key_values=run.cache)
    if run.options.return_dict_in_generate:
        output.scores = tuple(run.scores) if run.options.output_scores else None
        output.logits = tuple(run.logits) if run.options.output_logits else None
    if tensors:
        output.to_tensors()
    return output if run.options.return_dict_in_generate else output.sequences


def stream(model: CausalLM, inputs: Any = None, *more: Any, **options: Any) -> Iterator[np.ndarray]:
    """The tokens as they come; see `GenerationMixin.stream`, which is this."""
    run = prepare(model, inputs, *more, **options)
    if run.options.num_beams > 1:
        raise ValueError(f"num_beams={run.options.num_beams}: beams have no tokens until all is done, use generate")
    return _told(copy_context(), steps(run))


def _told(context, tokens):
    """The same iterator, each step of which runs in that context."""
    end = object()
    while (step := context.run(next, tokens, end)) is not end:
        yield step


def steps(run: Run) -> Iterator[np.ndarray]:
    """The tokens (B,) of each step, until every row is finished or the text is as long as it may be."""
    text, streamer = run.text, run.streamer
    finished = np.zeros(len(text.ids), bool)
    if streamer is not None:
        streamer.put(text.ids)
    try:
        while text.length < run.options.max_length:
            tokens = choose(run, run.next_logits())
            if run.pad is not None and len(run.stops):
                tokens = np.where(finished, run.pad, tokens)
            text.append(tokens)
            finished |= run.finished(text.ids)
            if streamer is not None:
                streamer.put(tokens)
            yield tokens
            if finished.all():
                return
    finally:  # whoever reads in another thread waits no longer
        if streamer is not None:
            streamer.end()


def choose(run: Run, logits: np.ndarray) -> np.ndarray:
    """One id for each row of logits (B, V): the most likely, or drawn at random."""
    exact = bool(run.processors) or run.options.do_sample  # else numbers are compared, and no more
    scores = run.processed(logits.astype(np.float64) if exact else logits)
    return draw(scores, run.rng) if run.options.do_sample else scores.argmax(axis=-1)


def draw(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One id per row of scores (B, V), with the probabilities softmax(scores).

    By the inverse of the cumulative distribution, most likely tokens first: the first rank at which it reaches a
    number drawn from [0, 1).
    """
    columns = possible(scores)
    order = np.argsort(-scores[:, columns], axis=-1, kind="stable")
    ranked = np.take_along_axis(scores[:, columns], order, axis=-1)
    p = np.exp(ranked - ranked[:, :1])
    p /= p.sum(axis=-1, keepdims=True)
    rank = (np.cumsum(p, axis=-1) < rng.random((len(p), 1))).sum(axis=-1)
    rank = np.minimum(rank, (p > 0).sum(axis=-1) - 1)
    return columns[np.take_along_axis(order, rank[:, None], axis=-1)[:, 0]]
