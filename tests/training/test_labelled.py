"""Texts with labels: which columns are meant, what is held out, batches, and training on them."""

import json

import numpy as np
import pytest
from classifier_helpers import tiny_classifier

from lora_np import ByteTokenizer, LoraConfig, TrainingArguments, evaluate, get_peft_model, train
from lora_np.training import Labelled, LabelledData, accuracy, load_labelled, split_labelled
from lora_np.training.evaluation import count_targets, count_tokens

ROWS = [("good film", "pos"), ("bad film", "neg"), ("fine book", "pos"), ("poor book", "neg")]


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


def csv(tmp_path, header, rows=ROWS):
    return written(tmp_path, "data.csv", "\n".join([header, *(",".join(row) for row in rows)]))


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text,label", ("text", "label")),
        ("Review,Sentiment", ("Review", "Sentiment")),
        ("utterance,intent", ("utterance", "intent")),
        ("sentence,verdict", ("sentence", "verdict")),
    ],
)
def test_the_columns_are_found_by_their_names(tmp_path, header, columns):
    data = load_labelled(csv(tmp_path, header))
    assert data.columns == columns
    assert (data.texts, data.labels) == ([text for text, _ in ROWS], [1, 0, 1, 0])
    assert str(data) == f"texts in {columns[0]!r}, labels in {columns[1]!r}; 2 classes: neg (2), pos (2)"


def test_columns_without_a_name_as_spreadsheets_write_them_are_passed_over(tmp_path):
    data = load_labelled(csv(tmp_path, "text,label,,", [(*row, "", "") for row in ROWS]))
    assert data.labels == [1, 0, 1, 0]


def test_of_several_columns_both_must_be_known(tmp_path):
    rows = [(str(i), *row) for i, row in enumerate(ROWS)]
    assert load_labelled(csv(tmp_path, "id,text,label", rows)).labels == [1, 0, 1, 0]
    with pytest.raises(ValueError, match=r"columns 'id', 'x', 'label'; which holds the texts\? Rename it: text, "):
        load_labelled(csv(tmp_path, "id,x,label", rows))
    with pytest.raises(ValueError, match=r"which holds the labels\? Rename it: label, "):
        load_labelled(csv(tmp_path, "id,text,y", rows))


def test_tables_lines_and_lists_say_the_same(tmp_path):
    records = [{"text": text, "label": label} for text, label in ROWS]
    expected = load_labelled(csv(tmp_path, "text,label"))
    assert load_labelled(written(tmp_path, "a.json", json.dumps(records))) == expected
    assert load_labelled(written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, records)))) == expected
    assert load_labelled(written(tmp_path, "a.tsv", "text\tlabel\n" + "\n".join(map("\t".join, ROWS)))) == expected


def test_numbers_are_names_in_the_order_of_numbers(tmp_path):
    records = [{"text": f"t{i}", "label": label} for i, label in enumerate([10, 2, 2, 10, 1, 1])]
    data = load_labelled(written(tmp_path, "a.json", json.dumps(records)))
    assert data.names == ["1", "2", "10"]
    assert data.labels == [2, 1, 1, 2, 0, 0]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("text,label", [("a", "x"), ("b", "x")], "all 2 labels in 'label' are 'x'"),
        ("text,label", [("a", "x"), (" ", "y")], r"line 3: text should be a text, got ' '"),
        ("text,label", [("a", "x"), ("b", "")], r"line 3: label should be the name of a class, got ''"),
        ("text,label", [(f"t{i}", str(i / 7)) for i in range(10)], "10 different values in 10 rows, too many"),
        ("text,label", [], "is empty"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, header, rows, message):
    with pytest.raises(ValueError, match=message):
        load_labelled(csv(tmp_path, header, rows))


def test_of_each_class_a_part_is_held_out_and_equal_texts_stay_together():
    texts = [f"text {i % 60}" for i in range(90)]
    data = Labelled(texts, [i % 60 % 3 for i in range(90)], ["a", "b", "c"])
    parts = split_labelled(data, seed=1)
    assert not set(parts["train"].texts) & set(parts["validation"].texts)
    assert sum(len(part.texts) for part in parts.values()) == 90
    assert sorted(set(parts["validation"].labels)) == [0, 1, 2]
    assert len(set(parts["validation"].texts)) == 6
    assert split_labelled(data, seed=1) == parts != split_labelled(data, seed=2)


def test_a_class_with_one_text_is_learnt():
    parts = split_labelled(Labelled(["a", "b", "c"], [0, 0, 1], ["x", "y"]))
    assert 1 in parts["train"].labels
    with pytest.raises(ValueError, match="no class has two different texts"):
        split_labelled(Labelled(["a", "c"], [0, 1], ["x", "y"]))


def labelled_data(rows=12, max_length=6):
    data = Labelled([f"{'ab'[i % 2]}{'x' * (i % 9)}" for i in range(rows)], [i % 2 for i in range(rows)], ["a", "b"])
    return LabelledData(data, ByteTokenizer(), max_length, batch_size=4, pad_token_id=0)


def test_batches_are_padded_on_the_right_and_cut():
    data = labelled_data()
    seen = []
    for batch in data.batches(5):
        lengths = batch["attention_mask"].sum(1)
        assert batch["input_ids"].shape[1] == lengths.max() <= 6
        for ids, n, label in zip(batch["input_ids"], lengths, batch["labels"], strict=True):
            assert not ids[n:].any()
            seen.append((ids[:n].tolist(), int(label)))
    assert len(seen) == 12
    assert all((ids[0] == ord("b")) == label for ids, label in seen)
    assert data.cut == 3  # of 7, 8 and 9 tokens
    assert {key: array.shape[0] for key, array in data.batch(0, 0).items()} == dict.fromkeys(data.batch(0, 0), 4)
    assert count_targets(data.batch(0, 0)["labels"]) == 4
    assert count_tokens(data.batch(0, 0)) == data.batch(0, 0)["attention_mask"].sum()


def test_training_learns_the_classes_and_evaluation_is_the_mean_over_rows():
    data = labelled_data()
    model = tiny_classifier(vocab_size=256, pad_token_id=0)
    for p in model.parameters():
        p.data = p.data / 4 if p.ndim == 2 else p.data
    config = LoraConfig(r=4, target_modules="all-linear", fan_in_fan_out=True, task_type="SEQ_CLS")
    model = get_peft_model(model, config)
    batch = data.padded(range(12))
    assert evaluate(model, data, batch_size=5) == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    history = train(model, data, TrainingArguments(steps=30, learning_rate=3e-2), {"held": data}, progress=False)
    assert history["evaluation"][-1]["held"] < history["evaluation"][0]["held"] / 2
    assert accuracy(model, data) == 1
    assert accuracy(model, data) == np.mean(model(**batch).logits.data.argmax(1) == batch["labels"])


def test_batches_that_are_added_up_weigh_each_row_the_same():
    data = labelled_data()
    losses = []
    for accumulation in (1, 2):
        data.batch_size = 4 // accumulation
        model = get_peft_model(
            tiny_classifier(vocab_size=256, pad_token_id=0), LoraConfig(fan_in_fan_out=True, task_type="SEQ_CLS")
        )
        args = TrainingArguments(steps=3, accumulation=accumulation)
        losses.append(train(model, data, args, progress=False)["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
