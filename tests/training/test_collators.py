"""Rows as batches. tests/idioms/training.py compares the collators with Transformers'."""

import numpy as np
import pytest

from lora_np import (
    ByteTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    default_data_collator,
    manual_seed,
)
from lora_np.training.collators import CollatedData

NO_DROPOUT = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
ROWS = [{"input_ids": [i] * n, "labels": [i] * n, "text": "x"} for i, n in enumerate([3, 1, 2, 5, 4], 1)]


def data(collator=None, rows=ROWS):
    return CollatedData(rows, collator or DataCollatorForSeq2Seq(ByteTokenizer()), 2)


@pytest.mark.parametrize("accumulation", [1, 2, 3, 7])
def test_every_row_comes_once_in_an_epoch(accumulation):
    made = CollatedData(ROWS, DataCollatorForSeq2Seq(ByteTokenizer()), 2, accumulation)
    updates = -(-5 // (2 * accumulation))
    epochs = []
    for epoch in range(2):
        steps = range(epoch * updates * accumulation, (epoch + 1) * updates * accumulation)
        batches = [batch for step in steps if (batch := made.batch(3, step)) is not None]
        assert [len(batch["input_ids"]) for batch in batches] == [2, 2, 1]
        epochs.append([int(row[0]) for batch in batches for row in batch["input_ids"]])
    assert sorted(epochs[0]) == sorted(epochs[1]) == [1, 2, 3, 4, 5]
    assert epochs[0] != epochs[1]
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


LABELLED = [{"input_ids": [i] * n, "label": i % 2, "text": "x"} for i, n in enumerate([3, 1, 2, 3], 1)]


def test_rows_with_a_label_each_are_filled_up():
    batch = data(DataCollatorWithPadding(ByteTokenizer()), LABELLED).batch(0, 0)
    assert batch["input_ids"].shape[0] == batch["labels"].shape[0] == 2
    assert batch["labels"].tolist() == [int(row[0]) % 2 for row in batch["input_ids"]]
    whole = default_data_collator([LABELLED[0], LABELLED[3]])
    assert {k: v.tolist() for k, v in whole.items()} == {"input_ids": [[1] * 3, [4] * 3], "labels": [1, 0]}
    assert default_data_collator([{"input_ids": [1], "label": 0.5}])["labels"].tolist() == [0.5]
    assert "labels" not in DataCollatorWithPadding(ByteTokenizer())([{"input_ids": [1]}])


def test_labels_of_tokens_are_no_labels_of_rows():
    with pytest.raises(ValueError, match=r"unlike numbers of labels: give DataCollatorForSeq2Seq\(tokenizer\)"):
        DataCollatorWithPadding(ByteTokenizer())(ROWS)


@pytest.mark.parametrize(("most", "multiple", "width"), [(None, None, 3), (None, 4, 4), (6, None, 6), (6, 4, 8)])
def test_labels_are_as_wide_as_max_length_says(most, multiple, width):
    rows = [{"input_ids": [1], "labels": [5, 6, 7]}, {"input_ids": [2], "labels": [8]}]
    options = {"padding": "max_length", "max_length": most, "pad_to_multiple_of": multiple}
    labels = DataCollatorForSeq2Seq(ByteTokenizer(), **options)(rows)["labels"]  # as Transformers'
    assert labels.tolist() == [[5, 6, 7] + [-100] * (width - 3), [8] + [-100] * (width - 1)]
    with pytest.raises(ValueError, match="a row has 3 labels, more than max_length = 2"):
        DataCollatorForSeq2Seq(ByteTokenizer(), padding="max_length", max_length=2)(rows)


def test_training_gets_arrays_where_tensors_are_asked_for():
    rows, tokenizer = [{"input_ids": [1, 2]}, {"input_ids": [3]}], ByteTokenizer()
    asked = DataCollatorForLanguageModeling(tokenizer, mlm=False, return_tensors="pt")(rows)
    usual = DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows)
    for name, array in usual.items():
        assert type(asked[name]) is np.ndarray
        np.testing.assert_array_equal(asked[name], array)


