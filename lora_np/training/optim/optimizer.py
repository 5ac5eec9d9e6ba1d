"""What all optimizers share: groups of parameters, their settings, and state that can be saved."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...autograd import Tensor
from ...autograd.devices import array_module, is_array, to_device
from ...autograd.in_place import outdate
from ...expect import expect, expect_list, expect_number
from ...keywords import unknown_keyword
from ...nn.module import clear_gradients
from ...nn.utils import parameters_in
from ..protocols import Array

CHANGE_NOTHING = ("foreach", "fused", "capturable", "differentiable")  # in torch they say how, not what
OFF = ("amsgrad", "maximize", "nesterov", "dampening")
A_STATE = 'what state_dict() gives, {"state": {0: {...}, ...}, "param_groups": [{"params": [0, ...], ...}, ...]}'
TWO_BETAS = "two numbers in [0, 1), the first for the mean and the second for the squares"
Group = dict[str, Any]  # {"params": [...], "lr": ..., ...}: parameters and their settings
State = dict[str, Any]  # what an optimizer keeps for one parameter: {"step": 3, "m": array, ...}
Forms = dict[str, tuple[tuple[int, ...], Any]]  # {name: (shape, dtype)} of these arrays; of "step" neither is read


class Optimizer:
    """What SGD and AdamW share: parameter groups and state. Abstract: subclasses write `update`.

    params: Parameters, or dicts {"params": [...], "lr": ..., ...} whose settings override the defaults.
    Parameters without a gradient are passed over and have no state: under LoRA, that is the whole base model.
    ValueError if there is no parameter, one is there twice, or a setting is unknown or makes no sense.
    """

    state_names: tuple[str, ...] = ()  # what `update` keeps for each parameter
    recordable = False  # does a step do the same each time, but for what a kernel counts? (parallel/recorded.py)

    def __init__(
        self, params: Iterable[Tensor] | Iterable[Group], options: Mapping[str, Any] | None = None, **defaults: Any
    ) -> None:
        """options: what torch's optimizer of this name can be told besides; see `check_options`."""
        check_options(type(self).__name__, options or {}, defaults)
        self.defaults = defaults
        groups = parameters_in(params)
        if not groups:
            raise ValueError("the optimizer was given no parameters: is everything frozen?")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups: list[Group] = []
        self.state: dict[int, State] = {}  # by the parameter's id()
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """One group more: {"params": [...], "lr": ..., ...}. Errors as for a new optimizer; nothing has changed."""
        group = {**self.defaults, **param_group, "params": parameters_in(param_group.get("params"))}
        self._check_settings(group, {"params", *self.defaults})
        everything = [id(p) for p in [*self.parameters(), *group["params"]]]
        if len(set(everything)) != len(everything):
            raise ValueError("a parameter was given to the optimizer twice")
        self.param_groups.append(group)

    def _check_settings(self, group: Group, known: set[str]) -> None:
        """ValueError if a group has other settings than the `known` ones, or some that make no sense."""
        unknown = set(group) - known
        if unknown:
            hint = _hint(type(self).__name__, min(unknown), sorted(known))
            raise ValueError(f"unknown settings for {type(self).__name__}: {', '.join(sorted(unknown))}; {hint}")
        expect_number(group["lr"], "the learning rate")
        for name in {"eps", "weight_decay", "momentum"} & set(group):
            expect_number(group[name], name)
        if "betas" in group:
            expect_betas(group["betas"])

    def parameters(self) -> list[Tensor]:
        """Every parameter, in the order in which `state_dict` numbers them."""
        return [p for group in self.param_groups for p in group["params"]]

    def step(self) -> None:
        """Change every parameter that has a gradient, in place: of earlier forward passes there is no way back."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            outdate(params)
            self.update_group(params, group)

    def update_group(self, params: list[Tensor], group: Group) -> None:
        """Change parameters that have gradients and one group's settings."""
        for p in params:
            self.update(p, p.grad, self.state.setdefault(id(p), {}), group)

    def update(self, p: Tensor, grad: Array, state: State, group: Group) -> None:
        """Change one parameter. `state` is its own dict, empty at first."""
        raise NotImplementedError

    def state_forms(self, p: Tensor, group: Group) -> Forms:
        """{name: (shape, dtype)} of the state of one parameter, which has the settings of `group`."""
        return dict.fromkeys(self.state_names, (p.shape, p.dtype))

    def state_nbytes(self) -> int:
        """The memory that the arrays of the state take now, in bytes."""
        values = (value for state in self.state.values() for value in state.values())
        return sum(value.nbytes for value in values if not isinstance(value, int))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or with False make them zero."""
        clear_gradients(self.parameters(), set_to_none)

    def __repr__(self) -> str:
        """As torch shows it: each group, and its settings."""
        lines = []
        for i, group in enumerate(self.param_groups):
            numbers = sum(p.numel() for p in group["params"])
            lines += [f"Parameter Group {i}: {len(group['params'])} tensors, {numbers:,d} numbers"]
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([f"{type(self).__name__} (", *lines, ")"])

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: {name: array or int}}, "param_groups": [{"params": [number, ...], "lr": ..., ...}]}.

        As in torch: parameters are numbered as in `parameters()`, and the arrays are the optimizer's own, no copies.
        """
        numbers = {id(p): i for i, p in enumerate(self.parameters())}
        state = {i: dict(self.state[key]) for key, i in numbers.items() if key in self.state}
        groups = [{**group, "params": [numbers[id(p)] for p in group["params"]]} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a copy of what `state_dict` gave, learning rates and other settings included.

        ValueError, and nothing changed, if it does not fit.
        """
        expect(state_dict, Mapping, "state_dict", A_STATE)
        if not _is_whole(state_dict):
            raise ValueError(f"state_dict should be {A_STATE}; it has {', '.join(map(str, state_dict))!r:.80}")
        sizes, own = ([len(g["params"]) for g in gs] for gs in (state_dict["param_groups"], self.param_groups))
        if sizes != own:
            raise ValueError(
                f"the state_dict is of groups of {sizes} parameters, and this optimizer has groups of {own}"
            )
        groups = []
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            groups.append({**group, **saved, "params": group["params"]})
            self._check_settings(groups[-1], {"params", "initial_lr", *self.defaults})
        arrays = {f"{i}.{name}": v for i, values in state_dict["state"].items() for name, v in values.items()}
        new = self.checked_state(arrays, groups)
        copies = {key: {n: v if isinstance(v, int) else v.copy() for n, v in s.items()} for key, s in new.items()}
        self.state, self.param_groups = copies, groups

    def numbered_state(self) -> dict[str, Array | int]:
        """{"number.name": array or int}: the state of each parameter, as a file has it."""
        state = self.state_dict()["state"]
        return {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}

    def checked_state(self, state: Mapping[str, Array], groups: list[Group] | None = None) -> dict[int, State]:
        """A `numbered_state`, as `self.state` holds it. ValueError if it does not fit, or is not finite.

        groups: those whose settings count, if they are not those that there are.
        """
        owners = [(p, self.state_forms(p, group)) for group in groups or self.param_groups for p in group["params"]]
        new: dict[int, State] = {}
        for key, value in state.items():
            number, _, name = key.partition(".")
            if not number.isdigit() or int(number) >= len(owners) or name not in owners[int(number)][1]:
                kind = type(self).__name__
                raise ValueError(
                    f"optimizer state {key!r} belongs to none of the {len(owners)} parameters of this {kind}"
                )
            p, forms = owners[int(number)]
            new.setdefault(id(p), {})[name] = _fitting(key, value, p, *forms[name])
        for p, forms in owners:
            missing = set(forms) - set(new.get(id(p), forms))
            if missing:
                names = ", ".join(sorted(missing))
                raise ValueError(f"the optimizer state of a parameter is incomplete: {names} is missing")
        return new


def expect_betas(betas: Any) -> None:
    """TypeError or ValueError unless these are what AdamW is told about its two means."""
    if len(expect_list(betas, "betas", TWO_BETAS)) != 2:
        raise ValueError(f"betas should be {TWO_BETAS}, got {betas!r}")
    for beta in betas:
        expect_number(beta, "each of betas")
        if beta >= 1:
            raise ValueError(f"each of betas must be below 1, got {beta}")


def _is_whole(state_dict: Mapping[str, Any]) -> bool:
    """Has it the form of what `state_dict` gives, whatever the numbers are?"""
    state, groups = state_dict.get("state"), state_dict.get("param_groups")
    if not isinstance(state, Mapping) or not isinstance(groups, list | tuple):
        return False
    listed = all(isinstance(group, Mapping) and isinstance(group.get("params"), list | tuple) for group in groups)
    return listed and all(isinstance(values, Mapping) for values in state.values())


def check_options(name: str, options: Mapping[str, Any], known: Iterable[str] = ()) -> None:
    """Of what torch's optimizers can be told, some changes no number; the rest is refused unless it is off.

    known: the names of the optimizer's own settings.
    """
    for option, value in options.items():
        if option in CHANGE_NOTHING:
            continue
        if option not in OFF:
            hint = _hint(name, option, [*known, *CHANGE_NOTHING, *OFF])
            raise TypeError(f"{name} has no argument {option!r}; {hint}")
        if value:
            raise ValueError(f"{name} is plain here, without {option}: got {option}={value!r}")


def _hint(name: str, wrong: str, known: Iterable[str]) -> str:
    """ "did you mean ...?", or all names."""
    return unknown_keyword(name, wrong, known).partition("; ")[2]


def _fitting(key: str, value: Array, p: Tensor, shape: tuple[int, ...], dtype: Any) -> Array | int:
    """A saved value as the state of `p` has it: the number of steps as an int, an array on the parameter's device."""
    if key.endswith(".step"):
        if np.ndim(value) or np.asarray(value).dtype.kind not in "iu" or value < 0:
            raise ValueError(f"optimizer state {key!r} should be a whole number of steps, got {value!r:.40}")
        return int(value)
    if not is_array(value):
        raise ValueError(f"optimizer state {key!r} should be an array, got {value!r:.40}")
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(
            f"optimizer state {key!r} is {value.dtype} of shape {value.shape}, here it should be {dtype} of {shape}"
        )
    if not array_module(value).isfinite(value).all():
        raise ValueError(f"optimizer state {key!r} has numbers that are not finite")
    return to_device(value, p.device)
