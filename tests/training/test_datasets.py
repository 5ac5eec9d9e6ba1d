"""Data sets of Hugging Face's kind: named columns, and rows by number."""

from types import SimpleNamespace

import numpy as np
import pytest
from classifier_helpers import tiny_classifier
from training_helpers import full

from lora_np import ByteTokenizer, ExampleData, Tensor, Trainer, TrainingArguments
from lora_np.training import split_examples
from lora_np.training.datasets import examples_of, rows_of


class Table:
    """What is used of `datasets.Dataset`."""

    def __init__(self, columns):
        self.columns, self.column_names = columns, list(columns)

    def __len__(self):
        return len(next(iter(self.columns.values()), []))

    def __getitem__(self, i):
        if not isinstance(i, int):
            raise TypeError("rows by number only")
        return {name: column[i] for name, column in self.columns.items()}


class Stream:
    """What is used of `datasets.IterableDataset`, which has no length."""

    def __init__(self, table):
        self.table, self.column_names = table, table.column_names

    def __iter__(self):
        return (self.table[i] for i in range(len(self.table)))


TEXTS = ["The cat sat.", "The dog looked at the cat.", "A bird."]
TALKS = [[{"role": "user", "content": t}, {"role": "assistant", "content": t[::-1]}] for t in TEXTS]
TURNS = [[{"from": "human", "value": t}, {"from": "gpt", "value": t[::-1]}] for t in TEXTS]
KINDS = [
    ({"text": TEXTS, "label": [0, 1, 0]}, [{"text": t} for t in TEXTS]),
    ({"id": [1, 2, 3], "prompt": TEXTS, "completion": TEXTS}, [{"prompt": t, "completion": t} for t in TEXTS]),
    ({"messages": TALKS, "prompt": TEXTS}, [{"messages": talk} for talk in TALKS]),
    ({"conversations": TURNS, "source": TEXTS}, [{"messages": talk} for talk in TALKS]),
    (
        {"instruction": TEXTS, "input": [None, "", "x"], "output": [t[::-1] for t in TEXTS], "text": TEXTS},
        [{"messages": talk} for talk in [*TALKS[:2], [{**TALKS[2][0], "content": "A bird.\n\nx"}, TALKS[2][1]]]],
    ),
]


@pytest.mark.parametrize(("columns", "expected"), KINDS, ids=lambda value: next(iter(value)) if value else None)
@pytest.mark.parametrize("kind", [Table, lambda columns: Stream(Table(columns))], ids=["numbered", "stream"])
def test_the_columns_that_make_examples_are_read(columns, expected, kind):
    assert examples_of(kind(columns)) == expected


def test_examples_are_learnt_from_it_as_from_a_list():
    table = Table({"text": TEXTS})
    data, plain = (ExampleData(given, ByteTokenizer(), 64, 2) for given in (table, [{"text": t} for t in TEXTS]))
    for step in range(3):
        np.testing.assert_array_equal(data.batch(0, step)["labels"], plain.batch(0, step)["labels"])
    assert split_examples(table) == split_examples([{"text": t} for t in TEXTS])


def test_several_parts_are_to_be_chosen_from():
    parts = Table({"text": TEXTS})
    parts.column_names = {"train": ["text"], "test": ["text"]}
    with pytest.raises(
        ValueError, match=r"examples has several parts: choose one of 'train', 'test', as dataset\['train'\]"
    ):
        ExampleData(parts, ByteTokenizer(), 64, 2)


def test_columns_that_make_no_example_are_named():
    with pytest.raises(
        ValueError, match="examples, row 1 has the columns chosen, rejected; expected are text, or prompt"
    ):
        ExampleData(Table({"chosen": TEXTS, "rejected": TEXTS}), ByteTokenizer(), 64, 2)


