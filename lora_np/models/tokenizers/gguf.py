"""The tokenizer that a GGUF file carries in its metadata."""

import math
import numbers
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from .load import byte_level_bpe
from .pretrained import PretrainedTokenizer, surround
from .sentencepiece import merges_by_score, scored_bpe

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # token types: ordinary, special, and added ones that are text
SPECIAL_TOKENS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # ours: GGUF's
SCORED_IDS = {"unknown": 0, "bos": 1, "eos": 2}  # of a SentencePiece vocabulary, where the file does not say


class Rule(NamedTuple):
    """How a text is split before the merges. Pieces are merged each on its own, so this decides the result."""

    regex: str | None = None  # in the place of GPT-2's own
    single_digits: bool = False  # every digit is a piece
    whole_pieces: bool = False  # a piece that is a token is not merged at all
    compose: bool = False  # Unicode's composed form (NFC) first
    adds_bos: bool = False  # where the file does not say


# Llama 3 takes up to three digits at once, Qwen 2 each alone.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {
    "default": Rule(),
    "gpt-2": Rule(),
    "smollm": Rule(single_digits=True),
    "llama-bpe": Rule(_WORDS + r"\p{N}{1,3}" + _SIGNS, whole_pieces=True, adds_bos=True),
    "qwen2": Rule(_WORDS + r"\p{N}" + _SIGNS, compose=True),
}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> PretrainedTokenizer:
    """The tokenizer that a GGUF file's key-values (a dict, arrays as lists) describe.

    `tokenizer.ggml.model` is "gpt2" for a byte-level BPE, of which `tokenizer.ggml.pre` names the splitting rule, one
    of `RULES` (without a name, there is a warning); or "llama" for SentencePiece's, which the scores describe.
    ValueError, with the key, for anything that is missing, of the wrong type or contradictory, and for models and rules
    that are not known here.
    """
    model = _value(metadata, "model", str)
    if model not in ("gpt2", "llama"):
        raise ValueError(
            f"tokenizer.ggml.model is {model!r}; known here are 'gpt2' (byte-level BPE) and 'llama' (SentencePiece)"
        )
    make, usual = (_scored_backend, SCORED_IDS) if model == "llama" else (_byte_level_backend, {})
    tokens = _list(metadata, "tokens", str)
    backend, adds_bos = make(metadata, tokens)
    config = _special_tokens(metadata, tokens, usual)
    _add_tokens(backend, tokens, _types(metadata, len(tokens)), set(config.values()))
    bos, eos = config["bos_token"], config["eos_token"]
    adds_bos = _value(metadata, "add_bos_token", bool, adds_bos)
    surround(backend, bos if adds_bos else None, eos if _value(metadata, "add_eos_token", bool, False) else None)
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        raise ValueError(f"tokenizer.chat_template should be a text, not {type(template).__name__}")
    return PretrainedTokenizer(backend, {**config, "chat_template": template})


def _byte_level_backend(metadata, tokens):
    """(the backend, does a BOS stand before texts where the file does not say?)"""
    rule = _rule(_value(metadata, "pre", str, None))
    backend = byte_level_bpe(_vocabulary(tokens), _merges(metadata), ignore_merges=rule.whole_pieces)
    _set_rule(backend, rule)
    return backend, rule.adds_bos


def _scored_backend(metadata, tokens):
    """The same of SentencePiece's kind."""
    vocabulary, config = _vocabulary(tokens), _special_tokens(metadata, tokens, SCORED_IDS)
    scores = _list(metadata, "scores", numbers.Real)
    if len(scores) != len(tokens):
        raise ValueError(f"tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens")
    if not all(map(math.isfinite, scores)):
        raise ValueError("tokenizer.ggml.scores has entries that are not finite")
    types = _types(metadata, len(tokens))
    left_out = {token for token, kind in zip(tokens, types, strict=True) if kind != NORMAL}
    merges = merges_by_score(vocabulary, scores, left_out.union(config.values()))
    prefix = _value(metadata, "add_space_prefix", bool, True)
    return scored_bpe(vocabulary, merges, config["unk_token"], prefix), True


