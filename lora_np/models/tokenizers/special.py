"""Tokens that stand for no text: their names, and those that are added to a vocabulary."""

import abc
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # in the order in which Transformers lists them
EXTRA = "extra_special_tokens"  # those without a name; older files and programs say additional_special_tokens
NO_MASK_YET = "get_special_tokens_mask wants already_has_special_tokens=True: ids that have their special tokens"


@dataclass(frozen=True)
class AddedToken:
    """A token that is to be added, and how texts are cut at it: Transformers' class of this name.

    single_word      only where it is a word of its own, not a part of one
    lstrip, rstrip   the spaces before it, or behind it, belong to it
    normalized       it is looked for after a text is normalised; None: unless it is special
    special          it stands for no text
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False

    def __str__(self) -> str:
        return self.content


def _token_property(name: str) -> Any:
    """tokenizer.eos_token: read from its id, so that the two always agree. Setting it wants a known token."""

    def get(self: "SpecialTokens") -> str | None:
        i = self._special.get(name)
        return None if i is None else self._name(i)

    def change(self: "SpecialTokens", token: Any) -> None:
        token = getattr(token, "content", token)  # of an AddedToken
        if token is not None and not isinstance(token, str):
            raise TypeError(f"{name}_token should be a token, a text, not {token!r:.60}")
        i = None if token is None else self._id(token)
        if token is not None and i is None:
            raise ValueError(
                f"{name}_token = {token!r} is not in the vocabulary: take a token that is, such as "
                f"tokenizer.eos_token, or add it: tokenizer.add_special_tokens({{'{name}_token': {token!r}}})"
            )
        self._special[name] = i

    return property(get, change, doc=f"The {name} token, or None.")


def _id_property(name: str) -> Any:
    """tokenizer.eos_token_id."""

    def get(self: "SpecialTokens") -> int | None:
        return self._special.get(name)

    def change(self: "SpecialTokens", i: int | None) -> None:
        if i is not None and self._token(self._row(i)[0]) is None:
            raise ValueError(f"{name}_token_id = {i}: the vocabulary has no token {i}")
        self._special[name] = None if i is None else self._row(i)[0]

    return property(get, change, doc=f"The id of the {name} token, or None.")


class SpecialTokens(abc.ABC):
    """The part of a tokenizer that knows its special tokens. It has them as `_special`, {name: id or None}, by `NAMES`,
    and `_extra`, those without a name."""

    _special: dict[str, int | None]
    _extra: list[str]
    bos_token, bos_token_id = _token_property("bos"), _id_property("bos")
    eos_token, eos_token_id = _token_property("eos"), _id_property("eos")
    unk_token, unk_token_id = _token_property("unk"), _id_property("unk")
    sep_token, sep_token_id = _token_property("sep"), _id_property("sep")
    pad_token, pad_token_id = _token_property("pad"), _id_property("pad")
    cls_token, cls_token_id = _token_property("cls"), _id_property("cls")
    mask_token, mask_token_id = _token_property("mask"), _id_property("mask")

    @abc.abstractmethod
    def _token(self, i: int) -> str | None:
        """The token whose id is `i`, or None if there is none."""

    def _name(self, i: int) -> str | None:
        """The same as it was added: a library that puts "▁" before texts may show it with that."""
        return self._token(i)

    @abc.abstractmethod
    def _id(self, token: str) -> int | None:
        """The id of a token, or None if the vocabulary has no such token."""

    @abc.abstractmethod
    def _row(self, ids: Any) -> list[int]:
        """One row of ids, checked, as a list of ints."""

    @abc.abstractmethod
    def _add(self, tokens: list[Any], special: bool) -> int:
        """Add tokens, str or AddedToken, to the vocabulary; how many of them are new."""

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """{"eos_token": token, ...}: the special tokens that have a name."""
        named = {f"{name}_token": getattr(self, f"{name}_token") for name in NAMES}
        return {name: token for name, token in named.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens: those with a name, then the others, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`, in that order."""
        return [i for token in self.all_special_tokens if (i := self._id(token)) is not None]

    @property
    def extra_special_tokens(self) -> list[str]:
        """The special tokens that have no name."""
        return list(self._extra)

    additional_special_tokens = extra_special_tokens  # the name before Transformers 5

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add a token, or a list of them, at the end of the vocabulary; returns how many were not there before.

        Texts are cut at these tokens, which are never split. With `special_tokens` they stand for no text. The model
        needs rows for them: `model.resize_token_embeddings(len(tokenizer))`.
        """
        one = isinstance(new_tokens, str) or not isinstance(new_tokens, Iterable)
        tokens = [new_tokens] if one else list(new_tokens)
        for token in tokens:
            if not isinstance(getattr(token, "content", token), str) or not getattr(token, "content", token):
                raise TypeError(f"new_tokens should be texts that are not empty, one or a list, not {token!r:.60}")
        return self._add(tokens, special_tokens) if tokens else 0

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Add {"pad_token": token, "extra_special_tokens": [token, ...], ...} to the vocabulary and give the tokens
        these names; returns how many were not there before. See `add_tokens`.

        ValueError, and nothing is changed, for a name that there is not. `replace_extra_special_tokens`: the extra ones
        that were there are not listed any more; they stay in the vocabulary.
        """
        if not isinstance(special_tokens_dict, Mapping):
            raise TypeError(
                f"special_tokens_dict should be a dict like {{'pad_token': '[PAD]'}}, not {special_tokens_dict!r:.60}"
            )
        named = {k: v for k, v in special_tokens_dict.items() if k not in (EXTRA, "additional_special_tokens")}
        known = [f"{name}_token" for name in NAMES]
        for key, token in named.items():
            if key not in known:
                raise ValueError(
                    f"{key!r} is no special token's name{nearest(key, [*known, EXTRA])}; there are "
                    f"{', '.join(known)} and {EXTRA}"
                )
            if not isinstance(getattr(token, "content", token), str):
                raise ValueError(f"{key} should be a token, a text, not {token!r:.60}")
        extra = [token for key in special_tokens_dict if key not in named for token in special_tokens_dict[key]]
        count = self.add_tokens([*named.values(), *extra], special_tokens=True)
        for key, token in named.items():
            setattr(self, key, token)
        if extra:
            before = [] if replace_extra_special_tokens else self._extra
            self._extra = list(dict.fromkeys([*before, *(getattr(token, "content", token) for token in extra)]))
        return count

    def get_special_tokens_mask(
        self, token_ids_0: Sequence[int], token_ids_1: None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for each special token of a row of ids, 0 for the others."""
        if token_ids_1 is not None or not already_has_special_tokens:
            raise ValueError(NO_MASK_YET)
        special = set(self.all_special_ids)
        return [int(i in special) for i in self._row(token_ids_0)]


def nearest(name: object, known: Iterable[str]) -> str:
    """ "; did you mean 'this'?" for a name that is close to a known one, else nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
