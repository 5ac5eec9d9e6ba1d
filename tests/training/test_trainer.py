"""`Trainer`: Transformers' way to call `train`. tests/idioms/training.py compares it with Transformers' own."""

from pathlib import Path

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, tiny_model
from training_helpers import full

from lora_np import (
    ByteTokenizer,
    DataCollatorForSeq2Seq,
    ExampleData,
    GPT2Config,
    GPT2ForSequenceClassification,
    PeftModel,
    Tensor,
    Trainer,
    TrainingArguments,
    train,
)
from lora_np import DataCollatorForLanguageModeling as Collator

TEXTS = ["The cat sat.", "The dog barks.", "A bird."] * 2
EXAMPLES = [{"text": text} for text in TEXTS]
ROWS = [{"input_ids": ByteTokenizer().encode(text), "text": text} for text in TEXTS]
LABELLED = [{**row, "labels": row["input_ids"]} for row in ROWS]
FEW = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 0.01}


def trainer(tmp_path, **changes):
    tokenizer = ByteTokenizer()
    settings = {"train_dataset": ROWS, "data_collator": Collator(tokenizer), "processing_class": tokenizer, **changes}
    return Trainer(full(1), TrainingArguments(tmp_path / "out", **FEW), **settings)


def test_examples_are_trained_on_as_train_does(tmp_path):
    own, model = trainer(tmp_path, train_dataset=EXAMPLES, data_collator=None), full(1)
    own.train()
    data = ExampleData(EXAMPLES, ByteTokenizer(), model.config.max_position_embeddings, 2)
    assert own.history["loss"] == train(model, data, TrainingArguments(**FEW))["loss"]


@pytest.mark.parametrize("rows", [EXAMPLES, [ROWS[0], *EXAMPLES]])
@pytest.mark.parametrize("collator", [None, Collator(ByteTokenizer())])
def test_rows_that_are_not_tokenised_are_named(tmp_path, rows, collator):
    given = {"data_collator": collator, "processing_class": None if rows is EXAMPLES else ByteTokenizer()}
    own = trainer(tmp_path, train_dataset=rows, eval_dataset=rows, **given)
    said = f"row {1 if rows is EXAMPLES else 2} has the fields text, and no input_ids: tokenize it first"
    with pytest.raises(ValueError, match=f"train_dataset: {said}"):
        own.train()
    with pytest.raises(ValueError, match=f"eval_dataset: {said}"):
        own.evaluate()


def test_examples_that_are_tokenised_go_to_trainer():
    with pytest.raises(ValueError, match="has the fields input_ids, text: it is tokenised already, which Trainer"):
        ExampleData(ROWS, ByteTokenizer(), 16, 2)


def test_the_names_of_the_tokenizer(tmp_path):
    assert trainer(tmp_path, processing_class=None, tokenizer="t").processing_class == "t"


def test_what_it_returns_and_keeps(tmp_path):
    own = trainer(tmp_path, eval_dataset=ROWS[:3])
    output = own.train()
    assert output.global_step == own.state.global_step == 4
    assert output.training_loss == pytest.approx(sum(own.history["loss"]) / 4)
    assert {"step": 4, "epoch": 4 / 3, "eval_loss": own.evaluate()["eval_loss"]} in own.state.log_history
    assert [entry["loss"] for entry in own.state.log_history if "loss" in entry] == own.history["loss"]


def test_the_losses_of_several_data_sets_have_transformers_names(tmp_path):
    own = trainer(tmp_path, eval_dataset={"a": ROWS[:1], "eval": ROWS[1:]})
    own.train()
    assert {"step", "epoch", "eval_a_loss", "eval_loss"} in [set(entry) for entry in own.state.log_history]