@pytest.mark.parity
def test_filled_up_as_transformers_does():
    import transformers

    tokenizer = ByteTokenizer()
    rows = [{k: v for k, v in row.items() if k != "text"} for row in LABELLED]
    for options in ({}, {"pad_to_multiple_of": 8}):
        expected = transformers.DataCollatorWithPadding(tokenizer, return_tensors="np", **options)(rows)
        ours = DataCollatorWithPadding(tokenizer, **options)(rows)
        assert {k: np.asarray(v).tolist() for k, v in expected.items()} == {k: v.tolist() for k, v in ours.items()}


@pytest.mark.parametrize(
    "collator",
    [
        DataCollatorForLanguageModeling(ByteTokenizer()),
        DataCollatorForSeq2Seq(ByteTokenizer()),
        DataCollatorWithPadding(ByteTokenizer()),
        DataCollatorWithFlattening(),
        default_data_collator,
    ],
)
def test_a_row_without_ids_is_named(collator):
    tokenised = {"input_ids": [1, 2], "labels": [1, 2]}
    with pytest.raises(ValueError, match="features: row 2 has the fields text, and no input_ids"):
        collator([tokenised, {"text": "hello"}])


@pytest.mark.parity
@pytest.mark.parametrize("positions", [True, False])
def test_rows_one_behind_the_other_like_transformers(positions):
    import transformers

    rows = [*ROWS, {"input_ids": [4, 5], "labels": [-100, 5]}]
    options = {"return_position_ids": positions, "return_seq_idx": True}
    expected = transformers.DataCollatorWithFlattening(return_tensors="np", **options)(
        [{k: v for k, v in row.items() if k != "text"} for row in rows]
    )
    found = DataCollatorWithFlattening(**options)(rows)
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in expected.items()}


def test_rows_one_behind_the_other_teach_what_they_teach_apart():
    config = GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2, n_positions=16, **dict.fromkeys(NO_DROPOUT, 0.0))
    losses = {}
    for collator in (DataCollatorWithFlattening(), DataCollatorForSeq2Seq(ByteTokenizer())):
        manual_seed(0)
        trainer = Trainer(
            GPT2LMHeadModel(config), TrainingArguments(steps=4), collator, ROWS, processing_class=ByteTokenizer()
        )
        trainer.train()
        losses[type(collator)] = trainer.history["loss"]
    np.testing.assert_allclose(*losses.values(), rtol=1e-5)


def test_options_that_a_model_here_cannot_do_without():
    with pytest.raises(ValueError, match="what tells the rows apart here is seq_idx"):
        DataCollatorWithFlattening(return_seq_idx=False)


def test_a_row_without_the_labels_that_others_have_is_named():
    rows = [{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [1, 2]}]
    with pytest.raises(ValueError, match="features: row 2 has the fields input_ids, and no labels"):
        DataCollatorForSeq2Seq(ByteTokenizer())(rows)
    assert DataCollatorForSeq2Seq(ByteTokenizer())(rows[1:])["labels"] is None


