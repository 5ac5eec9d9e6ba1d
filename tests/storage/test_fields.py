"""What fits a field's type, and what the message says of what does not."""

import math

import pytest

from lora_np.storage.fields import (
    Chance,
    Count,
    Depth,
    Fraction,
    OptionalId,
    Size,
    TokenId,
    TokenIds,
    check_fields,
    fits,
    short,
)

ODD = (None, True, "1", [], {}, math.nan, math.inf, -math.inf, 10**400)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Size, (1, 2**31 - 1), (0, -1, 1.0, 2**31)),
        (Depth, (1, 1024), (0, 1025)),
        (Count, (0, 5), (-1, 0.0)),
        (TokenId, (0, 50256), (-1, 2**31, 0.5)),
        (OptionalId, (None, -1, 0), (-2, 2**31)),
        (TokenIds, (None, 3, [], [1, 2]), (-1, [1, "2"], [None], [True], [1.0], [2**31], (1,))),
        (Fraction, (0, 1, 0.5), (-1e-9, 1.001)),
        (Chance, (0, 0.999), (1, 1.0)),
        (bool, (True, False), (0, 1, "true")),
        (str, ("", "x"), (1,)),
        (dict, ({}, {"a": 1}), ([("a", 1)],)),
        (dict | None, (None, {}), (False,)),
    ],
)
def test_values_fit_their_types(kind, good, bad):
    assert all(fits(value, kind) for value in good)
    assert not any(fits(value, kind) for value in bad)


@pytest.mark.parametrize("kind", [Size, Depth, Count, TokenId, Fraction, Chance])
def test_no_number_is_none_of_these(kind):
    assert not any(fits(value, kind) for value in ODD)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Size, "7", "n must be a positive integer, got '7'"),
        (Size, 2**31, "n must be a positive integer, got 2147483648; at most 2147483647"),
        (Depth, 10**7, "n must be a positive integer, got 10000000; at most 1024"),
        (Size | None, 0, "n must be a positive integer, got 0"),
        (TokenIds, ["x"], r"n must be a token's id, .* or a list, each a token's id, .*, got \['x'\]"),
        (bool, "false", "n must be true or false, got 'false'"),
        (dict, [1], r"n must be an object, got \[1\]"),
        (Fraction, math.nan, "n must be a number from 0 to 1, got nan"),
        (str, 2**5000, "n must be a text, got an integer of 5001 bits"),
    ],
    ids=range(9),
)
def test_the_message_names_field_and_value(kind, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_fields({"n": value, "other": "?"}, {"n": kind})


def test_fields_that_are_not_there_are_not_asked_for():
    check_fields({}, {"n": Size})


def test_a_wrong_value_may_be_a_whole_file():
    assert len(short("x" * 10**6)) < 100
