"""The learning rate's course in loops that people write themselves, under the names of torch and Transformers.

`scheduler = get_linear_schedule_with_warmup(optimizer, 10, 100)`, and after each `optimizer.step()` a
`scheduler.step()`. What they compute stands in `schedule.py`, where `train` has it from, too.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ...expect import expect
from .optimizer import Optimizer
from .schedule import NAMES, OWN, rate_fraction

AN_OPTIMIZER = "an optimizer, such as AdamW(model.parameters(), lr=1e-4)"
OPEN = {  # what a course does without
    "constant": ("num_warmup_steps", "num_training_steps"),
    "constant_with_warmup": ("num_training_steps",),
    "inverse_sqrt": ("num_training_steps",),
}
Course = Callable[[int], float]  # the number of a step, from 0 -> the fraction of the group's learning rate


class LambdaLR:
    """Each group's learning rate is the one that it had at first, times `lr_lambda(step)`; steps count from 0.

    lr_lambda   a function, or a list with one for each group
    last_epoch  the number of steps done, minus one, where a run goes on
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Course | list[Course], last_epoch: int = -1) -> None:
        expect(optimizer, Optimizer, "optimizer", AN_OPTIMIZER)
        groups = optimizer.param_groups
        courses = lr_lambda if isinstance(lr_lambda, list | tuple) else [lr_lambda] * len(groups)
        if len(courses) != len(groups):
            raise ValueError(f"lr_lambda has {len(courses)} functions, the optimizer {len(groups)} parameter groups")
        self.optimizer, self.lr_lambdas = optimizer, list(courses)
        for group in groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float] = [group["initial_lr"] for group in groups]
        self.last_epoch = last_epoch
        self.step()

    def step(self) -> None:
        """Go on to the next step's learning rate."""
        self.last_epoch += 1
        for group, base, course in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * course(self.last_epoch)

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as it is now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """How far it has come."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave."""
        self.base_lrs, self.last_epoch = list(state["base_lrs"]), state["last_epoch"] - 1
        self.step()


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Up from 0 in a straight line for the first steps, then down to 0 in another."""
    return _named("linear", optimizer, num_training_steps, num_warmup_steps, last_epoch)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Up from 0 in a straight line first, then along `num_cycles` periods of a cosine: half of one ends at 0."""
    return _named("cosine", optimizer, num_training_steps, num_warmup_steps, last_epoch, num_cycles=num_cycles)


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """The learning rate as it is."""
    return _named("constant", optimizer, 0, 0, last_epoch)


def get_constant_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """Up from 0 in a straight line for the first steps, then as it is."""
    return _named("constant_with_warmup", optimizer, 0, num_warmup_steps, last_epoch)


def get_scheduler(
    name: Any,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> LambdaLR:
    """The course that Transformers has under this name: "linear", "cosine", "constant" and others of `schedule.NAMES`.

    scheduler_specific_kwargs: what the course can be told besides, such as {"num_cycles": 2}
    ValueError for an unknown name, and for a number of steps that the course needs and that is not given.
    """
    name = getattr(name, "value", name)  # of an enum
    if name not in NAMES or name == OWN:
        raise ValueError(f"name must be one of {', '.join(n for n in NAMES if n != OWN)}, got {name!r:.60}")
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    missing = [step for step in steps if steps[step] is None and step not in OPEN.get(name, ())]
    if missing:
        raise ValueError(f"the course {name!r} needs {' and '.join(missing)}")
    options = dict(scheduler_specific_kwargs or {})
    return _named(name, optimizer, num_training_steps or 0, num_warmup_steps or 0, -1, **options)


def _named(name: str, optimizer: Optimizer, total: int, warmup: int, last_epoch: int, **options: Any) -> LambdaLR:
    """The course that `schedule.rate_fraction` has under this name."""
    rate = optimizer.defaults["lr"] if isinstance(optimizer, Optimizer) else 1.0  # LambdaLR says what it should be
    return LambdaLR(optimizer, lambda step: rate_fraction(name, step, total, warmup, rate, options), last_epoch)