def _rule(name):
    if name is None:
        warnings.warn(
            "the file does not say how texts are split (tokenizer.ggml.pre): they are split as GPT-2's, which gives "
            "other tokens than those of a model that was trained otherwise",
            stacklevel=4,
        )
        return RULES["default"]
    if name not in RULES:
        raise ValueError(f"tokenizer.ggml.pre is {name!r}; the rules known here are {', '.join(map(repr, RULES))}")
    return RULES[name]


def _set_rule(backend, rule):
    """Have the backend split texts by `rule`."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.regex is None)]
    if rule.regex is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(rule.regex), behavior="isolated"))
    if rule.single_digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if rule.compose:
        backend.normalizer = normalizers.NFC()


def _vocabulary(tokens):
    """{token: its id}."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        double = next(token for i, token in enumerate(tokens) if vocabulary[token] != i)
        raise ValueError(f"tokenizer.ggml.tokens has {double!r} more than once")
    return vocabulary


def _merges(metadata):
    """The pairs of tokenizer.ggml.merges, which are written with one space between the two."""
    pairs = [tuple(merge.split(" ")) for merge in _list(metadata, "merges", str)]
    if bad := [pair for pair in pairs if len(pair) != 2]:
        raise ValueError(f"tokenizer.ggml.merges has {' '.join(bad[0])!r}; each should be two tokens")
    return pairs


def _types(metadata, count):
    """The type of each token; all are ordinary ones (1) if the file does not say."""
    if "tokenizer.ggml.token_type" not in metadata:
        return [1] * count
    types = _list(metadata, "token_type", numbers.Integral)
    if len(types) != count:
        raise ValueError(f"tokenizer.ggml.token_type has {len(types)} entries for {count} tokens")
    return types


def _special_tokens(metadata, tokens, usual):
    """{"bos_token": token or None, ...}. usual: {GGUF's name: id} where the file does not say."""
    return {f"{ours}_token": _special(metadata, key, tokens, usual.get(key)) for ours, key in SPECIAL_TOKENS.items()}


def _special(metadata, key, tokens, usual):
    """The token of e.g. tokenizer.ggml.bos_token_id, or None. usual: its id where the file does not say."""
    usual = usual if usual is not None and usual < len(tokens) else None
    i = _value(metadata, f"{key}_token_id", numbers.Integral, usual)
    if i is not None and not 0 <= i < len(tokens):
        raise ValueError(f"tokenizer.ggml.{key}_token_id is {i}, but there are {len(tokens)} tokens")
    return None if i is None else tokens[i]


def _add_tokens(backend, tokens, types, named):
    """Mark the tokens that are found whole in a text, before it is split."""
    from tokenizers import AddedToken

    pairs = [(token, kind == CONTROL or token in named, kind) for token, kind in zip(tokens, types, strict=True)]
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=special)
            for token, special, kind in pairs
            if special or kind == USER_DEFINED
        ]
    )


_REQUIRED = object()


def _value(metadata, key, kind, default=_REQUIRED):
    """metadata["tokenizer.ggml." + key], checked. A bool is not taken for a number."""
    key = f"tokenizer.ggml.{key}"
    if key not in metadata:
        if default is _REQUIRED:
            raise ValueError(f"the file has no {key}, so no tokenizer can be made of it")
        return default
    _check(key, metadata[key], kind)
    return metadata[key]


def _list(metadata, key, kind):
    values = _value(metadata, key, list)
    wrong = {seen for seen in set(map(type, values)) if not issubclass(seen, kind) or seen is bool}
    for value in values if wrong else ():
        _check(f"an entry of tokenizer.ggml.{key}", value, kind)
    return values


def _check(name, value, kind):
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = {str: "a text", list: "a list", bool: "true or false", numbers.Real: "a number"}
        wanted = wanted.get(kind, "a whole number")
        raise ValueError(f"{name} should be {wanted}, not {type(value).__name__}")
