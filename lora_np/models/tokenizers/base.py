"""What every tokenizer does in the same way, under Transformers' names."""

import abc
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike

from ...autograd.devices import to_numpy
from ...expect import expect_path
from ...extras import require
from ...storage.fields import Between, fits, short
from .batch import BatchEncoding, Encoding, batched, columns_of, kept_as, overlapping
from .options import SIDES, UNLIMITED, check_others, form
from .pairs import SECOND, texts_of
from .special import SpecialTokens, nearest
from .templates import Templates, chosen, listed

SAVING = ("legacy_format", "filename_prefix", "push_to_hub", "save_format")  # options of Transformers
CLEANED = {f" {mark}": mark for mark in (".", "?", "!", ",")} | {" ' ": "'"}
CLEANED |= {f" {end}": end for end in ("n't", "'m", "'s", "'ve", "'re")}
MOST_ID = 2**32 - 1  # what the tokenizers library counts with


class BaseTokenizer(SpecialTokens):
    """Text to token ids and back.

    Attributes: `bos_token`, `eos_token`, `pad_token`, `unk_token` (str or None) and their ids (`bos_token_id`, ...:
    int or None), and so for sep, cls and mask; `chat_template` (Jinja source, or {name: source} if there are several,
    or None); `padding_side` and `truncation_side` ("right" or "left"); `model_max_length` (above 10²⁰: not known).
    """

    padding_side = "right"
    truncation_side = "right"
    model_max_length: int = int(1e30)
    model_input_names = ("input_ids", "attention_mask")
    name_or_path = ""
    is_fast = True
    clean_up_tokenization_spaces = False
    cleans_up = False  # can that be done to the texts of this vocabulary?
    chat_template: Templates = None

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """The tokens of the vocabulary, without added ones."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The rows that an embedding needs: one more than the highest id, added tokens included."""

    @abc.abstractmethod
    def get_vocab(self) -> dict[str, int]:
        """{token: id}, added tokens included."""

    @abc.abstractmethod
    def save_pretrained(self, save_directory: str | PathLike, **others: Any) -> tuple[str, ...]:
        """Write the files from which `AutoTokenizer.from_pretrained(save_directory)` makes this tokenizer again; their
        paths. Transformers' reads them too."""

    @abc.abstractmethod
    def _encode(self, text: str, add_special_tokens: bool, max_length: int | None) -> Encoding:
        """The encoding of a str, at most `max_length` ids unless that is None, added special tokens included."""

    @abc.abstractmethod
    def _encode_pair(
        self, text: str, pair: str, add_special_tokens: bool, max_length: int | None, cut: str
    ) -> Encoding:
        """The encoding of a pair, of which `cut` (`pairs.kept`) is shortened where there are more than `max_length`."""

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

    def _take_settings(self, config: Mapping[str, Any]) -> None:
        """What a tokenizer_config.json says besides special tokens. ValueError for what makes no sense."""
        self.chat_template = config.get("chat_template")
        for name in ("padding_side", "truncation_side"):
            setattr(self, name, config.get(name, "right"))
            if getattr(self, name) not in SIDES:
                raise ValueError(f"{name} must be 'left' or 'right', not {getattr(self, name)!r}")
        length = config.get("model_max_length")
        if length is not None and not fits(length, Annotated[float, Between(1, sys.float_info.max, "")]):
            raise ValueError(f"model_max_length must be a positive number, not {short(length)}")
        self.model_max_length = BaseTokenizer.model_max_length if length is None else int(length)

    def _settings(self) -> dict[str, Any]:
        """The same, for saving; None for what need not be said."""
        length = self.model_max_length if self.model_max_length <= UNLIMITED else None
        sides = {name: getattr(self, name) for name in ("padding_side", "truncation_side")}
        return {**sides, "model_max_length": length, "chat_template": listed(self.chat_template)}

    @property
    def vocab(self) -> dict[str, int]:
        """As `get_vocab()`."""
        return self.get_vocab()

    def __repr__(self) -> str:
        length = self.model_max_length if self.model_max_length <= UNLIMITED else "unknown"
        return (
            f"{type(self).__name__}({self.name_or_path!r}, {len(self):,} tokens, model_max_length={length}, "
            f"padding_side={self.padding_side!r}, special_tokens={self.special_tokens_map})"
        )

    def encode(self, text: str, text_pair: str | None = None, add_special_tokens: bool = True, **options: Any) -> Any:
        """The ids of a text, a list of ints: `input_ids` of what a call returns, with its options."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text, a list of str."""
        tokens: list[str] = self.convert_ids_to_tokens(self.encode(text, pair, add_special_tokens, **options))
        return tokens

    def decode(self, token_ids: ArrayLike, skip_special_tokens: bool = False, **others: Any) -> Any:
        """The text of a row of ids (a list, an array or a Tensor (T,)), a str; of rows (B, T), a list of them.

        Ids behind the vocabulary (models often have more rows than there are tokens) stand for no text. ValueError for
        ids below 0 or from 2³² on.
        """
        check_others(others, ("skip_special_tokens",))
        if several(token_ids):
            return self.batch_decode(token_ids, skip_special_tokens, **others)
        return self._text(token_ids, skip_special_tokens, **others)

    def batch_decode(
        self, sequences: Iterable[ArrayLike] | ArrayLike, skip_special_tokens: bool = False, **others: Any
    ) -> list[str]:
        """The text of each row of ids, a list of str; of one row, a list of one."""
        check_others(others, ("skip_special_tokens",))
        rows = list(_array(sequences))
        rows = rows if several(rows) or not rows else [rows]
        return [self._text(row, skip_special_tokens, **others) for row in rows]

    def _text(self, ids, skip_special_tokens, clean_up_tokenization_spaces=None, **others):
        """The text of a row of ids, cleaned up if that is wanted, or what the tokenizer does."""
        text = self._decode(self._row(ids), skip_special_tokens)
        wanted = clean_up_tokenization_spaces
        cleans = self.cleans_up and (self.clean_up_tokenization_spaces if wanted is None else wanted)
        return clean_up_tokenization(text) if cleans else text

    def decode_stream(
        self, ids: Iterable[int], skip_special_tokens: bool = False, before: ArrayLike = ()
    ) -> Iterator[str]:
        """Yield text while ids arrive (any iterable of ints): the pieces together are `decode(list(ids))`.

        `before`: ids whose text is out already, such as a prompt's. The pieces are then what `ids` add to it, with the
        space that a decoder would drop where a text begins. A piece never ends inside a character: bytes wait until
        their character is whole.
        """
        return self._decode_stream((self._row(int(i))[0] for i in ids), skip_special_tokens, self._row(before))

    def convert_ids_to_tokens(self, ids: ArrayLike, skip_special_tokens: bool = False) -> Any:
        """The token of one id (a str), or of each id of a row (a list); None for an id behind the vocabulary."""
        skipped = set(self.all_special_ids) if skip_special_tokens and np.ndim(ids) else ()
        tokens = [self._token(i) for i in self._row(ids) if i not in skipped]
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
        text: str | Iterable[Any] | None = None,
        text_pair: str | Iterable[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        **others: Any,
    ) -> BatchEncoding:
        """{"input_ids", "attention_mask"} of a text, two lists of ints, or of a list of texts, a list of rows each.

        `text_pair`: a second text for each, behind the first in the same row; or `text` is a list of pairs.
        `padding`: True (to the longest row) or "max_length"; the mask is 0 there. `truncation`: rows keep `max_length`
        tokens (`model_max_length` if that is not given), special ones included; `max_length` alone truncates too. Of a
        pair the longer text is cut first, or one alone: "only_first", "only_second".
        `return_tensors`: "np" for int64 arrays (B, T), B = 1 for a text, "pt" for such Tensors of this package;
        ValueError if rows differ in length and are not padded. `return_offsets_mapping`: also "offset_mapping", (begin,
        end) of each token's characters in the text. `return_special_tokens_mask`: 1 for special tokens. The result is a
        dict whose entries are attributes as well.
        Options of Transformers that mean nothing here are refused by name.
        """
        check_others(others)
        side = padding_side or self.padding_side
        wanted = form(self.model_max_length, padding, truncation, max_length, side, return_tensors, pad_to_multiple_of)
        texts, seconds = texts_of(text, text_pair)
        if seconds is not None:
            both = zip(texts, seconds, strict=True)
            found = [self._encode_pair(*pair, add_special_tokens, wanted.most, wanted.cut) for pair in both]
        elif wanted.cut == SECOND:
            raise ValueError("truncation='only_second' cuts the second text of a pair, and there is no text_pair")
        else:
            found = [self._encode(one, add_special_tokens, wanted.most) for one in texts]
        columns: dict[str, list[Any]] = {"input_ids": [list(encoding.ids) for encoding in found]}
        if return_attention_mask is not False:
            columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
        if return_special_tokens_mask:
            columns["special_tokens_mask"] = [list(encoding.special_tokens_mask) for encoding in found]
        if return_offsets_mapping:
            columns["offset_mapping"] = [list(encoding.offsets) for encoding in found]
        batch = batched(columns, wanted, self._filler())
        if return_length:
            batch["length"] = [len(row) for row in batch["input_ids"]]
        if not isinstance(text, str) or return_tensors:
            return batch
        return BatchEncoding({k: rows[0] if isinstance(rows[0], list) else rows for k, rows in batch.items()})

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """One batch of encodings: a list of what a call returned for a text each, or one dict of lists.

        Filled up are input_ids, attention_mask (made where there is none) and special_tokens_mask; other columns, such
        as labels, stay as they are. Arrays give arrays, Tensors Tensors. Options as in a call.
        """
        columns, one, kind = columns_of(encoded_inputs)
        if return_attention_mask is not False and "attention_mask" not in columns:
            columns["attention_mask"] = [[1] * len(row) for row in columns["input_ids"]]
        tensors = return_tensors or kind
        side = padding_side or self.padding_side
        truncation = False if max_length is None else None
        wanted = form(self.model_max_length, padding, truncation, max_length, side, tensors, pad_to_multiple_of)
        batch = batched(columns, wanted, self._filler())
        return BatchEncoding({name: rows[0] for name, rows in batch.items()}) if one else batch

    def _filler(self) -> int | None:
        """What fills short rows: the mask says that it doesn't count."""
        return self.eos_token_id if self.pad_token_id is None else self.pad_token_id

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """The Jinja source that `apply_chat_template` uses, given these."""
        return chosen(self.chat_template, chat_template, tools)

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
        """A conversation as the model was trained to read it, by `chat_template` (source, or the name of one of the
        tokenizer's) or the tokenizer's own.

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
        template = self.get_chat_template(chat_template, tools)
        require("jinja2", "a chat template", "text")  # Jinja is loaded by those who chat
        from .chat import render

        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise ValueError("return_assistant_tokens_mask=True needs tokenize=True and return_dict=True")
        several = isinstance(conversation, (list, tuple)) and isinstance(next(iter(conversation), None), (list, tuple))
        found = [
            render(
                *(template, messages, add_generation_prompt, tools, documents, self.special_tokens_map, variables),
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
        if return_tensors:
            return kept_as(return_tensors, np.array(masks, np.int64))
        return masks if several else masks[0]

    def _row(self, ids: Any) -> list[int]:
        """One row of ids, checked, as a list of ints."""
        ids = to_numpy(_array(ids))
        if ids.ndim > 2 or (ids.ndim == 2 and len(ids) != 1):
            raise ValueError(f"one row of ids is wanted, not an array of shape {ids.shape}")
        if ids.size and ids.dtype.kind not in "iu":
            raise TypeError(f"token ids are integers, not {ids.dtype}")
        outside = ids[(ids < 0) | (ids > MOST_ID)]
        if outside.size:
            raise ValueError(f"{outside[0]} is no token id: the vocabulary's are 0 to {len(self) - 1}")
        return ids.reshape(-1).tolist()


def checked_directory(directory: Any, others: Mapping[str, Any]) -> Path:
    """The folder that `save_pretrained` writes to. TypeError or ValueError if it is none, or more is wanted."""
    expect_path(directory, "save_directory", "the path of a folder")
    for name, value in others.items():
        if name not in SAVING:
            raise TypeError(f"save_pretrained has no option {name!r}{nearest(name, ['save_directory', *SAVING])}")
        if value:
            raise ValueError(f"{name}={value!r:.60} is not possible here: files are only written to a folder")
    return Path(directory)


def _array(ids: Any) -> Any:
    """A Tensor's array; anything else as it is."""
    return ids.numpy() if hasattr(ids, "numpy") else ids


def several(ids: Any) -> bool:
    """Are these rows of ids, not one row?"""
    if hasattr(ids, "shape"):
        return len(ids.shape) > 1
    return isinstance(ids, Sequence) and len(ids) > 0 and (isinstance(ids[0], Sequence) or bool(np.ndim(ids[0])))


def clean_up_tokenization(text: str) -> str:
    """A text without the spaces that vocabularies of words leave before marks and short forms."""
    for found, instead in CLEANED.items():
        text = text.replace(found, instead)
    return text


def check_text(text: str) -> None:
    """ValueError for half a character, which JSON may hold and no text in UTF-8 does."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the text has half a character (a lone surrogate) at {error.start}: {text!r:.60}") from None