def test_rows_that_are_tokenised_go_to_the_trainer():
    with pytest.raises(ValueError, match=r"examples, row 1 has input_ids, it is tokenised already: give .* to Trainer"):
        ExampleData(Table({"input_ids": [[1, 2]]}), ByteTokenizer(), 64, 2)
    model, rows = full(1), {"input_ids": [[1, 2, 3], [4, 5, 6]], "labels": [[1, 2, 3], [-100, 5, 6]], "x": [0, 0]}
    args = {"steps": 2, "per_device_train_batch_size": 2}
    losses = Trainer(model, TrainingArguments(**args), train_dataset=Table(rows)).train()
    assert losses.global_step == 2


@pytest.mark.parametrize("given", [3, "text", {"text": "a"}, None, ["a"]])
def test_what_has_no_rows_is_refused(given):
    with pytest.raises(TypeError, match=r"train_dataset(:| should be a list of dicts)"):
        rows_of(given, "train_dataset")


def test_rows_by_number_with_tensors_are_learnt_as_a_list():
    class Numbered:  # as a subclass of torch's Dataset
        def __len__(self):
            return len(rows)

        def __getitem__(self, i):
            return {name: Tensor(np.array(value)) for name, value in rows[i].items()}

    rows = [{"input_ids": [i, i + 1, 3], "labels": [-100, i + 1, 3]} for i in range(4)]
    losses = [Trainer(full(1), TrainingArguments(steps=2), train_dataset=given).train() for given in (rows, Numbered())]
    assert losses[0] == losses[1]
    with pytest.raises(TypeError, match="the data set should be a list of dicts"):
        rows_of(Numbered)


def test_an_empty_data_set_and_a_table_of_pandas_are_refused():
    with pytest.raises(ValueError, match="examples is empty: there is no row in it"):
        ExampleData(Table({"text": []}), ByteTokenizer(), 64, 2)
    frame = SimpleNamespace(columns=["text"], __iter__=lambda: iter(["text"]))
    with pytest.raises(TypeError, match="examples should be a list of dicts"):
        ExampleData(frame, ByteTokenizer(), 64, 2)


def test_labels_of_whole_rows_are_learnt_by_a_classifier():
    rows = {"input_ids": [[1, 2, 3], [4, 5], [6]], "label": [0, 1, 0], "text": TEXTS}
    arguments = TrainingArguments(steps=2, per_device_train_batch_size=2)
    trainer = Trainer(tiny_classifier(vocab_size=256), arguments, train_dataset=Table(rows), tokenizer=ByteTokenizer())
    assert 0 < trainer.train().training_loss < 2
    texts = Table({"text": TEXTS, "label": [0, 1, 0]})
    trainer = Trainer(tiny_classifier(vocab_size=256), arguments, train_dataset=texts, tokenizer=ByteTokenizer())
    with pytest.raises(ValueError, match=r"train_dataset: a classifier learns from rows of input_ids .*dataset\.map"):
        trainer.train()


@pytest.fixture(scope="module")
def package():
    """Hugging Face's package, where it is installed."""
    return pytest.importorskip("datasets")


def test_the_package_itself_where_it_is_there(package):
    for columns, expected in KINDS:
        whole = package.Dataset.from_dict(columns)
        for given in (whole, whole.to_iterable_dataset(), whole.with_format("numpy"), whole.with_format("pandas")):
            assert examples_of(given) == expected


def test_its_map_with_a_tokenizer_then_a_trainer(package):
    whole, tokenizer = package.Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0]}), ByteTokenizer()
    assert len(tokenizer(whole["text"])["input_ids"]) == 3
    rows = whole.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=9), batched=True)
    arguments = TrainingArguments(steps=2, per_device_train_batch_size=2)
    for given in (rows, rows.with_format("numpy"), rows.to_iterable_dataset()):
        trainer = Trainer(tiny_classifier(vocab_size=256), arguments, train_dataset=given, tokenizer=tokenizer)
        assert 0 < trainer.train().training_loss < 2
