"""Rows as batches. tests/idioms/training.py compares the collators with Transformers'."""

import numpy as np
import pytest

from lora_np import ByteTokenizer, DataCollatorForSeq2Seq, default_data_collator
from lora_np.training.collators import CollatedData

ROWS = [{"input_ids": [i] * n, "labels": [i] * n, "text": "x"} for i, n in enumerate([3, 1, 2, 5, 4], 1)]


def data(collator=None, rows=ROWS):
    return CollatedData(rows, collator or DataCollatorForSeq2Seq(ByteTokenizer()), 2)


def test_every_row_comes_once_in_an_epoch():
    seen = [int(row[0]) for step in range(5) for row in data().batch(3, step)["input_ids"]]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [1, 2, 3, 4, 5]
    assert seen[:5] != seen[5:]
    np.testing.assert_array_equal(data().batch(3, 4)["input_ids"], data().batch(3, 4)["input_ids"])


def test_all_rows_in_order_for_evaluation():
    batches = list(data().batches(2))
    assert [row[0] for batch in batches for row in batch["input_ids"].tolist()] == [1, 2, 3, 4, 5]
    assert all(set(batch) == {"input_ids", "labels"} for batch in batches)  # a mask of what nobody sees is left out


def test_a_mask_of_padding_on_the_left_is_kept():
    tokenizer = ByteTokenizer()
    tokenizer.padding_side = "left"
    batch = data(DataCollatorForSeq2Seq(tokenizer)).batch(0, 0)
    assert batch["attention_mask"].min() == 0
    np.testing.assert_array_equal(batch["labels"] == -100, batch["attention_mask"] == 0)


def test_rows_of_one_length_need_no_tokenizer():
    rows = [{"input_ids": [1, 2], "labels": [1, -100]}, {"input_ids": [3, 4], "labels": [3, 4]}]
    assert {k: v.tolist() for k, v in default_data_collator(rows).items()} == {
        "input_ids": [[1, 2], [3, 4]],
        "labels": [[1, -100], [3, 4]],
    }
    with pytest.raises(ValueError, match="unlike lengths"):
        default_data_collator(ROWS)
