"""What every tokenizer does in the same way, under Transformers' names."""

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...autograd.devices import to_numpy
from ...extras import require

SIDES = ("left", "right")
PADDINGS = (False, True, "longest", "max_length")


class BaseTokenizer(abc.ABC):
    """Text to token ids and back.

    Attributes: `bos_token`, `eos_token`, `pad_token`, `unk_token` (str or None) and their ids (`bos_token_id`, ...:
    int or None); `all_special_ids`, the ids that `decode(..., skip_special_tokens=True)` leaves out; `chat_template`
    (Jinja source or None); `padding_side` ("right" or "left").
    """

    padding_side = "right"
    chat_template: str | None = None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """The rows that an embedding needs: one more than the highest id, added tokens included."""

    @property
    @abc.abstractmethod
    def all_special_ids(self) -> list[int]:
        """The ids of tokens that stand for no text, in increasing order."""

    @abc.abstractmethod
    def get_vocab(self) -> dict[str, int]:
        """{token: id}."""

    @abc.abstractmethod
    def save_pretrained(self, directory: str | PathLike) -> None:
        """Write the files from which `AutoTokenizer.from_pretrained(directory)` makes this tokenizer again."""

    @abc.abstractmethod
    def _encode(self, text: str, add_special_tokens: bool, max_length: int | None) -> list[int]:
        """The ids of a str, at most `max_length` of them unless that is None, added special tokens included."""

    @abc.abstractmethod
    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """The text of a list of ids, each of which is in the vocabulary."""

    @abc.abstractmethod
    def _decode_stream(self, ids: Iterator[int], skip_special_tokens: bool) -> Iterator[str]:
        """Yield the text of an iterator of ids, each of which is in the vocabulary, in whole characters."""

    @abc.abstractmethod
    def _token(self, i: int) -> str:
        """The token whose id is `i`."""

    @abc.abstractmethod
    def _id(self, token: str) -> int | None:
        """The id of a token, or None if the vocabulary has no such token."""

    def __len__(self) -> int:
        """As `vocab_size`."""
        return self.vocab_size

    def encode(
        self, text: str, add_special_tokens: bool = True, truncation: bool = False, max_length: int | None = None
    ) -> list[int]:
        """The ids of a text, a list of ints.

        `add_special_tokens`: also those that the model expects around a text (such as a beginning of sequence).
        `truncation`: keep the first `max_length` tokens, those special ones counted.
        """
        if not isinstance(text, str):
            raise TypeError(f"a text must be a str, not {type(text).__name__}")
        _check_lengths(False, truncation, max_length)
        return self._encode(text, add_special_tokens, max_length if truncation else None)

    def decode(self, ids: ArrayLike, skip_special_tokens: bool = False) -> str:
        """The text of one row of ids: a list, or an array (T,) or (1, T).

        ValueError for several rows (see `batch_decode`) and for ids outside of the vocabulary.
        """
        return self._decode(self._row(ids), skip_special_tokens)

    def batch_decode(self, rows: Iterable[ArrayLike], skip_special_tokens: bool = False) -> list[str]:
        """The text of each row of ids, a list of str."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def decode_stream(self, ids: Iterable[int], skip_special_tokens: bool = False) -> Iterator[str]:
        """Yield text while ids arrive (any iterable of ints): the pieces together are `decode(list(ids))`.

        A piece never ends inside a character: bytes wait until their character is whole.
        """
        return self._decode_stream((self._row(int(i))[0] for i in ids), skip_special_tokens)

    def convert_ids_to_tokens(self, ids: ArrayLike) -> str | list[str]:
        """The token of one id (a str), or of each id of a row (a list)."""
        tokens = [self._token(i) for i in self._row(ids)]
        return tokens if np.ndim(ids) else tokens[0]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of one token (an int), or of each token of a list.

        A token that is not in the vocabulary has the id of `unk_token`; ValueError if there is no such token.
        """
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        found = self._id(tokens)
        if found is None and self.unk_token_id is None:
            raise ValueError(f"the vocabulary has no token {tokens!r}, and no unk_token to stand for it")
        return self.unk_token_id if found is None else found

    def __call__(
        self,
        text: str | Iterable[str],
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        padding_side: str | None = None,
        return_tensors: str = "np",
    ) -> dict[str, np.ndarray]:
        """{"input_ids", "attention_mask"}, int64 arrays (B, T), of a text (B = 1) or of a list of texts.

        `padding`: True (to the longest row) or "max_length"; the mask is 0 there. `truncation`: rows keep their first
        `max_length` tokens. ValueError if rows differ in length and are not padded.
        """
        if return_tensors != "np":
            raise ValueError(f"return_tensors={return_tensors!r}: this package has NumPy arrays only ('np')")
        _check_lengths(padding, truncation, max_length)
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("there is no text: an empty list makes no batch")
        rows = [self.encode(t, add_special_tokens, truncation, max_length if truncation else None) for t in texts]
        return self._batch(rows, padding, max_length, padding_side or self.padding_side)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> dict[str, np.ndarray] | str:
        """A conversation as the model was trained to read it, by `chat_template`.

        `messages`: a list of {"role": ..., "content": ...}. `add_generation_prompt`: end with the opening of the
        model's answer. `tools`: JSON schemas (dicts). `variables`: whatever else the template reads.
        Returns what a call of the tokenizer gives for one text, or the str with tokenize=False. The special tokens are
        in the template itself; none are added. ValueError if there is no template, or it refuses the messages.
        """
        if self.chat_template is None:
            raise ValueError("this tokenizer has no chat template: its model is not trained on chats")
        require("jinja2", "a chat template", "text")  # Jinja is loaded by those who chat
        from .chat import render

        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        special = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        text = render(self.chat_template, messages, add_generation_prompt, tools, {**special, **variables})
        return self(text, add_special_tokens=False) if tokenize else text

    def _row(self, ids: Any) -> list[int]:
        """One row of ids, checked, as a list of ints."""
        ids = to_numpy(ids)
        if ids.ndim > 2 or (ids.ndim == 2 and len(ids) != 1):
            raise ValueError(f"one row of ids is wanted, not an array of shape {ids.shape} (see batch_decode)")
        if ids.size and ids.dtype.kind not in "iu":
            raise TypeError(f"token ids are integers, not {ids.dtype}")
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise ValueError(f"there is no token {outside[0]}: the {self.vocab_size} ids start at 0")
        return ids.reshape(-1).tolist()

    def _batch(self, rows, padding, max_length, side):
        """Rows of ids as arrays, with their mask."""
        if side not in SIDES:
            raise ValueError(f"padding_side must be 'left' or 'right', not {side!r}")
        lengths = [len(row) for row in rows]
        length = max(*lengths, max_length if padding == "max_length" else 0)
        if min(lengths) < length and not padding:
            raise ValueError(
                f"the texts give rows of {min(lengths)} to {length} tokens, which make no array: pass padding=True"
            )
        ids = np.full((len(rows), length), self._padding_id() if min(lengths) < length else 0, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            where = slice(len(row)) if side == "right" else slice(length - len(row), length)
            ids[i, where], mask[i, where] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    def _padding_id(self):
        """What fills short rows. The mask says that it does not count, so the end of text serves as well."""
        for i in (self.pad_token_id, self.eos_token_id):
            if i is not None:
                return i
        raise ValueError("this tokenizer has neither a pad_token nor an eos_token: set tokenizer.pad_token to a token")


def _check_lengths(padding, truncation, max_length):
    """Refuse options that contradict each other or would do nothing."""
    if padding not in PADDINGS:
        raise ValueError(f"padding must be True, False, 'longest' or 'max_length', not {padding!r}")
    if not isinstance(truncation, bool):
        raise ValueError(f"truncation must be True or False, not {truncation!r}")
    used = truncation or padding == "max_length"
    if used and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1):
        raise ValueError(f"truncation and padding='max_length' need max_length, a positive integer, not {max_length!r}")
    if max_length is not None and not used:
        raise ValueError(f"max_length={max_length} does nothing without truncation=True or padding='max_length'")