@pytest.mark.parity
@pytest.mark.parametrize(("size", "accumulation"), [(2, 1), (4, 1), (2, 2), (1, 3), (3, 4)])
def test_an_epoch_ends_as_in_transformers(tmp_path, size, accumulation):
    """Five rows: the last batch of an epoch is shorter, and its last step adds up fewer batches."""
    import torch
    import transformers

    class Ours(torch.utils.data.Sampler):
        """The order of `CollatedData`."""

        def __init__(self):
            self.epoch = -1

        def __len__(self):
            return 5

        def __iter__(self):
            self.epoch += 1
            return iter(np.random.default_rng((0, self.epoch)).permutation(5).tolist())

    class Theirs(transformers.Trainer):
        def _get_train_sampler(self, *args):
            return Ours()

    rows = [{"input_ids": [i, i + 1, 6 * i], "labels": [-100, i + 1, 6 * i]} for i in range(1, 6)]
    options = {"num_train_epochs": 2, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    options |= {"learning_rate": 0.01, "lr_scheduler_type": "linear", "logging_steps": 1, "report_to": "none"}
    options |= {"use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    model = tiny_model()
    twin = hugging_face_twin(model)
    own = Trainer(model, TrainingArguments(tmp_path, **options), train_dataset=rows)
    other = Theirs(twin, transformers.TrainingArguments(tmp_path, **options), train_dataset=rows)
    own.train()
    other.train()
    ours, theirs = ([entry for entry in one.state.log_history if "loss" in entry] for one in (own, other))
    for name in ("loss", "epoch", "learning_rate"):
        np.testing.assert_allclose([e[name] for e in ours], [e[name] for e in theirs], rtol=2e-4)


@pytest.mark.parity
@pytest.mark.parametrize("compute", [None, lambda found: {"rows": len(found.label_ids)}])
def test_evaluations_have_batches_of_the_size_that_transformers_makes(tmp_path, compute):
    import torch
    import transformers

    def sizes(kind, arguments, model, made):
        def collator(rows):
            found.extend([len(rows)] if len(rows) < 7 else [])  # those of 7 are trained on
            return {name: made([row[name] for row in rows]) for name in ("input_ids", "labels")}

        found = []
        options = {"per_device_eval_batch_size": 3, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
        options |= {"max_steps": 2, "per_device_train_batch_size": 7, "save_strategy": "no", "disable_tqdm": True}
        args = arguments(tmp_path, **options, report_to="none", use_cpu=True)
        rows = [{"input_ids": [i, i + 1, 3 * i], "labels": [-100, i + 1, 3 * i]} for i in range(1, 8)]
        own = kind(model, args, collator, rows, rows, compute_metrics=compute)
        own.train()
        own.evaluate()
        own.predict(rows)
        return found

    model = tiny_model()
    twin = hugging_face_twin(model)
    ours = sizes(Trainer, TrainingArguments, model, np.array)
    assert ours == sizes(transformers.Trainer, transformers.TrainingArguments, twin, torch.tensor)
    assert ours == [3, 3, 1] * 4


@pytest.mark.parity
@pytest.mark.parametrize(
    ("metric", "given", "best"),
    [
        ("accuracy", {}, 2),
        ("eval_accuracy", {"greater_is_better": False}, 1),
        ("rows_loss", {}, 4),
        ("rows_loss", {"greater_is_better": True}, 1),
        (None, {}, 4),
    ],
)
def test_the_best_weights_are_those_that_transformers_finds(tmp_path, metric, given, best):
    """Of equal values the first; each batch has all rows, so that their order changes nothing."""
    import torch
    import transformers

    def run(kind, arguments, model, folder, array):
        options = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.01, "optim": "adamw_torch"}
        options |= {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "lr_scheduler_type": "linear"}
        options |= {"eval_on_start": True, "disable_tqdm": True, "report_to": "none", "use_cpu": True}
        args = arguments(folder, **options, **given, load_best_model_at_end=True, metric_for_best_model=metric)
        values = iter([(0.6, 8), (0.5, 9), (0.75, 7), (0.5, 7), (0.75, 6), (0.0, 0)])

        def measured(found):
            return dict(zip(("accuracy", "rows_loss"), next(values), strict=True))

        rows = [{"input_ids": [i, i + 1, 6 * i], "labels": [-100, i + 1, 6 * i]} for i in range(1, 5)]

        def collator(rows):
            return {name: array([row[name] for row in rows]) for name in ("input_ids", "labels")}

        own = kind(model, args, collator, rows, rows, compute_metrics=measured)
        own.train()
        state, args = own.state, own.args
        assert state.best_model_checkpoint.startswith(str(folder))
        told = args.metric_for_best_model, args.greater_is_better, state.best_metric, state.best_global_step
        return told, own.evaluate()["eval_loss"]

    model = tiny_model()
    twin = hugging_face_twin(model)
    ours = run(Trainer, TrainingArguments, model, tmp_path / "ours", np.array)
    theirs = run(transformers.Trainer, transformers.TrainingArguments, twin, tmp_path / "theirs", torch.tensor)
    assert ours[0][:2] == theirs[0][:2]
    assert ours[0][3] == theirs[0][3]
    np.testing.assert_allclose([ours[0][2], ours[1]], [theirs[0][2], theirs[1]], rtol=1e-4)
    assert ours[0][3] == best


def test_a_measure_that_there_is_not_is_named(tmp_path):
    own = trainer(tmp_path, eval_dataset={"a": ROWS[:3], "b": ROWS}, compute_metrics=lambda found: {"rows": 1})
    for metric in ("rows", "b_row"):
        own.args = TrainingArguments(**FEW, metric_for_best_model=metric)
        with pytest.raises(ValueError, match=f"'{metric}' was not measured; there is a, a_rows, b, b_rows"):
            own.train()
    for metric, name in (("b_rows", "b_rows"), ("eval_b_loss", "b"), ("loss", "a"), (None, "a")):
        own.args = TrainingArguments(**FEW, metric_for_best_model=metric)
        own.train()
        assert own.state.best_metric in [entry[name] for entry in own.history["evaluation"]]


def test_it_goes_on_from_its_checkpoint(tmp_path):
    whole = trainer(tmp_path)
    whole.train()
    again = trainer(tmp_path)
    again.train(resume_from_checkpoint=True)
    assert again.history == whole.history


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_a_checkpoint_that_another_run_goes_on_from_stays_as_it_is(tmp_path, kind, strategy):
    trainer(tmp_path).train()
    file = tmp_path / "out" / "checkpoint.safetensors"
    before = file.read_bytes()
    longer = trainer(tmp_path / "elsewhere")
    longer.args = TrainingArguments(tmp_path / "elsewhere" / "out", **{**FEW, "max_steps": 6}, save_strategy=strategy)
    assert longer.train(resume_from_checkpoint=kind(tmp_path / "out")).global_step == 6
    assert file.read_bytes() == before
    assert (tmp_path / "elsewhere" / "out" / file.name).exists() is (strategy == "steps")


def test_a_run_that_writes_nothing_goes_on(tmp_path):
    trainer(tmp_path).train()
    longer = trainer(tmp_path)
    longer.args = TrainingArguments(tmp_path / "out", **{**FEW, "max_steps": 6}, save_strategy="no")
    assert longer.train(resume_from_checkpoint=True).global_step == 6
    with pytest.raises(TypeError, match="resume should be True, or the path of the folder with the checkpoint, got"):
        longer.train(resume_from_checkpoint=3)


@pytest.mark.parametrize("name", ["compute_loss", "training_step", "get_train_dataloader", "create_optimizer"])
def test_what_a_subclass_would_say_in_vain_is_refused(name):
    with pytest.raises(TypeError, match=f"Own has its own {name}, which nothing calls here: write a loop of your own"):
        type("Own", (type("Mixin", (), {name: lambda self, *given: None}), Trainer), {})
    assert issubclass(type("Own", (Trainer,), {"evaluate": lambda self: {}}), Trainer)


def test_what_is_saved(tmp_path):
    own = trainer(tmp_path)
    own.save_model()
    own.save_model(str(tmp_path / "there"))
    for folder in ("out", "there"):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (tmp_path / folder).iterdir()}
    assert not isinstance(own.model, PeftModel)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_dataset": None}, ValueError, "Trainer was given no train_dataset"),
        ({"train_dataset": []}, ValueError, "train_dataset is empty"),
        ({"train_dataset": 3}, TypeError, "train_dataset should be a list of dicts, or a data set"),
        ({"data_collator": None}, ValueError, "no labels: give data_collator=DataCollatorForLanguageModeling"),
        ({"data_collator": None, "train_dataset": LABELLED}, ValueError, "unlike lengths: give data_collator="),
        ({"data_collator": None, "train_dataset": ROWS[:1]}, ValueError, "no labels: give data_collator="),
    ],
)
def test_what_cannot_be_trained_on_is_named(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        trainer(tmp_path, **changes).train()


@pytest.mark.parametrize("name", ["compute_loss_func", "optimizers", "model_init"])
def test_what_there_is_not_is_refused_by_name(tmp_path, name):
    with pytest.raises(TypeError, match=f"Trainer has no '{name}': write a loop of your own"):
        trainer(tmp_path, **{name: [print]})
    trainer(tmp_path, **{name: None})


def test_what_is_measured_is_in_the_history_the_table_and_the_checkpoint(tmp_path):
    def run(steps, resume=False):
        own = trainer(tmp_path, eval_dataset=ROWS[:3], compute_metrics=lambda found: {"rows": len(found.label_ids)})
        own.args = TrainingArguments(
            tmp_path / "out", **{**FEW, "max_steps": steps}, eval_strategy="steps", eval_steps=2, save_steps=2
        )
        own.train(resume_from_checkpoint=resume)
        return own

    own = run(2)
    assert [entry["eval_rows"] for entry in own.state.log_history if "eval_loss" in entry] == [3, 3]
    assert own.history["evaluation"][-1].keys() == {"step", "eval", "eval_rows"}
    assert "eval_rows" in repr(own.history)
    again = run(4, resume=True)
    assert [entry["step"] for entry in again.history["evaluation"]] == [0, 2, 4]
    assert again.history["evaluation"][:2] == own.history["evaluation"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (lambda found: 3, "should return a dict .*, not int"),
        (lambda found: {"a": "b"}, "'a' should be a number, not 'b'"),
    ],
)
def test_what_is_no_metric_is_refused(tmp_path, metrics, message):
    own = trainer(tmp_path, eval_dataset=ROWS, compute_metrics=metrics)
    with pytest.raises(TypeError, match=f"compute_metrics.*{message}"):
        own.evaluate()


