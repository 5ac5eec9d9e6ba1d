"""Tokens laid over a text's characters."""

import pytest

from lora_np.models.tokenizers.batch import marks_answers, overlapping


@pytest.mark.parametrize(
    ("offsets", "spans", "expected"),
    [
        ([(0, 2), (2, 4), (4, 6)], [(2, 4)], [0, 1, 0]),
        ([(0, 2), (2, 4), (4, 6)], [(3, 5)], [0, 1, 1]),  # a token that reaches over the border counts
        ([(0, 1), (1, 2), (2, 3), (3, 4)], [(0, 1), (2, 3)], [1, 0, 1, 0]),
        ([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], [(1, 2)], [0, 1, 1, 1, 0]),  # the bytes of one character
        ([(0, 1), (2, 2), (3, 4)], [(1, 2)], [0, 1, 0]),  # a space that was left out of its token's offsets
        ([(0, 1), (0, 0), (0, 0)], [(0, 1)], [1, 0, 0]),  # padding
        ([], [(0, 1)], []),
        ([(0, 1)], [], [0]),
    ],
)
def test_tokens_that_have_a_character_of_a_span(offsets, spans, expected):
    assert overlapping(offsets, spans) == [bool(inside) for inside in expected]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% generation %}x{% endgeneration %}", True),
        ("{%- generation -%}", True),
        ("{{ generation }}", False),
        ("{% if add_generation_prompt %}", False),
        (None, False),
    ],
)
def test_a_template_that_marks_answers(template, expected):
    assert marks_answers(template) is expected
