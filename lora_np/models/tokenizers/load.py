"""The tokenizer of a model directory, read as Transformers reads it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...extras import require
from ...storage import is_there, one_version, read_json, read_text
from ...storage.fields import TokenId, fits, short
from ...storage.mistaken import instead
from .base import BaseTokenizer
from .byte import ByteTokenizer, tokenizer_json
from .pretrained import PretrainedTokenizer, surround
from .special import NAMES
from .templates import read_templates

if TYPE_CHECKING:
    import tokenizers

NAMED = tuple(f"{name}_token" for name in NAMES)
GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
GPT2_END = "<|endoftext|>"
LARGEST_ID = 2**24  # a hundred times that of the largest vocabularies; the library walks over all ids up to the highest
# Characters of an added token. Longer ones are no tokens, and tokenizers 0.22.0 takes their number squared of time.
LONGEST = 1024
TOO_LONG = re.compile(rf'"content"\s*:\s*"(?:[^"\\]|\\.){{{LONGEST + 1}}}')
# Transformers' classes that pad on the left where no file says, and the special tokens of some that no file has to say.
PAD_LEFT = ("CodeLlamaTokenizer", "CohereTokenizer", "GemmaTokenizer", "LlamaTokenizer")
CLASS_TOKENS = {
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), GPT2_END),
    "GPTNeoXTokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), GPT2_END) | {"pad_token": "<|padding|>"},
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), GPT2_END),
    "GemmaTokenizer": {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad", "mask")},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
# The class of a model_type where no file names one. Of PLAIN, and of Qwen 2, it counts whatever the file names.
MODEL_CLASSES = {
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "GemmaTokenizer"),
}
BYTE_LEVEL = ("GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer")
PLAIN = ("mistral", "olmo2", "phi3")  # tokenizer.json as it is, though files of these say LlamaTokenizer


@one_version
def load_tokenizer(directory: str | PathLike, changes: Mapping[str, Any] | None = None) -> BaseTokenizer:
    """The tokenizer in a directory: a `ByteTokenizer` where that wrote it, else a `PretrainedTokenizer` from
    tokenizer.json, or from GPT-2's older pair vocab.json and merges.txt.

    changes: fields that tokenizer_config.json is to have instead.

    FileNotFoundError if there is none of them; ValueError, with the file's name, for one that cannot be read.
    """
    directory = Path(directory)
    config = {**_read_if_there(directory / "tokenizer_config.json"), **(changes or {})}
    config["chat_template"] = read_templates(directory, config)
    if _is_byte_level(directory, config):
        with _naming(directory):
            return ByteTokenizer.from_config(config)
    backend = _backend(directory, config)
    name = _class(directory, config, backend)
    backend = _spaced(backend, config, name)
    config = _with_special_tokens(directory, config, backend, name)
    with _naming(directory):
        return PretrainedTokenizer(backend, config)


def byte_level_bpe(vocab: Mapping[str, int], merges: Iterable[tuple[str, str]], **options: Any) -> tokenizers.Tokenizer:
    """A byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2) without its splitting rule.

    `vocab`: {token: id}, `merges`: pairs of tokens, best first. ValueError if a merge has an unknown token.
    """
    tokenizers = _library()
    try:
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges, **options))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"vocabulary and merges do not fit: {error}") from None
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def _library():
    """The tokenizers package. Whoever makes a backend asks for it here first."""
    return require("tokenizers", "a pretrained tokenizer", "text")


def _backend(directory, config):
    """The `tokenizers.Tokenizer` of a directory."""
    if is_there(directory / "tokenizer.json"):
        return _read_tokenizer_json(directory / "tokenizer.json")
    if is_there(directory / "vocab.json") and is_there(directory / "merges.txt"):
        return _read_gpt2(directory, config)
    asks = f"names {config['tokenizer_class']!r}" if "tokenizer_class" in config else "does not exist"
    if is_there(directory / "tokenizer_config.json") and "tokenizer_class" not in config:
        asks = "names no tokenizer_class"
    raise FileNotFoundError(
        f"{directory} holds no tokenizer: neither tokenizer.json nor vocab.json with merges.txt is there, and its "
        f"tokenizer_config.json {asks}"
    )


def _read_tokenizer_json(path):
    tokenizers = _library()
    text = ""
    try:
        text = read_text(path)
        if TOO_LONG.search(text):
            raise ValueError(f"an added token has more than {LONGEST} characters")
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more special
        what = instead(text[:99].encode(errors="replace")) or error
        raise ValueError(f"{path} is not a readable tokenizer.json: {what}") from None
    return _checked_ids(path, backend)


def _checked_ids(path, backend):
    """The backend, unless an id is so high that the vocabulary would be mostly holes."""
    token, highest = max(backend.get_vocab().items(), key=lambda item: item[1], default=(None, 0))
    if highest > LARGEST_ID:
        raise ValueError(f"{path}: the token {short(token)} has the id {highest}; at most {LARGEST_ID} is possible")
    return backend


def _read_gpt2(directory, config):
    """vocab.json and merges.txt, with GPT-2's splitting rule."""
    tokenizers = _library()
    if (name := config.get("tokenizer_class", GPT2_CLASSES[0])) not in GPT2_CLASSES:
        raise ValueError(f"{directory} has no tokenizer.json, and vocab.json with merges.txt is not enough for {name}")
    vocab, path = read_json(directory / "vocab.json"), directory / "merges.txt"
    if not all(fits(i, TokenId) for i in vocab.values()):
        raise ValueError(f"{directory / 'vocab.json'} should give every token an id, a number from 0")
    try:
        backend = byte_level_bpe(vocab, _read_merges(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=bool(config.get("add_prefix_space", False))
    )
    return _checked_ids(directory / "vocab.json", backend)


def _read_merges(path):
    """The pairs in a merges.txt. Its first line says "#version"; "#" alone can begin a pair."""
    lines = read_text(path).split("\n")
    pairs = [tuple(line.rstrip("\r").split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    if bad := [pair for pair in pairs if len(pair) != 2]:
        raise ValueError(f"a merge should be two tokens, not {' '.join(bad[0])!r}")
    return pairs


def _with_special_tokens(directory, config, backend, name):
    """`config` with its special tokens as str, each of them known to the backend. name: of Transformers' class"""
    if "added_tokens_decoder" not in config:  # older directories have them in files of their own
        config = {**config, **_read_if_there(directory / "special_tokens_map.json")}
    if name in PAD_LEFT:
        config = {"padding_side": "left", **config}
    if padding := backend.padding:
        config = {"pad_token": padding["pad_token"], "padding_side": padding["direction"], **config}
    if not is_there(directory / "tokenizer.json"):
        name = GPT2_CLASSES[0]
    tokens = CLASS_TOKENS.get(name, {})
    known = {key: token for key, token in tokens.items() if backend.token_to_id(token) is not None}
    config = {**(tokens if name == GPT2_CLASSES[0] else known), **config}
    try:
        config = _add_tokens(backend, config, _read_if_there(directory / "added_tokens.json"))
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"the special tokens in {directory} cannot be read (from tokenizer_config.json, special_tokens_map.json "
            f"or added_tokens.json): {error}"
        ) from None
    if not is_there(directory / "tokenizer.json"):  # that file has a rule of its own
        bos, eos = (config.get(f"{name}_token") if config.get(f"add_{name}_token") else None for name in ("bos", "eos"))
        surround(backend, bos, eos)
    return config


def _spaced(backend, config, name):
    """The backend with the space before a text that Transformers' class, `name`, puts there: by the config alone."""
    if name == "LlamaTokenizer":
        return _as_llama(backend, config)
    if name in BYTE_LEVEL and _in_bytes(backend):
        whole = json.loads(backend.to_str())
        wanted = bool(config.get("add_prefix_space"))
        for step in [whole["pre_tokenizer"], *((whole["pre_tokenizer"] or {}).get("pretokenizers") or [])]:
            if step and step["type"] == "ByteLevel" and step["add_prefix_space"] is not wanted:
                step["add_prefix_space"] = wanted
                backend = type(backend).from_str(json.dumps(whole))
    return backend


def _in_bytes(backend):
    return type(backend.decoder).__name__ == "ByteLevel"


def _as_llama(backend, config):
    """The backend with the spaces of Transformers' LlamaTokenizer, whatever its file says.

    It puts one before a text; with `legacy` also behind each special token; none with add_prefix_space = False.
    """
    from tokenizers import decoders, pre_tokenizers

    if type(backend.model).__name__ != "BPE":
        return backend
    prefix, legacy = config.get("add_prefix_space") is not False, bool(config.get("legacy"))
    scheme = ("always" if legacy else "first") if prefix else "never"
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)] if prefix else spaces)
    return backend