def test_predictions_of_rows_of_unlike_lengths_are_filled_up(tmp_path):
    own = trainer(tmp_path)
    rows = [{"input_ids": [1, 2, 3]}] * 32 + [{"input_ids": [1, 2]}] * 2  # two batches
    output = own.predict(rows)
    assert output.predictions.shape == (34, 3, own.model.config.vocab_size)
    np.testing.assert_array_equal(output.predictions[32:, 2], -100)
    own.model.eval()
    np.testing.assert_allclose(output.predictions[33, :2], own.model([[1, 2]]).logits.numpy()[0], rtol=1e-4, atol=1e-5)
    assert output.label_ids.shape == (34, 3)
    assert output.metrics.keys() == {"test_loss"}


def test_several_data_sets_are_evaluated_by_name(tmp_path):
    parts = {"a": ROWS[:2], "b": ROWS[2:]}
    own = trainer(tmp_path, eval_dataset=parts, compute_metrics=lambda found: {"rows": len(found.label_ids)})
    found = own.evaluate()
    assert list(found) == ["eval_a_loss", "eval_a_rows", "eval_b_loss", "eval_b_rows"]
    assert own.evaluate(parts) == found
    assert own.evaluate("b") == {"eval_loss": found["eval_b_loss"], "eval_rows": 4}
    assert own.evaluate(ROWS[:2])["eval_loss"] == found["eval_a_loss"]
    by_place = own.evaluate(ROWS[:2], ["past_key_values"], "x"), own.predict(ROWS[:2], None, "x").metrics
    assert by_place[0] == by_place[1] == {"x_loss": found["eval_a_loss"], "x_rows": 2}
    with pytest.raises(ValueError, match="eval_dataset='c' is none of the data sets that Trainer was given: 'a', 'b'"):
        own.evaluate("c")


