"""`create_arrow_model`: a base model, adapters from files, and a router among them; see `variants/arrow.py`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import nn
from ..expect import expect
from ..refusals import refuses_here
from .config import LoraConfig
from .sub_configs import ArrowConfig
from .types import StrPath

if TYPE_CHECKING:
    from .peft_model import PeftModel


@refuses_here
@nn.all_or_nothing
def create_arrow_model(
    base_model: nn.Module,
    task_specific_adapter_paths: Sequence[StrPath],
    arrow_config: ArrowConfig,
    general_adapter_paths: Sequence[StrPath] | None = None,
    **adapter_kwargs: Any,
) -> "PeftModel":
    """`base_model` with the adapters in these folders, "task_0", "task_1", ..., and "arrow_router", which is active.

    general_adapter_paths: of "gks_0", ..., with use_gks. adapter_kwargs: those of `PeftModel.from_pretrained` and
    `load_adapter`. ValueError, with nothing changed, if there is no path, or if the adapters are not plain LoRA of one
    rank on the same layers.
    """
    from .peft_model import PeftModel

    expect(arrow_config, ArrowConfig, "arrow_config", "an ArrowConfig(...)")
    paths = {f"task_{i}": path for i, path in enumerate(task_specific_adapter_paths or ())}
    if not paths:
        raise ValueError("task_specific_adapter_paths must name the folder of at least one adapter")
    arrow_config.task_adapter_names = list(paths)
    general = list(general_adapter_paths or ()) if arrow_config.use_gks else []
    if arrow_config.use_gks and not general:
        raise ValueError("use_gks=True needs general_adapter_paths, the folders of general adapters")
    arrow_config.gks_adapter_names = [f"gks_{i}" for i in range(len(general))]
    paths |= dict(zip(arrow_config.gks_adapter_names, general, strict=True))
    first, *others = paths
    model = PeftModel.from_pretrained(base_model, paths[first], first, **adapter_kwargs)
    for name in others:
        model.load_adapter(paths[name], name, **adapter_kwargs)
    targets, r = _in_common(model, list(paths))
    model.add_adapter("arrow_router", LoraConfig(arrow_config=arrow_config, target_modules=targets, r=r))
    model.set_adapter("arrow_router")
    return model


def _in_common(model, names):
    """(the last parts of the names of the layers, the rank) of these adapters. ValueError if they differ in either."""
    found = {}
    for name in names:
        own = {target: layer.adapters[name] for target, layer in model.base_model.layers() if name in layer.adapters}
        if odd := [target for target, adapter in own.items() if not adapter.plain]:
            raise ValueError(f"{name} is not plain LoRA on linear layers, as routing needs it: see {odd[0]}")
        found[name] = sorted({target.rpartition(".")[2] for target in own}), {adapter.r for adapter in own.values()}
    targets, ranks = found[names[0]]
    for name, (others, own) in found.items():
        if others != targets or own != ranks or len(own) > 1:
            raise ValueError(
                f"{name} has rank {sorted(own)} on {', '.join(others)}, and {names[0]} rank {sorted(ranks)} on "
                f"{', '.join(targets)}: routing is among adapters of one rank on the same layers"
            )
    return targets, next(iter(ranks))
