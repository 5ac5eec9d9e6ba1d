"""The text so far: padding is told by a mask, or read off the ids as Transformers does."""

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, tiny_llama, tiny_model

from lora_np.models.generation.text import Text

NONE = np.array([], int)


@pytest.mark.parametrize(
    ("pad", "stops", "mask"),
    [
        (0, NONE, [[False, False, True], [True, False, True]]),
        (0, np.array([7]), [[False, False, True], [True, False, True]]),
        (0, np.array([7, 0]), [[True] * 3] * 2),  # it ends rows, too: it may be text
        (None, NONE, [[True] * 3] * 2),
        (9, NONE, [[True] * 3] * 2),
    ],
)
def test_padding_is_read_off_the_ids_if_there_is_no_mask(pad, stops, mask):
    text = Text([[0, 0, 1], [1, 0, 2]], None, pad, stops)
    assert text.mask.tolist() == mask
    assert Text([[0, 0, 1], [1, 0, 2]], [[1, 1, 1], [1, 1, 1]], pad, stops).mask.all()


def test_padding_on_the_right_is_refused_also_if_it_is_read_off():
    with pytest.raises(ValueError, match="rows must be padded on the left"):
        Text([[1, 0], [1, 2]], None, 0, NONE)


def test_what_a_row_alone_ends_with_is_text():
    """Transformers counts positions anew behind it."""
    assert Text([[1, 0, 2, 0]], None, 0, NONE).mask.all()
    model = tiny_model(eos_token_id=7)
    expected = model.generate([[1, 4, 3, 0]], max_new_tokens=6)
    model.generation_config.pad_token_id = 0
    np.testing.assert_array_equal(model.generate([[1, 4, 3, 0]], max_new_tokens=6), expected)


@pytest.mark.parity
@pytest.mark.parametrize("make", [tiny_model, tiny_llama])
@pytest.mark.parametrize("ids", [[[0, 0, 5, 3], [4, 3, 2, 9]], [[1, 0, 5, 3], [4, 3, 2, 9]], [[0, 4, 0, 3]]], ids=str)
def test_what_is_read_off_is_what_transformers_reads(make, ids):
    import torch

    model = make(eos_token_id=7)
    twin = hugging_face_twin(model)
    model.generation_config.pad_token_id = twin.generation_config.pad_token_id = 0
    expected = twin.generate(torch.tensor(ids), max_new_tokens=6, do_sample=False)
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=6), expected)


def test_rows_are_repeated_one_after_another():
    text = Text([[0, 1], [2, 3]], None, 0, NONE)
    text.repeat(2)
    text.append(np.array([4, 5, 6, 7]))
    assert text.ids.tolist() == [[0, 1, 4], [0, 1, 5], [2, 3, 6], [2, 3, 7]]
    assert text.mask.tolist() == [[False, True, True]] * 2 + [[True] * 3] * 2
    assert text.beginnings.tolist() == [1, 1, 0, 0]
    assert text.length == 3
