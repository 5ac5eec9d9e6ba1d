"""A vocabulary that was learned: the `tokenizers` library does the work."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from ...storage import together, write_json, write_text
from .base import BaseTokenizer, check_text, checked_directory
from .batch import Surrounded
from .pairs import kept
from .special import NAMES, AddedToken
from .templates import write_templates

if TYPE_CHECKING:
    import tokenizers

# What a tokenizer_config.json may say of other files or of code; it does not hold for what is saved here.
NOT_SAVED = ("auto_map", "tokenizer_file", "vocab_file", "merges_file", "name_or_path", "extra_special_tokens")


def surround(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Have the backend put the tokens `bos` and `eos` (str, or None for nothing) around every text, each of a pair."""
    from tokenizers import processors

    special = [(token, backend.token_to_id(token)) for token in dict.fromkeys((bos, eos)) if token is not None]
    if special or backend.post_processor is not None:
        first, second = ([token for token in (bos, text, eos) if token is not None] for text in ("$A", "$B"))
        backend.post_processor = processors.TemplateProcessing(
            single=first, pair=[*first, *second], special_tokens=special
        )


class PretrainedTokenizer(BaseTokenizer):
    """A `tokenizers.Tokenizer` (`backend`) and what a tokenizer_config.json says beside it (`config`, a dict).

    Of `config` count `bos_token`, `eos_token`, `pad_token` and the other special tokens (str, in the vocabulary),
    `padding_side`, `truncation_side`, `model_max_length` and `chat_template`; the rest is only kept for saving.
    The backend's own padding and truncation are switched off.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend, self._config = backend, dict(config)
        self._count()
        self._special: dict[str, int | None] = {}
        for name in NAMES:
            setattr(self, f"{name}_token", config.get(f"{name}_token"))
        named = set(self._special.values())
        self._extra = [token.content for i, token in self._marked() if i not in named]
        # A BPE's tokens have the spaces of a text; those stay, as in Transformers.
        self.cleans_up = type(backend.model).__name__ != "BPE"
        self.clean_up_tokenization_spaces = bool(config.get("clean_up_tokenization_spaces"))
        self._take_settings(config)

    def _count(self) -> None:
        """Look at the vocabulary, after it has changed."""
        self._added = {i: token.content for i, token in self.backend.get_added_tokens_decoder().items()}
        self._length = 1 + max(self.get_vocab().values(), default=-1)
        vars(self).pop("_continuing", None)

    def __len__(self) -> int:
        """One more than the highest id, added tokens included."""
        return self._length

    @property
    def vocab_size(self) -> int:
        """The tokens of the vocabulary, without those that were added to it."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """As `backend`, Transformers' name."""
        return self.backend

    @property
    def added_tokens_decoder(self) -> dict[int, tokenizers.AddedToken]:
        """{id: AddedToken}."""
        return self.backend.get_added_tokens_decoder()

    def get_added_vocab(self) -> dict[str, int]:
        """{token: id} of the added tokens, in the order of their ids."""
        return {token.content: i for i, token in sorted(self.added_tokens_decoder.items())}

    added_tokens_encoder = property(get_added_vocab)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens stand around a text."""
        return self.backend.num_special_tokens_to_add(pair)

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text, a list of str: a Unigram's unknown ones and added ones as they stand in the text."""
        if options or not isinstance(text, str):
            return super().tokenize(text, pair, add_special_tokens, **options)
        check_text(text)
        return list(self.backend.encode(text, pair, add_special_tokens=add_special_tokens).tokens)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens."""
        return self.backend.decoder.decode(tokens) if self.backend.decoder is not None else " ".join(tokens)

    def _marked(self) -> list[tuple[int, tokenizers.AddedToken]]:
        """(id, token) of the added tokens that are marked as special, by their ids."""
        return [(i, token) for i, token in sorted(self.added_tokens_decoder.items()) if token.special]

    @property
    def add_bos_token(self) -> bool:
        """Does `bos_token` stand before every text? To set this, or `add_eos_token`, leaves the other end as it is."""
        return self._surrounding()[0] is not None

    @add_bos_token.setter
    def add_bos_token(self, wanted: bool) -> None:
        self._surround("bos", wanted)

    @property
    def add_eos_token(self) -> bool:
        """Does `eos_token` stand behind every text?"""
        return self._surrounding()[1] is not None

    @add_eos_token.setter
    def add_eos_token(self, wanted: bool) -> None:
        self._surround("eos", wanted)

    def _surrounding(self) -> tuple[str | None, str | None]:
        """The named tokens that are put before and behind a text, None where there is none."""
        whole, text = self.backend.encode("a").ids, self.backend.encode("a", add_special_tokens=False).ids
        before = self.bos_token if whole[:1] == [self.bos_token_id] != text[:1] else None
        return before, self.eos_token if whole[-1:] == [self.eos_token_id] != text[-1:] else None

    def _surround(self, name: str, wanted: bool) -> None:
        token = getattr(self, f"{name}_token")
        if wanted and token is None:
            raise ValueError(f"add_{name}_token=True needs a {name}_token, and this tokenizer has none")
        bos, eos = self._surrounding()
        token = token if wanted else None
        surround(self.backend, *((token, eos) if name == "bos" else (bos, token)))
        for old in ("add_bos_token", "add_eos_token"):  # what the files said of it
            self._config.pop(old, None)

    def _add(self, tokens: list[Any], special: bool) -> int:
        tokens = [_for_backend(token, special) for token in tokens]
        count = self.backend.add_special_tokens(tokens) if special else self.backend.add_tokens(tokens)
        self._count()
        return count

    def get_vocab(self) -> dict[str, int]:
        """{token: id}, added tokens included. Byte-level tokens show a space as "Ġ", a line end as "Ċ"."""
        return self.backend.get_vocab(with_added_tokens=True)

    def save_pretrained(self, save_directory: str | PathLike, **others: Any) -> tuple[str, ...]:
        """Write tokenizer.json and tokenizer_config.json, which Transformers' AutoTokenizer reads too; their paths."""
        directory = checked_directory(save_directory, others)
        with together(directory):
            write_text(directory / "tokenizer.json", self.backend.to_str(pretty=True))
            write_templates(directory, self.chat_template)
            write_json(directory / "tokenizer_config.json", self._saved_config())
        return tuple(str(directory / name) for name in ("tokenizer_config.json", "tokenizer.json"))

    def _saved_config(self):
        """tokenizer_config.json. The class is the one that takes tokenizer.json as it is: the classes of single models
        build their own splitting rules, and so tokenise otherwise than a file that has different ones."""
        added = self.backend.get_added_tokens_decoder()
        named = {f"{name}_token": getattr(self, f"{name}_token") for name in NAMES}
        changes = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {str(i): _added_token_fields(added[i]) for i in sorted(added)},
            "additional_special_tokens": [
                token.content for _, token in self._marked() if token.content not in named.values()
            ],
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            **self._settings(),
            **named,
        }
        config = {**{k: v for k, v in self._config.items() if k not in NOT_SAVED}, **changes}
        return {key: value for key, value in config.items() if value is not None}

    def _encode(self, text, add_special_tokens, max_length):
        try:
            encoding = self.backend.encode(text, add_special_tokens=add_special_tokens)
        except TypeError:  # of a str it refuses this alone
            check_text(text)
            raise
        if max_length is None or len(encoding.ids) <= max_length:
            return encoding
        around = self.backend.num_special_tokens_to_add(is_pair=False) if add_special_tokens else 0
        if around >= max_length:
            raise ValueError(f"max_length={max_length} leaves no room for text beside {around} special tokens")
        encoding = self.backend.encode(text, add_special_tokens=False)
        encoding.truncate(max_length - around, direction=self.truncation_side)
        return Surrounded(self.backend.post_process(encoding, add_special_tokens=add_special_tokens), encoding)

    def _encode_pair(self, text, pair, add_special_tokens, max_length, cut):
        check_text(text)
        check_text(pair)
        encoding = self.backend.encode(text, pair, add_special_tokens=add_special_tokens)
        if max_length is None or len(encoding.ids) <= max_length:
            return encoding
        around = self.backend.num_special_tokens_to_add(is_pair=True) if add_special_tokens else 0
        if around >= max_length:
            raise ValueError(f"max_length={max_length} leaves no room for texts beside {around} special tokens")
        both = [self.backend.encode(one, add_special_tokens=False) for one in (text, pair)]
        for one, count in zip(both, kept(*map(len, both), max_length - around, cut), strict=True):
            one.truncate(count, direction=self.truncation_side)
        return Surrounded(self.backend.post_process(*both, add_special_tokens=add_special_tokens), *both)

    def encode_continuation(self, text: str) -> list[int]:
        """The ids of a text that stands behind another one: no special tokens, and no space of the tokenizer's own."""
        check_text(text)
        return list(self._continuing.encode(text, add_special_tokens=False).ids)

    @functools.cached_property
    def _continuing(self):
        """The backend without what puts a space before a text; itself if it puts none."""
        whole = json.loads(self.backend.to_str())
        plain = {
            **whole,
            "normalizer": _unprefixed(whole["normalizer"]),
            "pre_tokenizer": _unprefixed(whole["pre_tokenizer"]),
        }
        return self.backend if plain == whole else type(self.backend).from_str(json.dumps(plain))

    def _decode(self, ids, skip_special_tokens):
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def _decode_stream(self, ids, skip_special_tokens, before):
        """`DecodeStream` of the tokenizers library does the work. Ours is only what it leaves undone.

        At the end, half a character comes out: it would wait for the rest. And in a vocabulary with single bytes for
        rare characters (Llama 2's), bytes that never make a character turn those beside them into U+FFFD as well, which
        it takes for an error. What is out stays then, and the text goes on behind it.
        """
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(ids=before, skip_special_tokens=skip_special_tokens)
        seen, done = list(before), len(before)  # all ids so far, and for how many of them the text is out
        for i in ids:
            seen.append(i)
            try:
                piece = stream.step(self.backend, i)
            except Exception:  # the library raises nothing more special
                piece = self._text_after(seen, done, skip_special_tokens)
                stream = DecodeStream(ids=[i], skip_special_tokens=skip_special_tokens)
            if piece:
                done = len(seen)
                yield piece
        if rest := self._text_after(seen, done, skip_special_tokens):
            yield rest

    def _text_after(self, ids, done, skip_special_tokens):
        """The text of `ids` behind that of the first `done`."""
        return self._decode(ids, skip_special_tokens)[len(self._decode(ids[:done], skip_special_tokens)) :]

    def _token(self, i):
        return self.backend.id_to_token(i)

    def _name(self, i):
        return self._added.get(i) or self._token(i)

    def _id(self, token):
        return self.backend.token_to_id(token)


def _for_backend(token, special):
    """A token as the library adds it."""
    if not isinstance(token, AddedToken):
        return token
    import tokenizers

    kept = vars(token)
    return tokenizers.AddedToken(
        **{**kept, "normalized": not special if kept["normalized"] is None else kept["normalized"]}
    )


def _added_token_fields(token):
    """An `AddedToken` as tokenizer_config.json writes it."""
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}


def _unprefixed(part):
    """A normalizer or pre-tokenizer, as tokenizer.json writes it, without what puts a space before a text.

    In SentencePiece's kind that is a "▁": Prepend, or Metaspace with any prepend_scheme but "never" (older files call
    it add_prefix_space). GPT-2's kind has add_prefix_space.
    """
    if part is None or part["type"] == "Prepend":
        return None
    changes = {"add_prefix_space": False, "prepend_scheme": "never"}
    part = {**part, **{name: value for name, value in changes.items() if name in part}}
    for name in ("normalizers", "pretokenizers"):
        if name in part:
            part[name] = [kept for step in part[name] if (kept := _unprefixed(step)) is not None]
    return part
