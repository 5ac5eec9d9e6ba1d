"""From a run to its callbacks: what `train(tell=...)` says becomes Transformers' calls, and the state that they see."""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ..expect import expect_list, expect_method
from .arguments import TrainingArguments, epochs_done
from .best import best_of, value_of
from .callbacks import TrainerControl, TrainerState

if TYPE_CHECKING:
    from .loop import TrainingRun

A_CALLBACK = "a TrainerCallback, such as EarlyStoppingCallback()"


class CallbackHandler:
    """Callbacks, with the state and the control of a run, which calls handler(event, run) when it has come there.

    about   what callbacks are told besides, by keyword
    """

    def __init__(self, callbacks: Any, args: TrainingArguments, **about: Any) -> None:
        self.callbacks: list[Any] = []
        for callback in expect_list(callbacks or [], "callbacks", "a list of TrainerCallbacks"):
            self.add(callback)
        self.about = about
        self.start(args)

    def add(self, callback: Any) -> None:
        """One callback more; of a class, an instance."""
        made = callback() if isinstance(callback, type) else callback
        expect_method(made, "on_step_end", "each of callbacks", A_CALLBACK)
        self.callbacks.append(made)

    def take_out(self, callback: Any) -> Any:
        """Forget this callback, or the first of this class, and return it; None if there is none."""
        meant = [c for c in self.callbacks if c is callback or (isinstance(callback, type) and isinstance(c, callback))]
        found = meant[0] if meant else None
        self.callbacks = [c for c in self.callbacks if c is not found]
        return found

    def start(self, args: TrainingArguments, data: Any = None, names: Collection[str] = (), **about: Any) -> None:
        """A new state, for a run on `data`. names: those of the data sets that are evaluated."""
        self.args, self.data, self.names, self.about = args, data, names, {**self.about, **about}
        self.state, self.control = TrainerState(), TrainerControl()
        self.logged, self.in_epoch = 0, False  # how many steps are in the log

    def tell(self, event: str, **more: Any) -> None:
        """Call this method of each callback."""
        for callback in self.callbacks:
            given = getattr(callback, event)(self.args, self.state, self.control, **self.about, **more)
            self.control = self.control if given is None else given

    def log(self, numbers: Mapping[str, float], step: int) -> dict[str, float]:
        """Put numbers of this step into the log, and tell; returns them with the epoch."""
        logs = {**numbers, "epoch": epochs_done(self.data, self.args, step)}
        self.state.log_history.append({**logs, "step": step})
        self.tell("on_log", logs=logs)
        return logs

    def evaluated(self, numbers: Mapping[str, float]) -> None:
        """Tell of an evaluation, whose numbers have Transformers' names."""
        self.tell("on_evaluate", metrics=self.log(numbers, self.state.global_step))

    def __call__(self, event: str, run: "TrainingRun") -> None:
        """Tell of this event; the run ends if a callback asks for that."""
        self.history, self.state.max_steps = run.history, run.args.steps
        self.state.num_train_epochs = math.ceil(epochs_done(self.data, self.args, run.args.steps))
        self.state.global_step, self.state.epoch = run.step, epochs_done(self.data, self.args, run.step)
        if self.args.load_best and run.watch.saved_step is not None:
            self.state.best_model_checkpoint = str(self.args.output_dir)
        getattr(self, f"_{event}")(run)
        if self.control.should_training_stop:
            run.stop.set()

    def _on_train_begin(self, run: "TrainingRun") -> None:
        self.about["optimizer"] = run.optimizer
        callbacks, self.callbacks = self.callbacks, []  # of a run that goes on, they were told of what was before
        for evaluation in run.history["evaluation"]:
            self._log_steps(evaluation["step"])
            self.log(self._named(evaluation), evaluation["step"])
        self._log_steps(run.step)
        self.callbacks = callbacks
        self._note_best()
        self.tell("on_train_begin")

    def _on_step_begin(self, run: "TrainingRun") -> None:
        if not self.in_epoch:
            self.in_epoch = True
            self.tell("on_epoch_begin")
        self.tell("on_step_begin")

    def _on_step_end(self, run: "TrainingRun") -> None:
        self.tell("on_step_end")
        self._log_steps(run.step)
        if "epoch" in (self.args.eval_strategy, self.args.save_strategy) and self._epoch_is_over():
            self._end_epoch()

    def _on_evaluate(self, run: "TrainingRun") -> None:
        self._log_steps(run.step)
        self.evaluated(self._named(run.history["evaluation"][-1]))
        self._note_best()

    def _on_save(self, run: "TrainingRun") -> None:
        if run.watch.saved_step == run.step:  # else it could not be written
            self.tell("on_save")

    def _on_step_over(self, run: "TrainingRun") -> None:
        if self._epoch_is_over():
            self._end_epoch()

    def end(self) -> float:
        """The run is over: tell, and return the mean loss of its steps."""
        losses = self.history["loss"]
        self._log_steps(len(losses))
        if self.in_epoch:
            self._end_epoch()
        mean = sum(losses) / len(losses)
        self.log({"train_loss": mean}, len(losses))
        self.tell("on_train_end")
        del self.about["optimizer"]  # and the memory that it holds
        return mean

    def _epoch_is_over(self) -> bool:
        return self.in_epoch and self.state.epoch > 0 and self.state.epoch % 1 == 0

    def _end_epoch(self) -> None:
        self.in_epoch = False
        self.tell("on_epoch_end")

    def _log_steps(self, last: int) -> None:
        """Log the steps up to this one whose losses are known: on a GPU that may be later."""
        losses, rates = self.history["loss"], self.history["learning_rate"]
        for i in range(self.logged, min(last, len(losses))):
            self.logged = i + 1
            self.log({"loss": losses[i], "learning_rate": rates[i]}, i + 1)

    def _named(self, evaluation: Mapping[str, float]) -> dict[str, float]:
        """What was measured, by Transformers' names: eval_loss, eval_NAME_loss, eval_NAME_accuracy."""
        kinds = {name: f"{name}_loss" if name in self.names else name for name in evaluation if name != "step"}
        return {k if k.startswith("eval_") else f"eval_{k}": evaluation[name] for name, k in kinds.items()}

    def _note_best(self) -> None:
        if self.history["evaluation"]:
            best = best_of(self.history["evaluation"], self.args)
            self.state.best_metric = value_of(best, self.args.metric_for_best_model)
            self.state.best_global_step = best["step"]
