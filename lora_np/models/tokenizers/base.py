"""What every tokenizer does in the same way, under Transformers' names."""

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...autograd.devices import to_numpy
from ...extras import require
from .batch import BatchEncoding, Encoding, Form, check_lengths, overlapping

MOST_ID = 2**32 - 1  # what the tokenizers library counts with


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
    def _encode(self, text: str, add_special_tokens: bool, max_length: int | None) -> Encoding:
        """The encoding of a str, at most `max_length` ids unless that is None, added special tokens included."""

    @abc.abstractmethod
    def encode_continuation(self, text: str) -> list[int]:
        """The ids of a text that stands behind another one: no special tokens, and no space of the tokenizer's own.

        Tokenizers of Llama 2's kind put a space before every text. So behind `encode(prompt)` the ids of a completion
        are these, and all together decode to prompt + completion.
        """

    @abc.abstractmethod
    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """The text of a list of ids."""

    @abc.abstractmethod
    def _decode_stream(self, ids: Iterator[int], skip_special_tokens: bool, before: list[int]) -> Iterator[str]:
        """Yield the text of an iterator of ids that come after those of `before`, in whole characters."""

    @abc.abstractmethod
    def _token(self, i: int) -> str | None:
        """The token whose id is `i`, or None if there is none."""

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
        check_lengths(False, truncation, max_length)
        return list(self._encode(_checked(text), add_special_tokens, max_length if truncation else None).ids)

    def decode(self, ids: ArrayLike, skip_special_tokens: bool = False) -> str:
        """The text of one row of ids: a list, or an array (T,) or (1, T).

        Ids behind the vocabulary (models often have more rows than there are tokens) stand for no text. ValueError for
        several rows (see `batch_decode`) and for ids below 0 or from 2³² on.
        """
        return self._decode(self._row(ids), skip_special_tokens)

    def batch_decode(self, rows: Iterable[ArrayLike], skip_special_tokens: bool = False) -> list[str]:
        """The text of each row of ids, a list of str."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def decode_stream(
        self, ids: Iterable[int], skip_special_tokens: bool = False, before: ArrayLike = ()
    ) -> Iterator[str]:
        """Yield text while ids arrive (any iterable of ints): the pieces together are `decode(list(ids))`.

        `before`: ids whose text is out already, such as a prompt's. The pieces are then what `ids` add to it, with the
        space that a decoder would drop where a text begins. A piece never ends inside a character: bytes wait until
        their character is whole.
        """
        return self._decode_stream((self._row(int(i))[0] for i in ids), skip_special_tokens, self._row(before))

    def convert_ids_to_tokens(self, ids: ArrayLike) -> Any:
        """The token of one id (a str), or of each id of a row (a list); None for an id behind the vocabulary."""
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
        return_tensors: str | None = None,
        return_offsets_mapping: bool = False,
    ) -> BatchEncoding:
        """{"input_ids", "attention_mask"} of a text, two lists of ints, or of a list of texts, a list of rows each.

        `padding`: True (to the longest row) or "max_length"; the mask is 0 there. `truncation`: rows keep their first
        `max_length` tokens. `return_tensors="np"`: int64 arrays (B, T), B = 1 for a text; ValueError if rows differ in
        length and are not padded. `return_offsets_mapping`: also "offset_mapping", (begin, end) of each token's
        characters in the text. The result is a dict whose entries are attributes as well.
        """
        form = Form(padding, max_length, padding_side or self.padding_side, return_tensors)
        form.check(truncation)
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("there is no text: an empty list makes no batch")
        found = [self._encode(_checked(t), add_special_tokens, max_length if truncation else None) for t in texts]
        columns: dict[str, list[list[Any]]] = {"input_ids": [list(encoding.ids) for encoding in found]}
        columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
        if return_offsets_mapping:
            columns["offset_mapping"] = [list(encoding.offsets) for encoding in found]
        pad_id = self.eos_token_id if self.pad_token_id is None else self.pad_token_id  # the mask says it doesn't count
        batch = form.batch(columns, pad_id)
        one = isinstance(text, str) and not return_tensors
        return BatchEncoding({name: rows[0] for name, rows in batch.items()}) if one else batch

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> Any:
        """A conversation as the model was trained to read it, by `chat_template` or the tokenizer's own.

        `conversation`: a list of {"role": ..., "content": ...}, or a list of such lists. `add_generation_prompt`: end
        with the opening of the model's answer. `continue_final_message`: end inside the last message (its "content", or
        the field that is named), which the model then continues. `tools`: JSON schemas (dicts). `documents`: dicts.
        `variables`: what else the template reads, and nothing that it does not.

        Returns what a call of the tokenizer returns for the text, with `padding`, `truncation`, `max_length`,
        `return_tensors` and `tokenizer_kwargs` as there; with return_dict=False the ids alone; with tokenize=False the
        text. `return_assistant_tokens_mask`: also "assistant_masks", 1 for the tokens inside of the template's
        {% generation %}. The special tokens are in the template itself; none are added. ValueError if there is no
        template, or it refuses the messages; TypeError for a keyword that neither this method nor the template knows.
        """
        template = self.chat_template if chat_template is None else chat_template
        if template is None:
            raise ValueError("this tokenizer has no chat template: its model is not trained on chats")
        require("jinja2", "a chat template", "text")  # Jinja is loaded by those who chat
        from .chat import render

        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise ValueError("return_assistant_tokens_mask=True needs tokenize=True and return_dict=True")
        several = isinstance(conversation, (list, tuple)) and isinstance(next(iter(conversation), None), (list, tuple))
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        special = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        found = [
            render(
                *(template, messages, add_generation_prompt, tools, documents, special, variables),
                continued=continue_final_message,
                tracked=return_assistant_tokens_mask,
            )
            for messages in (conversation if several else [conversation])
        ]
        if not tokenize:
            return [chat.text for chat in found] if several else found[0].text
        texts = [chat.text for chat in found] if several else found[0].text
        options = {"padding": padding, "truncation": truncation, "max_length": max_length, **(tokenizer_kwargs or {})}
        encoding = self(texts, add_special_tokens=False, return_tensors=return_tensors, **options)
        if return_assistant_tokens_mask:
            encoding["assistant_masks"] = self._assistant_masks(found, several, return_tensors, options)
        return encoding if return_dict else encoding["input_ids"]

    def _assistant_masks(self, chats, several, return_tensors, options):
        """1 for each token that is in one of a chat's spans, in the form of the ids."""
        masks = []
        texts = self([chat.text for chat in chats], add_special_tokens=False, return_offsets_mapping=True, **options)
        for chat, offsets in zip(chats, texts["offset_mapping"], strict=True):
            masks.append([int(inside) for inside in overlapping(offsets, chat.generated)])
        return np.array(masks, np.int64) if return_tensors else masks if several else masks[0]

    def _row(self, ids: Any) -> list[int]:
        """One row of ids, checked, as a list of ints."""
        ids = to_numpy(ids)
        if ids.ndim > 2 or (ids.ndim == 2 and len(ids) != 1):
            raise ValueError(f"one row of ids is wanted, not an array of shape {ids.shape} (see batch_decode)")
        if ids.size and ids.dtype.kind not in "iu":
            raise TypeError(f"token ids are integers, not {ids.dtype}")
        outside = ids[(ids < 0) | (ids > MOST_ID)]
        if outside.size:
            raise ValueError(f"{outside[0]} is no token id: the vocabulary's are 0 to {self.vocab_size - 1}")
        return ids.reshape(-1).tolist()


def _checked(text):
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, not {type(text).__name__}")
    return text
