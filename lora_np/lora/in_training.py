"""What the adapters of one name do in training beside learning: a term in the loss, a change after each step.

What that is, their kind says: `Adapter.loss_term` and `after_step`. AdaLoRA is the one that does both.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .. import nn
from .adapter import Adapter
from .call import ORDINARY, this_call
from .kinds import known
from .types import Array


def in_training(tuner: Any) -> list[tuple[type[Adapter], Any, str, dict[str, Any]]]:
    """[(kind, config, name, {layer: Adapter})] of the active adapters of a LoraModel that do something together.

    Only of those that are trained.
    """
    found = []
    for name in tuner.active_adapters:
        config = tuner.peft_config[name]
        kind = known(config.peft_type)[1][-1]
        if kind.together:
            own = {target: layer.adapters[name] for target, layer in tuner.adapted.items() if name in layer.adapters}
            trained = {target: a for target, a in own.items() if any(p.requires_grad for p in a.parameters())}
            found += [(kind, config, name, trained)] if trained else []
    return found


def add_terms(tuner: Any, output: Any) -> Any:
    """A model's output, its loss with what active adapters add to it; not in a call that leaves them out."""
    if getattr(output, "loss", None) is not None and this_call(tuner.owner) == ORDINARY:
        for kind, config, _, adapters in in_training(tuner):
            term = kind.loss_term(config, list(adapters.values()))
            output.loss = output.loss if term is None else output.loss + term
    return output


def method_of_kinds(configs: Mapping[str, Any], name: str) -> str | None:
    """The name here of a method that PEFT's model has under this one with such adapters; None if it has none."""
    for config in configs.values():
        kind = known(config.peft_type)[1][-1]
        if name in kind.model_methods:
            return kind.model_methods[name]
    return None


def step_hook(model: nn.Module) -> Callable[[int], None]:
    """What a training loop calls after each step: what all adapters in `model` do then."""
    tuners = [module for module in model.modules() if hasattr(type(module), "after_step")]

    def after_step(step):
        for tuner in tuners:
            tuner.after_step(step)

    return after_step


def run_state(model: nn.Module) -> dict[str, Array]:
    """{name: array} of what adapters have to know of earlier steps of training."""
    return {f"{prefix}{key}": array for prefix, a in _with_state(model) for key, array in a.run_state().items()}


def put_run_state(model: nn.Module, arrays: Mapping[str, Array]) -> None:
    """Give the adapters what `run_state` gave. ValueError if it is of others; then nothing has changed."""
    before = run_state(model)
    try:
        _put(model, arrays)
    except BaseException:
        _put(model, before)
        raise


def _put(model, arrays):
    left = dict(arrays)
    for prefix, adapter in _with_state(model):
        own = [key for key in left if key.startswith(prefix)]
        adapter.put_run_state({key.removeprefix(prefix): left.pop(key) for key in own})
    if left:
        raise ValueError(f"is of another model: it has {next(iter(left))}, of an adapter that is not here")


def _with_state(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """(the beginning of its names, adapter) of those whose kind does something after each step."""
    for name, module in model.named_modules():
        for own, adapter in getattr(module, "adapters", {}).items() if hasattr(module, "base_layer") else ():
            if adapter.together:
                yield f"{name}.{own}.", adapter