def test_padding_is_not_learnt_where_there_is_no_pad_token():
    class Unpadded(ByteTokenizer):
        pad_token_id = None

    batch = DataCollatorForLanguageModeling(Unpadded())([{"input_ids": [5, 6, 7]}, {"input_ids": [5]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [5, -100, -100]]


def test_labels_that_leave_a_prompt_out_are_not_forgotten():
    collator = DataCollatorForLanguageModeling(ByteTokenizer())
    with pytest.raises(ValueError, match="the labels of row 2 leave tokens out, and this collator learns all of them"):
        collator([{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}])
    pad = ByteTokenizer().pad_token_id
    rows = [{"input_ids": [5, 6, pad], "labels": [5, 6, -100]}, {"input_ids": [5, 6, 7], "labels": [5, 6, 7]}]
    assert collator(rows)["labels"].tolist() == [[5, 6, -100], [5, 6, 7]]


@pytest.mark.parametrize("labels", [[0.25, 1.5], [[1.0, 0.5], [0.0, 1.0]], [1, 0], [[1, -100], [2, 3]]])
def test_labels_keep_their_numbers(labels):
    rows = [{"input_ids": [5, 6], "label": None, "labels": own} for own in labels]
    assert default_data_collator(rows)["labels"].tolist() == labels
    assert "labels" not in default_data_collator([{"input_ids": [5, 6], "labels": None}])


def test_a_mask_is_kept_where_padding_is_learnt():
    rows = [{"input_ids": [5, 6, 0, 0], "attention_mask": [1, 1, 0, 0], "labels": [5, 6, 0, 0]}] * 2
    assert "attention_mask" in data(default_data_collator, rows).batch(0, 0)
    first = [{**row, "labels": [5, 6, 0, -100]} for row in rows]  # the first token of padding is learnt from a token
    assert "attention_mask" not in data(default_data_collator, first).batch(0, 0)


@pytest.mark.parametrize("mask", [True, False])
def test_positions_that_begin_anew_keep_texts_apart(mask):
    config = GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2, n_positions=16, **dict.fromkeys(NO_DROPOUT, 0.0))
    manual_seed(0)
    model = GPT2LMHeadModel(config)
    row = {"input_ids": [5, 6, 7, 8, 9], "position_ids": [0, 1, 2, 0, 1], "labels": [-100, 6, 7, -100, 9]}
    together = Trainer(model, eval_dataset=[{**row, **({"attention_mask": [1] * 5} if mask else {})}]).evaluate()
    apart = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8, 9], "labels": [8, 9]}]
    losses = Trainer(model, eval_dataset=apart, data_collator=DataCollatorForSeq2Seq(ByteTokenizer())).evaluate()
    assert (abs(together["eval_loss"] - losses["eval_loss"]) < 1e-5) is not mask  # as in Transformers, the mask decides


def test_positions_are_kept():
    rows = [{"input_ids": [5, 6], "labels": [5, 6], "position_ids": [3, 4]}]
    tokenizer = ByteTokenizer()
    collators = (DataCollatorForLanguageModeling, DataCollatorForSeq2Seq, DataCollatorWithPadding)
    for collator in (*[kind(tokenizer) for kind in collators], default_data_collator):
        assert collator(rows)["position_ids"].tolist() == [[3, 4]]


@pytest.mark.parametrize("collator", [DataCollatorForSeq2Seq(ByteTokenizer()), DataCollatorWithFlattening()])
def test_numbers_are_not_rounded(collator):
    with pytest.raises(TypeError, match="features: labels should be whole numbers, got"):
        collator([{"input_ids": [1, 2], "labels": [1, 2.5]}])


@pytest.mark.parametrize("collator", [DataCollatorWithFlattening(), default_data_collator])
def test_ids_are_not_rounded(collator):
    with pytest.raises(TypeError, match="features: input_ids should be whole numbers, got"):
        collator([{"input_ids": [1, 2.5], "labels": [1, 2]}])


def test_labels_of_another_row_are_not_learnt():
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3, 4]}, {"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3]}]
    with pytest.raises(ValueError, match="features: row 1 has 3 input_ids and 4 labels"):
        DataCollatorWithFlattening()(rows)


@pytest.mark.parametrize("name", ["attention_mask", "labels"])
def test_what_is_too_long_or_too_short_comes_to_the_model(name):
    row = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [5, 6, 7], name: [1, 1]}
    made = data(default_data_collator, [row]).batch(0, 0)
    assert made[name].shape == (1, 2)
    with pytest.raises(ValueError, match=rf"{name}.*\(1, 2\)"):
        GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2, n_positions=16))(**made)


def test_a_collator_that_returns_nothing():
    with pytest.raises(TypeError, match="what data_collator returns should be a dict"):
        data(lambda rows: None).batch(0, 0)
