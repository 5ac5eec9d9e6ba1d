"""Callbacks, under Transformers' names: objects that a run tells how far it has come, and that may end it."""

from dataclasses import dataclass, field
from typing import Any

from ..expect import expect_number, expect_whole
from .best import badness, value_of

UNTOLD = ("on_pre_optimizer_step", "on_optimizer_step", "on_substep_end", "on_prediction_step", "on_push_begin")


@dataclass
class TrainerState:
    """How far a run has come. log_history: a dict for each step and evaluation. best_...: of the best evaluation."""

    epoch: float = 0.0
    global_step: int = 0
    max_steps: int = 0
    num_train_epochs: int = 0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True


class TrainerControl:
    """What a callback may ask for: with `should_training_stop = True`, this step is the last."""

    should_training_stop = False

    def __setattr__(self, name: str, value: bool) -> None:
        if name != "should_training_stop":
            raise AttributeError(f"control.{name} does nothing here: eval_steps and save_steps say when that is done")
        super().__setattr__(name, value)


class TrainerCallback:
    """Methods that are called when their names say, and do nothing unless a subclass has its own. Abstract.

    All have (args, state, control, model=, processing_class=, optimizer=, train_dataloader=, eval_dataloader=), on_log
    also logs=, on_evaluate and on_predict metrics=. Each step is logged. They return the control, or None.
    """

    def _nothing(self, args: Any, state: TrainerState, control: TrainerControl, **about: Any) -> Any:
        """Nothing."""

    on_init_end = on_train_begin = on_train_end = on_epoch_begin = on_epoch_end = _nothing
    on_step_begin = on_step_end = on_log = on_evaluate = on_save = on_predict = _nothing

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if own := [name for name in UNTOLD if hasattr(cls, name)]:
            raise TypeError(f"{cls.__name__} has its own {own[0]}, which nothing calls here; there is on_step_end")


class EarlyStoppingCallback(TrainerCallback):
    """Ends a run after so many evaluations that are not better than the best before by more than a threshold.

    What is looked at is args.metric_for_best_model. As in Transformers, the last evaluation's weights stay, unless the
    arguments have load_best_model_at_end. The evaluation before the first step counts as one to be better than. What
    `Trainer.evaluate` measures under another prefix than "eval" does not count.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0) -> None:
        expect_whole(early_stopping_patience, "early_stopping_patience")
        self.early_stopping_threshold = early_stopping_threshold or 0.0
        expect_number(self.early_stopping_threshold, "early_stopping_threshold")
        self.early_stopping_patience, self.early_stopping_patience_counter = early_stopping_patience, 0

    def on_train_begin(self, *told: Any, eval_dataloader: Any = None, **about: Any) -> None:
        if not eval_dataloader:
            raise ValueError("EarlyStoppingCallback needs an evaluation: give Trainer an eval_dataset")

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any = None, **about: Any) -> None:
        try:
            value = value_of({k: v for k, v in metrics.items() if k.startswith("eval_")}, args.metric_for_best_model)
        except ValueError:  # the run itself says so, if it is its evaluation
            return
        best = state.best_metric
        if best is None or badness(best, args) - badness(value, args) > self.early_stopping_threshold:
            self.early_stopping_patience_counter = 0
        else:
            self.early_stopping_patience_counter += 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True
