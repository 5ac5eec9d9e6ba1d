"""Names and regular expressions in a configuration, which may come from anybody's file: checked before they are used.

`re` tries one way to match after another, and nothing can stop it. Some expressions have more ways than there is time
for: `(a+)+x` has 2ⁿ on n letters. Such ones are refused when the configuration is made. `ways` counts from above, on
the expression as `re` itself parses it, for a name of LENGTH letters: what follows each other multiplies, a repetition
of what has w ways has up to w^LENGTH. A repetition whose end is clear has one way: `\\w+` before a dot, or `[^.]+`.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from re import _parser  # type: ignore[attr-defined]  # the only reader of expressions that agrees with `re`
from typing import Any

LENGTH = 64  # of a module's name: "model.layers.31.post_attention_layernorm" has 40
RECURRENCES = 8  # of one given letter in it
LIMIT = 10**6  # ways to match; three `.*` in a row have 64³, and take a quarter of a millisecond on a name
KEYS = 2000  # in one rank_pattern or alpha_pattern
ENDING = r"(.*\.)?({})"  # of a dotted name, as PEFT has it
BLOCK = r"(?:^|.*?\.){}\.(?P<idx>\d+)\."  # the first number in a name behind the text
PLAIN = re.compile(r"[\w.]+")  # a module's name
END: tuple[Any, Any] = ("END", None)  # what follows an expression that must match to the end


def check_names(field_name: str, value: Iterable[str] | str | None) -> list[str] | str | None:
    """The value of a field that names modules, checked: a list of names, or one regular expression as a string.

    ValueError for an expression that is invalid or could take for ever, and for anything in a list that is no module's
    name.
    """
    if isinstance(value, str):
        check_expression(field_name, value)
        return value
    if value is None:
        return None
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise ValueError(f"{field_name} must be a list of names, or one regular expression, got {value!r}")
    for name in value:
        if not isinstance(name, str) or not PLAIN.fullmatch(name):
            raise ValueError(
                f"{field_name} has {name!r} in a list: a list holds module names; "
                "to use a regular expression, give it alone, as a string"
            )
    return list(value)


def check_expression(field_name: str, text: str, frame: str = "{}") -> float:
    """The number of `ways` of the regular expression `text`, used inside `frame`; ValueError as in `check_names`."""
    try:
        if not PLAIN.fullmatch(text):
            _parser.parse(text)  # "a)|(b" is sound inside a frame alone
        framed = frame.format(text)
        found = ways(_parser.parse(framed), (END,))
        if not PLAIN.fullmatch(text):
            re.compile(framed)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"{field_name} {shortened(text)} is not a valid regular expression: {error}") from None
    if found > LIMIT:
        raise ValueError(
            f"{field_name} {shortened(text)} could take for ever to match: a repetition inside a repetition, or too "
            "many in a row; write which names you mean with fewer * and +"
        )
    return found


def check_patterns(field_name: str, patterns: Mapping[str, Any]) -> None:
    """ValueError, with the field's name, unless this is a dict whose keys are regular expressions as above."""
    if not isinstance(patterns, dict) or not all(isinstance(key, str) for key in patterns):
        raise ValueError(f"{field_name} must be a dict from module names to numbers, got {shortened(patterns)}")
    if len(patterns) > KEYS:
        raise ValueError(f"{field_name} has {len(patterns)} entries; at most {KEYS} are looked through for each layer")
    found = 0.0
    for key in patterns:
        found += check_expression(field_name, key, ENDING)
        if found > LIMIT:
            raise ValueError(f"{field_name} could take for ever to match: write its names with fewer * and +")


def checked_patterns(
    field_name: str, patterns: Any, check: Callable[[str, Any], None], what: str = ""
) -> dict[str, Any]:
    """A `rank_pattern` or `alpha_pattern`, {} for None. ValueError as above, or as check(name, value) says.

    what: stands behind an entry's name in its messages.
    """
    if not patterns:
        return {}
    check_patterns(field_name, patterns)
    for key, value in patterns.items():
        check(f"{field_name}[{key!r}]{what}", value)
    return patterns


