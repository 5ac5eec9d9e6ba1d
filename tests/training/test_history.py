"""What `train` returns, as text."""

import json

import numpy as np
from lora_helpers import some_ids, tiny_model

from lora_np import TrainingArguments, train
from lora_np.training.history import MOST_ROWS, TrainingHistory


class Same:
    """The same batch at every step."""

    def __init__(self, ids):
        self.ids = ids

    def batch(self, seed, step):
        return {"input_ids": self.ids, "labels": self.ids}


def history(steps, evaluated=(), **more):
    losses = [float(10 - i) for i in range(steps)]
    evaluations = [{"step": step, "held out": losses[step - 1] / 2 if step else 9.0} for step in evaluated]
    return TrainingHistory(loss=losses, learning_rate=[0.1] * steps, evaluation=evaluations, **more)


def test_a_row_for_each_evaluation():
    assert repr(history(4, (0, 2, 4), interrupted=False)) == "\n".join(
        [
            "step    loss  held out",
            "   0       -    9.0000",
            "   2  9.5000    4.5000",
            "   4  7.5000    3.5000",
            "4 steps. Every number: 'loss', 'learning_rate', 'evaluation', 'interrupted'",
        ]
    )


def test_what_was_not_measured_each_time():
    found = history(4, (2, 4))
    found["evaluation"][0]["first"], found["evaluation"][1]["second"] = 1.0, 2.0
    assert repr(found).splitlines()[:3] == [
        "step    loss  held out   first  second",
        "   2  9.5000    4.5000  1.0000       -",
        "   4  7.5000    3.5000       -  2.0000",
    ]


def test_the_best_and_an_interruption_are_told():
    shown = history(4, (0, 2), interrupted=True, best={"step": 2, "held out": 4.5})
    assert "2 *" in repr(shown)
    assert "4 steps, interrupted, *: the best, whose weights the model has." in repr(shown)


def test_a_run_without_evaluations_is_shown_in_parts():
    heading, rows = history(100).rows()
    assert heading == ["step", "loss"]
    assert [int(row[0]) for row in rows] == list(range(10, 101, 10))
    assert rows[0][1] == f"{np.mean([10 - i for i in range(10)]):.4f}"
    assert len(history(3).rows()[1]) == 3
    assert history(0).rows()[1] == []


def test_a_long_run_is_a_small_table():
    shown = history(1000, range(0, 1001, 5))
    _, rows = shown.rows()
    assert (len(rows), rows[0][0], rows[-1][0]) == (MOST_ROWS, "0", "1000")
    assert len(repr(shown).splitlines()) == MOST_ROWS + 2
    assert shown._repr_html_().count("<tr>") == MOST_ROWS + 1


def test_names_are_no_markup():
    shown = TrainingHistory(loss=[1.0], evaluation=[{"step": 1, "<b>": 2.0}])
    assert "<th>&lt;b&gt;</th>" in shown._repr_html_()


def test_it_is_the_dict_that_it_was():
    shown = history(2)
    assert shown == {"loss": [10.0, 9.0], "learning_rate": [0.1, 0.1], "evaluation": []}
    assert json.loads(json.dumps(shown)) == shown


def test_train_returns_one():
    model = tiny_model()
    found = train(model, Same(some_ids(model.config)), TrainingArguments(steps=2), progress=False)
    assert isinstance(found, TrainingHistory)
    assert repr(found).splitlines()[-1].startswith("2 steps. Every number: 'loss', 'learning_rate'")
