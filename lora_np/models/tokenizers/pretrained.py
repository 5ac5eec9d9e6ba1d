"""A vocabulary that was learned: the `tokenizers` library does the work."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...storage import is_there, remove, together, write_json, write_text
from .base import BaseTokenizer
from .batch import SIDES

if TYPE_CHECKING:
    import tokenizers

# What a tokenizer_config.json may say of other files or of code; it does not hold for what is saved here.
NOT_SAVED = ("auto_map", "tokenizer_file", "vocab_file", "merges_file", "name_or_path", "extra_special_tokens")


def _token_property(name: str) -> Any:
    """tokenizer.eos_token: read from its id, so that the two always agree. Setting it wants a known token."""

    def get(self: PretrainedTokenizer) -> str | None:
        i = self._special[name]
        return None if i is None else self._token(i)

    def change(self: PretrainedTokenizer, token: str | None) -> None:
        i = None if token is None else self._id(token)
        if token is not None and i is None:
            raise ValueError(f"{name}_token = {token!r} is not in the vocabulary")
        self._special[name] = i

    return property(get, change, doc=f"The {name} token, or None.")


def _id_property(name: str) -> Any:
    """tokenizer.eos_token_id."""

    def get(self: PretrainedTokenizer) -> int | None:
        return self._special[name]

    def change(self: PretrainedTokenizer, i: int | None) -> None:
        if i is not None and self._token(self._row(i)[0]) is None:
            raise ValueError(f"{name}_token_id = {i}: the vocabulary has no token {i}")
        self._special[name] = i

    return property(get, change, doc=f"The id of the {name} token, or None.")


class PretrainedTokenizer(BaseTokenizer):
    """A `tokenizers.Tokenizer` (`backend`) and what a tokenizer_config.json says beside it (`config`, a dict).

    Of `config` count `bos_token`, `eos_token`, `unk_token`, `pad_token` (str, in the vocabulary), `padding_side` and
    `chat_template` (str); the rest is only kept for saving. The backend's own padding and truncation are switched off.
    """

    bos_token, bos_token_id = _token_property("bos"), _id_property("bos")
    eos_token, eos_token_id = _token_property("eos"), _id_property("eos")
    unk_token, unk_token_id = _token_property("unk"), _id_property("unk")
    pad_token, pad_token_id = _token_property("pad"), _id_property("pad")

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend, self._config = backend, dict(config)
        self._vocab_size = 1 + max(self.get_vocab().values(), default=-1)
        self._special: dict[str, int | None] = {}
        self.bos_token, self.eos_token = config.get("bos_token"), config.get("eos_token")
        self.unk_token, self.pad_token = config.get("unk_token"), config.get("pad_token")
        self.padding_side, self.chat_template = config.get("padding_side", "right"), config.get("chat_template")
        if self.padding_side not in SIDES:
            raise ValueError(f"padding_side must be 'left' or 'right', not {self.padding_side!r}")

    @property
    def vocab_size(self) -> int:
        """One more than the highest id, added tokens included (Transformers' `vocab_size` leaves those out)."""
        return self._vocab_size

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of the added tokens that are marked as special."""
        return sorted(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    def get_vocab(self) -> dict[str, int]:
        """{token: id}, added tokens included. Byte-level tokens show a space as "Ġ", a line end as "Ċ"."""
        return self.backend.get_vocab(with_added_tokens=True)

    def save_pretrained(self, directory: str | PathLike) -> None:
        """Write tokenizer.json and tokenizer_config.json, which Transformers' AutoTokenizer reads as well."""
        directory = Path(directory)
        template = directory / "chat_template.jinja"
        with together(directory):
            write_text(directory / "tokenizer.json", self.backend.to_str(pretty=True))
            if self.chat_template and is_there(template):  # it would go before the one in the config
                write_text(template, self.chat_template)
            else:
                remove(template)
            write_json(directory / "tokenizer_config.json", self._saved_config())

    def _saved_config(self):
        """tokenizer_config.json. The class is the one that takes tokenizer.json as it is: the classes of single models
        build their own splitting rules, and so tokenise otherwise than a file that has different ones."""
        added = self.backend.get_added_tokens_decoder()
        named = {f"{name}_token": getattr(self, f"{name}_token") for name in self._special}
        changes = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {str(i): _added_token_fields(added[i]) for i in sorted(added)},
            "additional_special_tokens": [
                added[i].content for i in self.all_special_ids if added[i].content not in named.values()
            ],
            "clean_up_tokenization_spaces": False,
            "padding_side": self.padding_side,
            "chat_template": self.chat_template,
            **named,
        }
        config = {**{k: v for k, v in self._config.items() if k not in NOT_SAVED}, **changes}
        return {key: value for key, value in config.items() if value is not None}

    def _encode(self, text, add_special_tokens, max_length):
        encoding = self.backend.encode(text, add_special_tokens=add_special_tokens)
        if max_length is None or len(encoding.ids) <= max_length:
            return encoding
        around = self.backend.num_special_tokens_to_add(is_pair=False) if add_special_tokens else 0
        if around >= max_length:
            raise ValueError(f"max_length={max_length} leaves no room for text beside {around} special tokens")
        encoding = self.backend.encode(text, add_special_tokens=False)
        encoding.truncate(max_length - around)
        return self.backend.post_process(encoding, add_special_tokens=add_special_tokens)

    def encode_continuation(self, text: str) -> list[int]:
        """The ids of a text that stands behind another one: no special tokens, and no space of the tokenizer's own."""
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

    def _id(self, token):
        return self.backend.token_to_id(token)


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
