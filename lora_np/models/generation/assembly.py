"""The rules of a call, made from its options in Transformers' order: what changes scores, and what ends rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...expect import expect_method
from . import processors as rules
from . import warpers
from .options import Options
from .processors import LogitsProcessorList
from .stopping import EosTokenCriteria, MaxTimeCriteria, StoppingCriteriaList, StopStringCriteria
from .text import Text


def logits_processors(
    options: Options,
    stops: np.ndarray,
    text: Text,
    times: int,
    vocab_size: int,
    allowed: Callable[[int, np.ndarray], Any] | None = None,
    more: Any = None,
) -> LogitsProcessorList:
    """What changes the scores.

    stops: the tokens that end a row; times: rows of `text` for each of the batch's; allowed: prefix_allowed_tokens_fn;
    more: the processors that are given, which go before others of their class, and stand before what shapes the
    distribution
    """
    found = _constraints(options, stops, text, times, vocab_size, allowed)
    found = LogitsProcessorList(_merged(found, more, "logits_processor"))
    if options.do_sample:
        found += _warpers(options, stops)
    if options.renormalize_logits:
        found.append(rules.LogitNormalization())
    return found


def _constraints(options, stops, text, times, vocab_size, allowed):
    """Those that forbid and favour tokens."""
    o, begin, prompt, ends = options, text.length, text.ids[::times], len(stops) > 0
    made = []
    _check_forced(options, vocab_size)

    def add(name, asked, make, *arguments):
        if asked:
            made.append(o.made(name, make, *arguments))

    def said(name, make, *arguments):
        add(name, getattr(o, name) is not None, make, getattr(o, name), *arguments)

    add("sequence_bias", o.sequence_bias, rules.SequenceBiasLogitsProcessor, o.sequence_bias)
    if o.encoder_repetition_penalty != 1:
        said("encoder_repetition_penalty", rules.EncoderRepetitionPenaltyLogitsProcessor, prompt)
    if o.repetition_penalty != 1:
        said("repetition_penalty", rules.RepetitionPenaltyLogitsProcessor, text.beginnings)
    n, earlier = o.no_repeat_ngram_size, o.encoder_no_repeat_ngram_size
    add("no_repeat_ngram_size", n, rules.NoRepeatNGramLogitsProcessor, n)
    add("encoder_no_repeat_ngram_size", earlier, rules.EncoderNoRepeatNGramLogitsProcessor, earlier, prompt)
    add("bad_words_ids", o.bad_words_ids, rules.NoBadWordsLogitsProcessor, o.bad_words_ids, stops)
    add("min_length", o.min_length and ends, rules.MinLengthLogitsProcessor, o.min_length, stops)
    add("prefix_allowed_tokens_fn", allowed is not None, rules.PrefixConstrainedLogitsProcessor, allowed, times)
    said("forced_bos_token_id", rules.ForcedBOSTokenLogitsProcessor)
    last = o.max_length, o.forced_eos_token_id
    add("forced_eos_token_id", o.forced_eos_token_id is not None, rules.ForcedEOSTokenLogitsProcessor, *last)
    add("remove_invalid_values", o.remove_invalid_values, rules.InfNanRemoveLogitsProcessor)
    said("exponential_decay_length_penalty", rules.ExponentialDecayLengthPenalty, stops, begin)
    said("suppress_tokens", rules.SuppressTokensLogitsProcessor)
    first = begin if begin > 1 or o.forced_bos_token_id is None else begin + 1
    said("begin_suppress_tokens", rules.SuppressTokensAtBeginLogitsProcessor, first)
    return made


def _check_forced(options, vocab_size):
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        tokens = getattr(options, name)
        if tokens is not None and max(np.atleast_1d(tokens)) >= vocab_size:
            raise ValueError(f"{options.where(name)}{name} is {tokens}, and the model has {vocab_size} tokens")


def _warpers(options, stops):
    """Those that shape the distribution. Beams need a token that ends nothing, so more of them stay."""
    o, least = options, 1 if options.num_beams == 1 else max(2, len(stops) + 1)
    rows = [
        ("temperature", (None, 1), warpers.TemperatureLogitsWarper, ()),
        ("top_h", (None,), warpers.TopHLogitsWarper, ()),
        ("top_k", (None, 0), warpers.TopKLogitsWarper, (least,)),
        ("top_p", (None, 1), warpers.TopPLogitsWarper, (least,)),
        ("min_p", (None,), warpers.MinPLogitsWarper, (least,)),
        ("typical_p", (None, 1), warpers.TypicalLogitsWarper, (least,)),
        ("epsilon_cutoff", (None, 0, 1), warpers.EpsilonLogitsWarper, (least,)),
        ("eta_cutoff", (None, 0, 1), warpers.EtaLogitsWarper, (least,)),
    ]
    asked = [(name, make, more) for name, neutral, make, more in rows if getattr(o, name) not in neutral]
    return [o.made(name, make, getattr(o, name), *more) for name, make, more in asked]


def end_criteria(options: Options, stops: np.ndarray, tokenizer: Any, more: Any = None) -> StoppingCriteriaList:
    """What ends rows, but for the length. more: the criteria that are given, which go before others of their class."""
    found: list[Any] = [] if options.max_time is None else [MaxTimeCriteria(options.max_time)]
    if options.stop_strings:
        if tokenizer is None:
            raise ValueError("stop_strings are looked for in the text: give tokenizer=, the model's tokenizer, too")
        expect_method(tokenizer, "decode", "tokenizer", "the model's tokenizer")
        found.append(options.made("stop_strings", StopStringCriteria, tokenizer, options.stop_strings))
    if len(stops):
        found.append(EosTokenCriteria(stops))
    return StoppingCriteriaList(_merged(found, more, "stopping_criteria"))


def _merged(own, more, name):
    more = [] if more is None else list(more) if isinstance(more, list | tuple) else [more]
    for one in more:
        if isinstance(one, type) or not callable(one):
            raise TypeError(f"{name} should be a list of functions of (ids, scores), with {one!r} in it")
    return [one for one in own if type(one) not in [type(other) for other in more]] + more
