"""A call of `generate`, ready to run: its text, its rules, its cache, and how the model is asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...autograd import no_grad
from ...autograd.random import generator
from ...expect import expect, expect_method, expect_whole
from ...nn import evaluating
from ..call_options import refuse_text
from ..kv_cache import KVCache
from ..rope import context_length
from .assembly import end_criteria, logits_processors
from .config import GenerationConfig
from .options import Options, options_of, set_lengths
from .processors import LogitsProcessorList
from .recorded import RecordedSteps, can_be_recorded
from .stopping import StoppingCriteriaList
from .text import Text

if TYPE_CHECKING:
    from ..base import CausalLM

InCall = Callable[[], AbstractContextManager[Any]]


@dataclass
class Run:
    """One call of `generate`.

    text         the rows, which grow: num_beams or num_return_sequences of them for each of the batch's
    options      max_length is always a number
    stops, pad   the tokens that end a row, and the one that fills it up; None if nothing ends one
    in_call      what each call of the model is made in, a context manager; its `recordable`, if it has that, says
                 whether a step in it may be recorded
    scores, logits   of the steps so far, if they are asked for
    recorded     the step of one token, where it is recorded on a GPU
    """

    model: CausalLM
    text: Text
    options: Options
    stops: np.ndarray
    pad: int | None
    cache: KVCache | None
    in_call: InCall
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    rng: np.random.Generator
    streamer: Any
    scores: list[np.ndarray] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    recorded: RecordedSteps | None = None

    def next_logits(self) -> np.ndarray:
        """The model's logits (B, V) of the next token, on the host. FloatingPointError if they are no numbers.

        The cache is left behind where the text outgrows the context: each token then stands at a new position.
        """
        text, window = self.text, context_length(self.model.config)
        self.cache = self.cache if text.length <= window else None
        if self.cache is not None and self.model.reads_anew(self.cache.length, text.length):
            self.cache.length = 0
        start = self.cache.length if self.cache is not None else max(0, text.length - window)
        options = text.positions_and_mask(start, text.length - window if self.cache is None else 0)
        logits = None
        if text.length - start == 1 and not options and self._records() and self.recorded is not None:
            logits = self.recorded(text.ids[:, start:])
        if logits is None:
            with no_grad(), evaluating(), self.in_call():
                out = self.model(text.ids[:, start:], past_key_values=self.cache, logits_to_keep=1, **options)
                logits = out.logits.numpy()[:, -1]
        logits = logits.astype(np.result_type(logits.dtype, np.float32), copy=False)  # NumPy is slow in 16 bits
        if not self.options.remove_invalid_values:
            check_logits(logits)
        if self.asks_for("output_logits"):
            self.logits.append(logits.astype(np.float32))
        return logits

    def _records(self):
        """Is the step of one token a recorded one, or can it be made one now?"""
        if self.in_call is not nullcontext and not getattr(self.in_call, "recordable", False):
            return False
        if self.recorded is not None and self.recorded.unchanged():
            return self.recorded.cache is self.cache and not self.recorded.failed
        self.recorded = None
        steps = self.options.max_length - self.text.length
        if self.options.num_beams > 1 or not can_be_recorded(self.model, self.cache, steps):
            return False
        self.recorded = RecordedSteps(self.model, self.cache, self.in_call)
        return True

    def processed(self, scores: np.ndarray) -> np.ndarray:
        """The scores after all processors. ValueError if they forbid every token of a row, or of all its beams."""
        if self.processors:
            scores = self.processors(self.text.ids, scores)
            highest = scores.max(axis=-1).reshape(-1, self.options.num_beams).max(axis=-1)
            if not np.isfinite(highest).all():
                names = ", ".join(getattr(rule, "__name__", type(rule).__name__) for rule in self.processors)
                raise ValueError(
                    f"no token is left to choose from in row {int(np.argmin(np.isfinite(highest)))}, after {names}"
                )
        if self.asks_for("output_scores"):
            self.scores.append(scores.astype(np.float32))
        return scores

    def finished(self, ids: np.ndarray) -> np.ndarray:
        """Which of these rows (N, T) the criteria end."""
        return self.criteria(ids, tuple(self.scores) if self.asks_for("output_scores") else None)

    def asks_for(self, name: str) -> bool:
        """Is this to be returned?"""
        return bool(self.options.return_dict_in_generate and getattr(self.options, name))


def check_logits(logits: np.ndarray) -> None:
    """FloatingPointError unless each row of logits (B, V) has a highest number; others may be -inf, as if forbidden."""
    highest = logits.max(axis=-1)
    if not np.isfinite(highest).all():
        row = int(np.argmin(np.isfinite(highest)))
        raise FloatingPointError(
            f"the model's logits for the next token are not finite ({highest[row]} in row {row}): look for NaN or "
            "infinity in its weights and adapters; in float16 numbers may grow too large, float32 would do"
        )


def prepare(
    model: CausalLM,
    inputs: Any = None,
    generation_config: GenerationConfig | None = None,
    *,
    input_ids: Any = None,
    attention_mask: Any = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    prefix_allowed_tokens_fn: Callable[[int, np.ndarray], Any] | None = None,
    streamer: Any = None,
    tokenizer: Any = None,
    past_key_values: KVCache | None = None,
    seed: int | None = None,
    row_calls: Callable[[Text, int], InCall] | None = None,
    **given: Any,
) -> Run:
    """The `Run` of a call of `generate` with these arguments, all of them checked.

    row_calls: (the prompt, how many rows of the text there will be for each of its) -> what each call of the model is
    made in
    """
    options = options_of(model, generation_config, given)
    stops = np.array([] if options.eos_token_id is None else options.eos_token_id, np.int64).reshape(-1)
    pad = _pad_token(model, options, stops)
    text = Text(_ids(inputs, input_ids, options), attention_mask, pad, stops)
    times = max(options.num_beams, options.num_return_sequences)
    in_call = nullcontext if row_calls is None else row_calls(text, times)
    text.repeat(times)
    set_lengths(options, text.length, context_length(model.config))
    vocab_size, allowed = model.config.vocab_size, prefix_allowed_tokens_fn
    processors = logits_processors(options, stops, text, times, vocab_size, allowed, logits_processor)
    criteria = end_criteria(options, stops, tokenizer, stopping_criteria)
    if streamer is not None:
        expect_method(streamer, "put", "streamer", "a streamer, such as TextStreamer(tokenizer)")
    cache = _cache(model, options, text, past_key_values)
    if seed is not None:
        expect_whole(seed, "seed", least=0)
    rng = generator() if seed is None else np.random.default_rng(seed)
    return Run(model, text, options, stops, pad, cache, in_call, processors, criteria, rng, streamer)


def _ids(inputs, input_ids, options):
    """What is to be continued: ids as given, or the token with which a text begins."""
    if inputs is not None and input_ids is not None:
        raise ValueError("inputs and input_ids both say what is to be continued: give one of them")
    found = input_ids if inputs is None else inputs
    refuse_text("generate", found, "generate(**tokenizer(text))")
    if found is None and options.bos_token_id is None:
        raise ValueError("there is nothing to continue: give input_ids (no bos_token_id says how a text begins)")
    return [[options.bos_token_id]] if found is None else found


def _pad_token(model, options, stops):
    """What finished rows are filled up with: as given, the model's, or a stop token."""
    pad = options.pad_token_id
    if pad is not None and ("pad_token_id" in options.said or 0 <= pad < model.config.vocab_size):
        return pad  # some files name one that is none
    return int(stops[0]) if len(stops) else None


def _cache(model, options, text, given):
    """The cache that is given, or one with room for the whole text."""
    window = context_length(model.config)
    if given is None:
        return KVCache(min(window, options.max_length)) if options.use_cache and text.length <= window else None
    expect(given, KVCache, "past_key_values", "a KVCache(capacity), as an earlier call has filled it")
    if given.length >= text.length:
        raise ValueError(f"past_key_values holds {given.length} tokens; input_ids, the whole text, has {text.length}")
    given.make_room(min(window, options.max_length))
    return given
