"""What the options of a call are: as given, as the model's generation_config.json says, or the defaults; checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from ...expect import expect
from ...refusals import warn
from ...storage.fields import check_fields, short
from .config import FIELDS, FILE, LACKING, NAMES, UNTYPED, WITHOUT_EFFECT, GenerationConfig, typed, unknown_option

DEFAULTS: dict[str, Any] = {  # Transformers'; all else says nothing
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "use_cache": True,
}
TOP_K, NEW_TOKENS = 50, 20  # where nothing is said, as there
ARGUMENTS = (
    *("inputs", "input_ids", "attention_mask", "generation_config", "logits_processor", "stopping_criteria"),
    *("prefix_allowed_tokens_fn", "streamer", "tokenizer", "past_key_values", "seed"),
)
PASSED_OVER = ("token_type_ids", "synced_gpus", "trust_remote_code", *WITHOUT_EFFECT)
NOT_HERE = {
    "assistant_model": "tokens are not guessed by a second model",
    "assistant_tokenizer": "tokens are not guessed by a second model",
    "negative_prompt_ids": "there is no guidance away from a second prompt",
    "negative_prompt_attention_mask": "there is no guidance away from a second prompt",
    "custom_generate": "there is one loop; model.stream(...) gives its tokens one by one",
    "inputs_embeds": "a text is given by its ids: input_ids",
    "position_ids": "positions follow from attention_mask",
}


class Options(SimpleNamespace):
    """Every field of GenerationConfig as it holds for one call, and `said`: the names of those that the call gives."""

    said: set[str]

    def where(self, name: str) -> str:
        """What to say before an error about an option that comes from the model's file."""
        return "" if name in self.said else f"{FILE}: "

    def made(self, name: str, make: Callable[..., Any], *arguments: Any) -> Any:
        """make(...) for an option; an error of it says where that is from."""
        try:
            return make(*arguments)
        except ValueError as error:
            raise ValueError(f"{self.where(name)}{error}") from None


def options_of(model: Any, config: GenerationConfig | None, given: Mapping[str, Any]) -> Options:
    """What is given goes before what `config` says, that before the model's own, that before the defaults.

    None counts as given. TypeError for an option that there is not; ValueError for one that is not supported, is not
    of its type, or does not go with the others.
    """
    own, values = model.generation_config, _known(given)
    said = {} if config is None else _said(config)
    try:
        own.validate()
    except ValueError as error:
        raise ValueError(f"{FILE}: {error}") from None
    _warn_of_lacking(own)
    merged = {name: getattr(own, name) for name in (*FIELDS, *UNTYPED)}
    merged["top_k"] = TOP_K if merged["top_k"] is None else merged["top_k"]
    merged |= said | values
    merged |= {name: value for name, value in DEFAULTS.items() if merged[name] is None}
    options = Options(**merged, said={*said, *values})
    _check_together(options)
    return options


def _known(given):
    """Those that count, as Python's own numbers and lists."""
    for name, value in given.items():
        if name not in (*NAMES, *PASSED_OVER, *NOT_HERE):
            raise TypeError(unknown_option(name, (*NAMES, *ARGUMENTS), "generate has no option"))
        if value is not None and name in NOT_HERE:
            raise ValueError(f"{name} is not supported: {NOT_HERE[name]}")
    _refuse_lacking(given)
    counts = {name: value for name, value in given.items() if name in FIELDS or name in UNTYPED}
    values = typed(counts)
    check_fields(values, FIELDS)
    return {**counts, **values}


def _said(config):
    """What a config that is given says."""
    expect(config, GenerationConfig, "generation_config", "a GenerationConfig(...)")
    config.validate()
    _refuse_lacking(vars(config))
    return {name: value for name, value in config.to_diff_dict().items() if name in FIELDS or name in UNTYPED}


def _refuse_lacking(fields):
    for name in LACKING:
        if _asks(fields, name):
            raise ValueError(f"{name}={short(fields[name])} is not supported: leave it out")


def _warn_of_lacking(own):
    lacking = [f"{name} = {short(getattr(own, name))}" for name in LACKING if _asks(vars(own), name)]
    if lacking:
        warn(f"{FILE}: {', '.join(lacking)} is not supported and does nothing")


def _asks(fields, name):
    return fields.get(name) is not None and fields[name] not in LACKING[name]


def _check_together(options):
    """ValueError for options that do not go together."""
    beams, results = options.num_beams, options.num_return_sequences
    where = options.where("num_return_sequences")
    if beams == 1 and results > 1 and not options.do_sample:
        raise ValueError(
            f"{where}num_return_sequences={results}: the most likely tokens are one text; use do_sample=True, or "
            "num_beams"
        )
    if 1 < beams < results:
        raise ValueError(
            f"{where}num_return_sequences={results} is more than the num_beams={beams} that are looked for"
        )
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = getattr(options, name)
        forced = set(forced) if isinstance(forced, list) else {forced} - {None}
        if forced and forced <= set(options.suppress_tokens or ()):
            raise ValueError(f"{name}={getattr(options, name)} is forced, and suppress_tokens forbids it")
    for name in ("output_scores", "output_logits"):
        if getattr(options, name) and not options.return_dict_in_generate:
            warn(f"{name}=True does nothing without return_dict_in_generate=True")


def set_lengths(options: Options, length: int, window: int) -> None:
    """Let max_length and min_length say how long the text becomes, the prompt's `length` included.

    Where nothing is said, 20 more tokens, and at most the model's context, `window`: a warning says so. ValueError if
    the text is as long already.
    """
    limit = f"{options.where('max_length')}max_length is {options.max_length}"
    if options.max_new_tokens is not None:
        if {"max_new_tokens", "max_length"} <= options.said and options.max_length is not None:
            warn("max_new_tokens and max_length are both given: max_new_tokens counts")
        options.max_length = length + options.max_new_tokens
    elif options.max_length is None:
        options.max_length, limit = min(length + NEW_TOKENS, window), f"the model's context is {window}"
        warn(
            f"neither max_new_tokens nor max_length says how long the text becomes: at most {NEW_TOKENS} new tokens "
            "are written; give max_new_tokens"
        )
    if options.max_new_tokens is None and length >= options.max_length:
        raise ValueError(f"the text has {length} tokens already, and {limit}: give max_new_tokens")
    if options.min_new_tokens is not None:
        options.min_length = length + options.min_new_tokens
    if (options.min_length or 0) > options.max_length:
        name = "min_length" if options.min_new_tokens is None else "min_new_tokens"
        warn(f"{name}={getattr(options, name)} cannot be reached: the text ends at {options.max_length} tokens")