def _class(directory, config, backend):
    """Transformers' class for this tokenizer, by its own word and the model's, or None for tokenizer.json as it is.

    Llama's is not used for a byte-level vocabulary.
    """
    model = str(_read_if_there(directory / "config.json").get("model_type"))
    name = str(config.get("tokenizer_class") or MODEL_CLASSES.get(model)).removesuffix("Fast")
    if model in PLAIN or (name == "LlamaTokenizer" and _in_bytes(backend)):
        return None
    return MODEL_CLASSES[model] if model == "qwen2" else name


def _add_tokens(backend, config, older):
    """Add the tokens of added_tokens_decoder (or of the `older` added_tokens.json), then special ones by name, then
    the nameless ones, each unless the backend has it as an added token; the config with names for those."""
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    extra = list(extra.values()) if isinstance(extra, dict) else list(extra)
    named = {key: config[key] for key in NAMED if config.get(key) is not None}
    special = [_added_token(value, special=True) for value in (*named.values(), *extra)]
    names = {token.content for token in special}
    listed = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
    tokens = [_added_token(value) for _, value in listed]
    for content, _ in sorted(older.items(), key=lambda item: int(item[1])):
        tokens.append(_added_token(content, special=content in names))
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_tokens([token for token in (*tokens, *special) if token.content not in known])
    return {**config, **{key: _added_token(value).content for key, value in named.items()}}


def _added_token(value, special=False):
    """An `AddedToken` from its text or its fields. Special ones are looked for before the text is normalised."""
    from tokenizers import AddedToken

    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str):
        raise ValueError(f"a token should be a text or {{'content': text, ...}}, not {short(value)}")
    if len(content) > LONGEST:
        raise ValueError(f"a token has {len(content)} characters; at most {LONGEST} are possible")
    if not isinstance(value, dict):
        return AddedToken(content, special=special, normalized=not special)
    flags = {name: bool(value[name]) for name in ("single_word", "lstrip", "rstrip", "normalized") if name in value}
    return AddedToken(content, special=special or bool(value.get("special", False)), **flags)


@contextlib.contextmanager
def _naming(directory):
    """Around what can find a mistake in tokenizer_config.json: says the file's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{directory / 'tokenizer_config.json'}: {error}") from None


def _is_byte_level(directory, config):
    """Did a `ByteTokenizer` write this? Its files had no tokenizer.json before."""
    path = directory / "tokenizer.json"
    if config.get("tokenizer_class") == ByteTokenizer.__name__:
        return True
    with contextlib.suppress(ValueError):  # it is no text: whoever reads it says so
        return is_there(path) and read_text(path) == tokenizer_json()
    return False


def _read_if_there(path):
    return read_json(path) if is_there(path) else {}