def first_match(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first key that the dotted name, or the end of it after a dot, matches; as in PEFT."""
    for key, value in patterns.items():
        if _ending(key).fullmatch(name):
            return value
    return default


def of_several(patterns: Mapping[str, Any] | None, names: Iterable[str]) -> list[str]:
    """Those of the names that several keys match, with different values: there the order of the keys decides."""
    patterns = patterns or {}
    return [name for name in names if len({v for key, v in patterns.items() if _ending(key).fullmatch(name)}) > 1]


def unmatched(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of the keys that match none of the names, in the way of `first_match`."""
    names = list(names)
    return [key for key in patterns if not any(_ending(key).fullmatch(name) for name in names)]


@functools.lru_cache(KEYS)
def _ending(key: str) -> "re.Pattern[str]":
    return re.compile(ENDING.format(key))


def ways(parsed: Any, after: tuple[Any, ...]) -> float:
    """An upper bound for the ways in which an expression, as `re` parses it, matches the beginning of a name.

    after: the first items, as (operation, argument), of all that may come next; None stands for anything.
    """
    found = 1.0
    items = list(parsed)
    for i, (operation, argument) in enumerate(items):
        follows = tuple(_first(items[i + 1 :], after))
        found *= _ways_of(str(operation), argument, follows)
        if found > LIMIT:
            return LIMIT * 2.0
    return found


def _ways_of(operation, argument, after):
    if operation.endswith("REPEAT"):
        return _ways_of_repeat(*argument, after)
    if operation == "BRANCH":
        return _ways_of_branch(argument[1], after)
    if operation == "SUBPATTERN":
        return ways(argument[3], after)
    if operation == "ATOMIC_GROUP":
        return ways(argument, after)
    if operation.startswith("ASSERT"):
        return ways(argument[1], (None,))
    if operation == "GROUPREF_EXISTS":
        return sum(ways(part, after) for part in argument[1:] if part is not None)
    return LENGTH if operation == "GROUPREF" else 1


def _ways_of_repeat(low, high, body, after):
    """The number of repetitions that may be right; with w ways each, w to that power."""
    high = min(high, low + LENGTH)
    of_body = ways(body, (*_first(body, ()), *after) if high > 1 else after)
    if of_body > 1:
        return float(sum(min(of_body, 1e4) ** times for times in range(low, high + 1)))
    if high == low:
        return 1
    choices = [_choices(body, item) for item in after]
    return min(max(choices, default=1), high - low + 1)


def _choices(body, item):
    """At how many places a repetition of `body` may end where `item` comes next: one, if that is no part of it."""
    if item is None:
        return LENGTH
    if item == END:
        return 1
    if len(body) != 1:
        return LENGTH
    return RECURRENCES if _holds(*body[0], item[1]) else 1


def _holds(operation, argument, code):
    """May this item, one letter wide, be the letter with this code? True where that is not known."""
    operation = str(operation)
    if operation == "LITERAL":
        return argument == code
    if operation == "NOT_LITERAL":
        return argument != code
    if operation == "RANGE":
        return argument[0] <= code <= argument[1]
    if operation == "CATEGORY":
        kind = str(argument).removeprefix("CATEGORY_")
        letter = {"DIGIT": r"\d", "NOT_DIGIT": r"\D", "WORD": r"\w", "NOT_WORD": r"\W", "SPACE": r"\s"}.get(kind, r"\S")
        return re.match(letter, chr(code)) is not None
    if operation == "IN":
        negated = str(argument[0][0]) == "NEGATE"
        return negated != any(_holds(*part, code) for part in argument[negated:])
    return True


def _ways_of_branch(alternatives, after):
    """The sum over the alternatives; where these are words, only over those that one text can begin with."""
    words = [_word(alternative) for alternative in alternatives]
    if all(word is not None for word in words):
        return max(sum(word[: len(other)] == other for other in words) for word in words)
    return sum(ways(alternative, after) for alternative in alternatives)


def _word(items):
    return [argument for _, argument in items] if all(str(op) == "LITERAL" for op, _ in items) else None


def _first(items: Iterable[Any], after: Iterable[Any]) -> Iterator[Any]:
    """The first letters, as (LITERAL, code), that `items` and what comes `after` can begin with; None for any other."""
    for operation, argument in items:
        name = str(operation)
        if name == "AT":
            continue
        if name == "LITERAL":
            yield operation, argument
        elif name == "SUBPATTERN":
            yield from _first(argument[3], (None,))
        elif name == "BRANCH":
            for alternative in argument[1]:
                yield from _first(alternative, (None,))
        elif name.endswith("REPEAT"):
            yield from _first(argument[2], (None,))
            if argument[0] == 0:
                continue
        else:
            yield None
        return
    yield from after


def shortened(value: Any) -> str:
    """What a value looks like, for a message: of a long one its beginning."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."