def test_several_things_are_kept_of_the_logits(tmp_path):
    def kept(logits, labels):
        assert isinstance(logits, Tensor)
        right = (logits.argmax(dim=-1)[:, :-1] == labels[:, 1:]).float()
        return logits.argmax(dim=-1), (right.sum(dim=1), logits[:, 0, :2])

    own = trainer(tmp_path, preprocess_logits_for_metrics=kept, compute_metrics=lambda found: {"n": len(found[0])})
    rows = [{"input_ids": [1, 2, 3]}] * 32 + [{"input_ids": [1, 2]}] * 2  # two batches
    chosen, (right, first) = own.predict(rows).predictions
    assert (chosen.shape, right.shape, first.shape) == ((34, 3), (34,), (34, 2))
    np.testing.assert_array_equal(chosen[32:, 2], -100)
    np.testing.assert_allclose(first, np.tile(first[:1], (34, 1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tokenizer", [None, ByteTokenizer()])
def test_a_label_by_either_name_is_the_rows(tokenizer):
    config = GPT2Config(256, n_positions=16, n_embd=16, n_layer=1, n_head=2, num_labels=1, pad_token_id=0)
    model = GPT2ForSequenceClassification(config)
    found = []
    for name in ("label", "labels"):
        rows = [{"input_ids": [5, 6, 7][: 3 - i % 2 if tokenizer else 3], name: i / 4} for i in range(5)]
        found.append(Trainer(model, processing_class=tokenizer).predict(rows))
    for output in found:
        assert output.label_ids.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert output.metrics == found[0].metrics


def test_rows_that_have_no_labels_are_predicted_by_any_collator(tmp_path):
    collators = (DataCollatorForSeq2Seq(ByteTokenizer()), None)
    outputs = [trainer(tmp_path, data_collator=collator).predict(ROWS[:3]) for collator in collators]
    assert all(output.label_ids is None and output.metrics == {} for output in outputs)
    np.testing.assert_array_equal(*[output.predictions for output in outputs])


def test_texts_have_no_order_to_predict_in(tmp_path):
    with pytest.raises(ValueError, match="predict answers row by row: give rows of input_ids"):
        trainer(tmp_path, data_collator=None).predict(EXAMPLES)


def test_save_model_without_a_folder():
    with pytest.raises(ValueError, match="save_model needs a folder"):
        Trainer(full(1)).save_model()


def test_gaps_are_not_filled():
    with pytest.raises(ValueError, match="mlm=True is for models that fill gaps"):
        Collator(ByteTokenizer(), mlm=True)
