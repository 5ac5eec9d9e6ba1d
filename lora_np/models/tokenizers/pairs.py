"""What a tokenizer's call is given: a text, several, or pairs of texts, such as a question and what may answer it.

A pair is one row: the first text, then the second, with the special tokens that the tokenizer puts around both.
"""

from collections.abc import Iterable, Mapping
from typing import Any

WORDS = "words are joined with spaces first: ' '.join(words)"
BOTH, FIRST, SECOND = "longest_first", "only_first", "only_second"  # what is cut where a row is too long


def texts_of(text: Any, text_pair: Any = None) -> tuple[list[str], list[str] | None]:
    """(the texts, the second texts of pairs or None) of a call. TypeError or ValueError for what is no text."""
    if isinstance(text, str):
        return [text], None if text_pair in (None, "") else [_checked(text_pair, "text_pair")]  # as Transformers has it
    texts = _rows(text, "text")
    if text_pair is not None:
        others = _rows(text_pair, "text_pair")
        if len(others) != len(texts):
            raise ValueError(f"{len(texts)} texts do not pair with {len(others)}: text_pair has one for each text")
        return [_checked(one, "a text") for one in texts], [_checked(one, "a text of text_pair") for one in others]
    if not all(isinstance(one, list | tuple) for one in texts):
        return [_checked(one, "a text") for one in texts], None
    if any(len(one) != 2 for one in texts):
        raise TypeError(f"a text must be a str, or a pair of them, not {len(min(texts, key=len))} in a list: {WORDS}")
    first, second = zip(*texts, strict=True)
    return [_checked(one, "a text") for one in first], [_checked(one, "a text of a pair") for one in second]


def _rows(text: Any, name: str) -> list[Any]:
    if isinstance(text, str | bytes | Mapping) or not isinstance(text, Iterable):
        kinds = "a str or a list of them" if name == "text" else "a list of str, one for each text"
        raise TypeError(f"{name} must be {kinds}, not {type(text).__name__}")
    texts = list(text)
    if not texts:
        raise ValueError("there is no text: an empty list makes no batch")
    return texts


def _checked(one: Any, name: str) -> str:
    if not isinstance(one, str):
        words = f": {WORDS}" if isinstance(one, list | tuple) else ""
        raise TypeError(f"{name} must be a str, not {type(one).__name__}{words}")
    return one


def kept(first: int, second: int, room: int, strategy: str) -> tuple[int, int]:
    """How many tokens stay of two texts that have so many, where `room` are kept: (of the first, of the second).

    longest_first: the shorter one stays whole, if it takes at most half of the room; else each has half of it.
    ValueError if the text that alone is cut is too short for that.
    """
    if first + second <= room:
        return first, second
    if strategy == BOTH:
        short = min(first, second)
        half = room // 2
        rest = (short, room - short) if short <= half else (half, room - half)
        return rest if first <= second else rest[::-1]
    other = second if strategy == FIRST else first
    if other >= room:
        raise ValueError(
            f"truncation={strategy!r} leaves no room for that text: of {room} tokens the other one takes {other}"
        )
    return (room - other, second) if strategy == FIRST else (first, room - other)
