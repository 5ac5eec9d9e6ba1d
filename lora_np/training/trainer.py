"""`Trainer`, under Transformers' names: a way to call `train`."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from ..expect import A_MODEL, expect
from ..models.classification import SequenceClassifier
from ..models.rope import context_length
from ..nn import Module
from .arguments import TrainingArguments
from .callback_handler import CallbackHandler
from .callbacks import TrainerState
from .collators import CollatedData, DataCollatorWithPadding, default_data_collator, label_whole_rows
from .datasets import rows_of
from .evaluation import measured
from .examples import ExampleData
from .loop import train
from .predictions import EvalPrediction, Measured, PredictionOutput, answers, metrics_of

BATCH_SIZE, LONGEST = 8, 1024  # Transformers' default, and the most tokens of an example
NOT_HERE = "write a loop of your own around model(**batch).loss.backward() and optimizer.step()"
# What a subclass of Transformers' Trainer says otherwise; nothing here would call it
HOOKS = {
    *(
        "compute_loss",
        "training_step",
        "prediction_step",
        "evaluation_loop",
        "prediction_loop",
        "optimizer_step",
        "log",
    ),
    *("create_optimizer", "create_scheduler", "create_optimizer_and_scheduler", "get_decay_parameter_names"),
    *("get_train_dataloader", "get_eval_dataloader", "get_test_dataloader", "_get_train_sampler", "_get_eval_sampler"),
    *("_prepare_inputs", "_inner_training_loop", "_save", "_save_checkpoint", "_maybe_log_save_evaluate"),
}


class TrainOutput(NamedTuple):
    """What `Trainer.train` returns: steps, the mean loss of all, and {"train_loss": that}."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class Trainer:
    """A model (or one with an adapter), data and `TrainingArguments`; `train()` is `lora_np.train` on them.

    train_dataset, eval_dataset   rows {"input_ids", "labels"}, which `data_collator` makes into batches, or examples
                       (see `ExampleData`), which the tokenizer reads: a list of dicts, or a data set of Hugging Face's
                       kind. Also what `train` and `evaluate` take
    processing_class   the tokenizer, also by its old name, `tokenizer`
    Losses are means over all tokens that are predicted. (Transformers' Trainer also counts each row's first label,
    which no token precedes, unless that is -100.)
    compute_metrics    `EvalPrediction(predictions, label_ids)` -> {name: number}: what evaluations measure besides the
                       loss, as eval_NAME. `preprocess_logits_for_metrics(logits, labels)`, given Tensors, says what is
                       kept of a batch's logits, which for a language model are B·T·V numbers
    callbacks          objects or classes that are told how far training has come, and may end it: `TrainerCallback`
    After `train()`: `history`, what `train` returns, and `state.log_history`, a dict for each step and evaluation; the
    losses of several data sets are eval_NAME_loss. `state.best_metric` and `state.best_global_step` are of the best
    evaluation, that of the beginning among them (step 0); with `load_best`, its weights are in the checkpoint in the
    folder `state.best_model_checkpoint`, from which runs go on.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments | None = None,
        data_collator: Callable[[Any], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        compute_metrics: Callable[[Any], Mapping[str, Any]] | None = None,
        callbacks: Any = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        tokenizer: Any = None,
        **others: Any,
    ) -> None:
        expect(model, Module, "model", A_MODEL)
        for name, value in others.items():
            if value not in (None, [], (None, None)):
                raise TypeError(f"Trainer has no {name!r}: {NOT_HERE}")
        self.model, self.args, self.data_collator = model, args or TrainingArguments(), data_collator
        self.processing_class = tokenizer if processing_class is None else processing_class
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.compute_metrics, self.preprocess_logits_for_metrics = compute_metrics, preprocess_logits_for_metrics
        self.history: dict[str, Any] = {}
        self.callback_handler = CallbackHandler(
            callbacks, self.args, model=model, processing_class=self.processing_class
        )
        self.callback_handler.tell("on_init_end")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if own := sorted(name for name in HOOKS if hasattr(cls, name)):
            raise TypeError(f"{cls.__name__} has its own {own[0]}, which nothing calls here: {NOT_HERE}")

    def train(self, resume_from_checkpoint: bool | str | PathLike[str] | None = None) -> TrainOutput:
        """Train; with `resume_from_checkpoint`, go on from the checkpoint in output_dir, or in the folder it names.
        Checkpoints are written to output_dir."""
        data = self._data(self.train_dataset, "train_dataset")
        held_out = self.eval_dataset if self.args.eval_strategy != "no" else None
        parts = held_out if isinstance(held_out, Mapping) else {"eval": held_out} if held_out is not None else {}
        evaluation = {name: self._measuring(part) for name, part in parts.items()}
        handler, resume = self.callback_handler, resume_from_checkpoint or False
        handler.start(self.args, data, parts, train_dataloader=data, eval_dataloader=evaluation)
        self.history = train(self.model, data, self.args, evaluation, resume=resume, tell=handler)
        mean = handler.end()
        return TrainOutput(self.state.global_step, mean, {"train_loss": mean})

    @property
    def state(self) -> TrainerState:
        """How far the last `train()` has come, and its log."""
        return self.callback_handler.state

    def add_callback(self, callback: Any) -> None:
        """One `TrainerCallback` more, or its class."""
        self.callback_handler.add(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Forget a callback, or the first of a class, and return it; None if there is none."""
        return self.callback_handler.take_out(callback)

    def remove_callback(self, callback: Any) -> None:
        """The same. ValueError if there is no such callback; of a class there may be none."""
        if self.callback_handler.take_out(callback) is None and not isinstance(callback, type):
            raise ValueError(f"remove_callback: {callback!r:.80} is none of the callbacks")

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """{"eval_loss": the mean loss over all tokens that count, in nats}, and what `compute_metrics` measures.

        Of several data sets, {name: data}, eval_NAME_loss; the name of one of those that Trainer was given is enough.
        ignore_keys: what Transformers would leave out of a model's outputs; here there is nothing but the logits.
        """
        given = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(given, str) and isinstance(self.eval_dataset, Mapping):
            if given not in self.eval_dataset:
                names = ", ".join(map(repr, self.eval_dataset))
                raise ValueError(f"eval_dataset={given!r} is none of the data sets that Trainer was given: {names}")
            given = self.eval_dataset[given]
        if isinstance(given, Mapping):
            each = [self.evaluate(part, None, f"{metric_key_prefix}_{name}") for name, part in given.items()]
            return {name: number for found in each for name, number in found.items()}
        data = {metric_key_prefix: self._measuring(given)}
        found = measured(self.model, data, self.args.per_device_eval_batch_size)
        numbers = {f"{name}_loss" if name == metric_key_prefix else name: number for name, number in found.items()}
        self.callback_handler.evaluated(numbers)
        return numbers

    def predict(self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test") -> PredictionOutput:
        """The logits of every row, in the order of the rows, with their labels and metrics if they have labels.

        Rows of input_ids, or of a language model also {"input_ids", "labels"}. Logits (N, classes), or (N, T, V) filled
        up with -100. Keep of these what is needed: `preprocess_logits_for_metrics`. ignore_keys: as of `evaluate`.
        """
        data = self._data(test_dataset, "test_dataset", needs_labels=False, shows_logits=True)
        if not isinstance(data, CollatedData):
            raise ValueError("predict answers row by row: give rows of input_ids, which the tokenizer makes of texts")
        loss, logits, labels = answers(
            self.model, data, self.args.per_device_eval_batch_size, self.preprocess_logits_for_metrics
        )
        metrics = {} if loss is None else {f"{metric_key_prefix}_loss": loss}
        if self.compute_metrics is not None and labels is not None:
            metrics |= metrics_of(self.compute_metrics, EvalPrediction(logits, labels), metric_key_prefix)
        self.callback_handler.tell("on_predict", metrics=metrics)
        return PredictionOutput(logits, labels, metrics)

    def save_model(self, output_dir: str | None = None) -> None:
        """Write the model, or its adapter, and the tokenizer to a folder, by default `args.output_dir`."""
        folder = self.args.output_dir if output_dir is None else output_dir
        if folder is None:
            raise ValueError(
                "save_model needs a folder: save_model('folder'), or TrainingArguments(output_dir='folder')"
            )
        for part in (self.model, self.processing_class):
            if part is not None:
                part.save_pretrained(Path(folder))

    def _measuring(self, given: Any) -> Any:
        """Data to evaluate on, with `compute_metrics` if there is one."""
        data = self._data(given, "eval_dataset", shows_logits=self.compute_metrics is not None)
        if self.compute_metrics is None:
            return data
        return Measured(data, self.compute_metrics, self.preprocess_logits_for_metrics)

    def _data(self, given: Any, name: str, needs_labels: bool = True, shows_logits: bool = False) -> Any:
        """A data set as `train` and `evaluate` read it."""
        if given is None:
            raise ValueError(f"Trainer was given no {name}")
        if hasattr(given, "batches"):
            return given
        rows, size = rows_of(given, name), self.args.per_device_train_batch_size or BATCH_SIZE
        if not rows:
            raise ValueError(f"{name} is empty: there is no row in it")
        if "input_ids" in rows[0] or self.processing_class is None:
            padded = self.processing_class is not None and label_whole_rows(rows[0])  # no labels of tokens to fill up
            usual = DataCollatorWithPadding(self.processing_class) if padded else default_data_collator
            collator = self.data_collator or usual
            return CollatedData(rows, collator, size, self.args.accumulation, name, needs_labels, shows_logits)
        if isinstance(getattr(self.model, "get_base_model", lambda: self.model)(), SequenceClassifier):
            raise ValueError(
                f"{name}: a classifier learns from rows of input_ids with a label: give the tokenizer the texts first, "
                'as dataset.map(lambda row: tokenizer(row["text"], truncation=True))'
            )
        longest = min(LONGEST, context_length(self.model.config))
        return ExampleData(given, self.processing_class, longest, size)
