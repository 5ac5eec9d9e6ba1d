"""The smallest tokenizer there is."""

import codecs
from os import PathLike
from pathlib import Path

from ...storage import write_json
from .base import BaseTokenizer


class ByteTokenizer(BaseTokenizer):
    """One token per byte of UTF-8: ids 0 to 255. Every text has exactly one encoding, and none is unknown.

    Byte 0, which text does not use, stands between documents (`eos_token_id`) and fills short rows.
    """

    vocab_size = 256
    bos_token = bos_token_id = unk_token = unk_token_id = None
    eos_token, eos_token_id = "\0", 0
    pad_token, pad_token_id = "\0", 0

    @property
    def all_special_ids(self) -> list[int]:
        """Byte 0."""
        return [self.eos_token_id]

    def get_vocab(self) -> dict[str, int]:
        """{token: id}: the byte i is written as the character i of Latin-1."""
        return {chr(i): i for i in range(self.vocab_size)}

    def save_pretrained(self, directory: str | PathLike) -> None:
        """Write tokenizer_config.json, by which `AutoTokenizer` finds this class again."""
        config = {"tokenizer_class": "ByteTokenizer", "chat_template": self.chat_template}
        write_json(Path(directory) / "tokenizer_config.json", {k: v for k, v in config.items() if v is not None})

    def encode_continuation(self, text: str) -> list[int]:
        """The bytes of the text: they are the same wherever it stands."""
        return self.encode(text)

    def _encode(self, text, add_special_tokens, max_length):
        return _Bytes(text, max_length)

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
        return i < self.vocab_size and not (skip_special_tokens and i == self.eos_token_id)

    def _token(self, i):
        return chr(i) if i < self.vocab_size else None

    def _id(self, token):
        return ord(token) if len(token) == 1 and ord(token) < self.vocab_size else None


class _Bytes:
    """A text's encoding, at most `most` bytes of it."""

    def __init__(self, text, most):
        self.text, self.ids = text, list(text.encode("utf-8")[:most])

    @property
    def offsets(self):
        """For each byte, (begin, end) of its character."""
        return [(i, i + 1) for i, letter in enumerate(self.text) for _ in letter.encode("utf-8")][: len(self.ids)]
