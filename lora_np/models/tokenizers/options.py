"""What a tokenizer's call can be told, and what is said to options of Transformers that are not here."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from .pairs import BOTH, FIRST, SECOND
from .special import nearest

SIDES = ("left", "right")
PADDINGS = {True: "longest", "longest": "longest", "max_length": "max_length", False: None, "do_not_pad": None}
TRUNCATIONS = {True: BOTH, BOTH: BOTH, FIRST: FIRST, SECOND: SECOND, False: None, "do_not_truncate": None}
UNLIMITED = 10**20  # a model_max_length above this means that none is known; Transformers writes 10³⁰
# {option of Transformers: (the values that change nothing here, what to say to others)}
OTHERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "text_pair_target": ((None,), "encode the target with a call of its own; its input_ids are the labels"),
    "text_target": ((None,), "encode the target with a call of its own; its input_ids are the labels"),
    "is_split_into_words": ((False, None), "join the words with spaces first: ' '.join(words)"),
    "stride": ((0, None), "nothing overlaps here: cut the ids into pieces yourself"),
    "return_overflowing_tokens": ((False, None), "encode the whole text, and cut the ids into pieces yourself"),
    "return_token_type_ids": ((False, None), "the models here read no token types"),
    "split_special_tokens": ((False, None), "special tokens in a text are always taken for what they are"),
    "sanitize_control_tokens": ((False, None), "special tokens in a text are always taken for what they are"),
    "verbose": ((True, False, None), ""),
    "tokenizer_kwargs": ((None,), "give these options to the call itself"),
    "clean_up_tokenization_spaces": ((True, False, None), ""),  # decode does it
    "use_source_tokenizer": ((True, False, None), ""),
    "spaces_between_special_tokens": ((True, False, None), ""),  # of a decode; no vocabulary here has such spaces
}
CALL: tuple[str, ...] = (
    "text",
    "text_pair",
    "add_special_tokens",
    "padding",
    "truncation",
    "max_length",
    "padding_side",
    "pad_to_multiple_of",
)
CALL += ("return_tensors", "return_attention_mask", "return_special_tokens_mask", "return_offsets_mapping")
CALL += ("return_length",)


def check_others(others: Mapping[str, Any], known: tuple[str, ...] = CALL) -> None:
    """Take options that change nothing; ValueError for others that Transformers has, TypeError for what it has not."""
    for name, value in others.items():
        if name not in OTHERS:
            raise TypeError(f"a tokenizer has no option {name!r}{nearest(name, [*known, *OTHERS])}")
        harmless, why = OTHERS[name]
        if not any(value is one or (type(value) is type(one) and value == one) for one in harmless):
            raise ValueError(f"{name}={value!r:.60} is not possible here: {why}")


class Form(NamedTuple):
    """How rows are returned: the options of a call that concern their length and their kind."""

    padding: str | None  # "longest", "max_length"
    most: int | None  # tokens that a row keeps
    cut: str  # of a pair: "longest_first", "only_first", "only_second"
    width: int | None  # of padding="max_length"
    multiple: int
    side: str
    return_tensors: str | None


def form(
    model_max_length: int,
    padding: Any = False,
    truncation: Any = None,
    max_length: int | None = None,
    padding_side: str = "right",
    return_tensors: Any = None,
    pad_to_multiple_of: int | None = None,
) -> Form:
    """The options, checked, with Transformers' meaning of each.

    `max_length` alone truncates. Without it, the length is the tokenizer's `model_max_length`; a warning says what has
    no effect. ValueError for a value that is none.
    """
    if not isinstance(padding, bool | str) or padding not in PADDINGS:
        raise ValueError(f"padding must be True, False, 'longest' or 'max_length', not {padding!r}")
    if truncation is None:
        truncation = max_length is not None and padding is False
    if not isinstance(truncation, bool | str) or truncation not in TRUNCATIONS:
        raise ValueError(
            f"truncation must be True, False, 'longest_first', 'only_first' or 'only_second', not {truncation!r}"
        )
    if padding_side not in SIDES:
        raise ValueError(f"padding_side must be 'left' or 'right', not {padding_side!r}")
    tensors = _tensors(return_tensors)
    _check_positive(max_length, "max_length")
    _check_positive(pad_to_multiple_of, "pad_to_multiple_of")
    padded, truncated = PADDINGS[padding], TRUNCATIONS[truncation]
    length = _length(max_length, model_max_length, padded == "max_length", truncated is not None)
    width = length if padded == "max_length" else None
    padded = None if padded == "max_length" and width is None else padded
    most = length if truncated else None
    return Form(padded, most, truncated or BOTH, width, pad_to_multiple_of or 1, padding_side, tensors)


def _length(max_length: int | None, model_max_length: int, fills: bool, truncated: bool) -> int | None:
    """The number of tokens that `max_length` or the tokenizer sets, or None."""
    if not fills and not truncated:
        if max_length is not None:
            _warn(f"max_length={max_length} does nothing without truncation=True or padding='max_length'")
        return None
    if max_length is None and model_max_length > UNLIMITED:
        options = " and ".join(["padding='max_length'"] * fills + ["truncation=True"] * truncated)
        _warn(f"{options} without effect: give max_length, or set tokenizer.model_max_length")
        return None
    return model_max_length if max_length is None else max_length


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=5)


def _tensors(return_tensors: Any) -> str | None:
    """None, "np" or "pt", of a name or of Transformers' `TensorType`."""
    kind = getattr(return_tensors, "value", return_tensors)
    if kind not in (None, "np", "pt"):
        raise ValueError(
            f"return_tensors={kind!r}: this package has lists (None), NumPy arrays ('np') and its own tensors ('pt')"
        )
    return kind


def _check_positive(value: Any, name: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a positive integer, not {value!r}")
