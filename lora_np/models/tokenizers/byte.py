"""The smallest tokenizer there is."""

import codecs
import functools
import json
from collections.abc import Mapping
from os import PathLike
from typing import Any, Self

from ...storage import together, write_json, write_text
from .base import BaseTokenizer, check_text, checked_directory
from .batch import Joined
from .pairs import kept
from .special import NAMES
from .templates import write_templates


class ByteTokenizer(BaseTokenizer):
    """One token per byte of UTF-8: ids 0 to 255. Every text has exactly one encoding, and none is unknown.

    Byte 0, which text does not use, stands between documents (`eos_token_id`) and fills short rows.
    """

    vocab_size = 256

    def __init__(self) -> None:
        self._special, self._extra = {"eos": 0, "pad": 0}, []

    def __len__(self) -> int:
        return self.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """{token: id}: the byte i is written as the character i of Latin-1."""
        return {chr(i): i for i in range(self.vocab_size)}

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """None stands around a text."""
        return 0

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens."""
        return self._decode([self.convert_tokens_to_ids(token) for token in tokens], skip_special_tokens=False)

    def _add(self, tokens: list[Any], special: bool) -> int:
        """There is nothing to add: TypeError for what is no byte."""
        for token in tokens:
            if self._id(getattr(token, "content", token)) is None:
                raise ValueError(f"{str(token)!r} cannot be added: this tokenizer has one token for each byte, no more")
        return 0

    def save_pretrained(self, save_directory: str | PathLike, **others: Any) -> tuple[str, ...]:
        """Write tokenizer.json and tokenizer_config.json, by which `AutoTokenizer` finds this class again; their paths.

        Transformers' reads them too, as a byte-level vocabulary without merges: the ids are the same for every text.
        """
        directory = checked_directory(save_directory, others)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config = {**config, **self._settings(), **self.special_tokens_map}
        with together(directory):
            write_text(directory / "tokenizer.json", tokenizer_json())
            write_templates(directory, None)
            write_json(directory / "tokenizer_config.json", {k: v for k, v in config.items() if v is not None})
        return tuple(str(directory / name) for name in ("tokenizer_config.json", "tokenizer.json"))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The tokenizer that a tokenizer_config.json describes. ValueError for a field that makes no sense."""
        tokenizer = cls()
        for name in NAMES:
            if f"{name}_token" in config:
                setattr(tokenizer, f"{name}_token", config[f"{name}_token"])
        tokenizer._take_settings(config)
        return tokenizer

    def encode_continuation(self, text: str) -> list[int]:
        """The bytes of the text: they are the same wherever it stands."""
        return self.encode(text)

    def _encode(self, text, add_special_tokens, max_length):
        return _Bytes(text, max_length, self.truncation_side)

    def _encode_pair(self, text, pair, add_special_tokens, max_length, cut):
        both = [_Bytes(one, None, self.truncation_side) for one in (text, pair)]
        if max_length is not None:
            lengths = kept(*(len(one.ids) for one in both), max_length, cut)
            both = [_Bytes(one.text, n, self.truncation_side) for one, n in zip(both, lengths, strict=True)]
        return Joined(*both)

    def _decode(self, ids, skip_special_tokens):
        """Bytes that are not valid UTF-8, such as half a character, show as U+FFFD."""
        return bytes(i for i in ids if self._is_text(i, skip_special_tokens)).decode("utf-8", errors="replace")

    def _decode_stream(self, ids, skip_special_tokens, before):
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(bytes(i for i in before if self._is_text(i, skip_special_tokens)))
        for i in ids:
            if self._is_text(i, skip_special_tokens) and (piece := decoder.decode(bytes([i]))):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    def _is_text(self, i, skip_special_tokens):
        return i < self.vocab_size and not (skip_special_tokens and i == 0)

    def _token(self, i):
        return chr(i) if i < self.vocab_size else None

    def _id(self, token):
        return ord(token) if len(token) == 1 and ord(token) < self.vocab_size else None


class _Bytes:
    """A text's encoding, at most `most` bytes of it, from the end if `side` is "left"."""

    def __init__(self, text: str, most: int | None, side: str) -> None:
        check_text(text)
        whole = text.encode("utf-8")
        most = len(whole) if most is None else most
        self.kept = slice(0, most) if side == "right" else slice(max(0, len(whole) - most), None)
        self.text, self.ids = text, list(whole[self.kept])

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """For each byte, (begin, end) of its character."""
        return [(i, i + 1) for i, letter in enumerate(self.text) for _ in letter.encode("utf-8")][self.kept]

    @property
    def special_tokens_mask(self) -> list[int]:
        """0 for each byte: none was added."""
        return [0] * len(self.ids)


@functools.cache
def tokenizer_json() -> str:
    """This tokenizer in the format of the tokenizers library, by which Transformers reads it.

    A byte-level BPE writes each byte as a character that can be seen, GPT-2's way. Byte 0 is a token that is looked
    for before that, so that it can be special.
    """
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # these stand for themselves
    hidden = iter(range(256, 512))
    letters = [chr(i) if i in seen else chr(next(hidden)) for i in range(256)]
    end = {"id": 0, "content": "\0", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    vocab = {"\0": 0, **{letters[i]: i for i in range(1, 256)}}
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**end, "special": True}],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", **model, **flags, "vocab": vocab, "merges": []},
    }
    return json.dumps(whole, indent=1)
