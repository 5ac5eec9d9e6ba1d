r""" "eva": A has the directions in which a layer's inputs vary most, and B is zero. (Paischer et al., 2024, "One
Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation".)

    rows x of a layer's inputs, from a few batches:  x - mean = U S V,   A = V[:r]   (with `whiten`: V[:r] / √S[:r])

As B = 0, training starts exactly at the base model, whose weights stay as they are. The share of the variance that a
direction explains, S² / Σ S², says how much it is worth: the directions of all layers are ranked by it, and the first
Σ r of them are kept. So a layer's rank becomes what its inputs are worth, from 0 (it loses its adapter) to rho · r, and
the number of ranks stays; lora_alpha changes with it (`adjust_scaling_factors`). The directions are found batch by
batch (`pca.py`), until none that is kept turns any more. Of layers with the same inputs, such as q_proj, k_proj and
v_proj, one decomposition is made.

The claim: A sees at once most of what the task's inputs are about, which speeds training up and gives the best scores
of the starts compared, on language and vision tasks, with as many parameters or fewer.

    peft_model = get_peft_model(model, LoraConfig(init_lora_weights="eva", eva_config=EvaConfig(rho=2.0)))
    initialize_lora_eva_weights(peft_model, batches)      # batches: dicts, {"input_ids": (B, T), ...}

Until the second line A is as it is by default. The optimizer is made after it: A and B are new ones.
Other than in PEFT, `whiten` divides once also where layers share their inputs (there, once for each of them), rho · r
is cut to the layer's width, and batches with too few tokens, or directions that never settle, end with an error.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor, no_grad
from ...autograd.devices import to_device, to_numpy
from ...autograd.tensor import data
from ...expect import expect_list
from ...refusals import warn
from ..adapter import Target
from ..call import calling
from ..kinds import make_adapter
from ..layer import AdaptedLayer, LowRankAdapter
from ..lora_model import LoraModel
from ..model_adapter import PREFIX, targeted
from ..names import check_known
from ..state import tuner_of
from ..targets import own_modules, targets_of
from ..types import Array
from ..variants.parameter import OnParameter
from ..variants.projection import PartialProjection
from ..variants.tied import TiedLora
from .config import EvaConfig
from .gather import gather
from .search import LayerInputs, Search

BATCHES = "a list of batches, each a dict of what the model is called with: {'input_ids': (B, T), ...}"


def forward_fn_dict(model: Any, inputs: Mapping[str, Any]) -> Any:
    """model(**inputs)."""
    return model(**inputs)


def prepare_model_inputs_fn_language_modeling(model_input: Any, peft_config: Any) -> Array:
    """The places (N, 2) of a batch's tokens that count: no padding and, with `use_label_mask`, no ignored label."""
    if not isinstance(model_input, Mapping):
        raise TypeError(f"a batch must be a dict with 'input_ids', got {type(model_input).__name__}")
    ids, padding, labels = (model_input.get(name) for name in ("input_ids", "attention_mask", "labels"))
    mask = np.ones(np.shape(data(ids)), bool) if padding is None else to_numpy(data(padding)).astype(bool)
    if peft_config.eva_config.use_label_mask and labels is not None:
        mask = mask & (to_numpy(data(labels)) != peft_config.eva_config.label_mask_value)
    return np.argwhere(np.atleast_2d(mask))


def prepare_layer_inputs_fn_language_modeling(layer_input: Array, model_input: Array, layer_name: str) -> Array:
    """The rows (N, in) of a layer's input (B, T, in) at those places."""
    return layer_input[tuple(model_input.T)]


def get_eva_state_dict(
    model: Any,
    dataloader: Iterable[Any],
    peft_config: Any = None,
    forward_fn: Callable[[Any, Any], Any] = forward_fn_dict,
    prepare_model_inputs_fn: Callable[[Any, Any], Any] | None = prepare_model_inputs_fn_language_modeling,
    prepare_layer_inputs_fn: LayerInputs | dict[str, LayerInputs] | None = prepare_layer_inputs_fn_language_modeling,
    adapter_name: str = "default",
    gather_distributed_inputs: bool = True,
    show_progress_bar: bool = True,
) -> dict[str, Tensor]:
    """{layer's name: A (its new rank, in)}. A rank of 0 means that the layer is to have no adapter. Nothing is changed.

    model                    a PeftModel with an adapter of `init_lora_weights="eva"`, or a plain one and `peft_config`
    dataloader               batches, run over again and again until the directions have settled
    forward_fn               (model, batch): calls the model
    prepare_model_inputs_fn  (batch, config): what the next one gets; None: the batch itself
    prepare_layer_inputs_fn  (layer's input, that, layer's name): the rows (N, in) that count; or {layer's name: such a
                             function}; None: all rows
    The last two keywords are PEFT's, and do nothing here. The model's adapters are left out, and so is its dropout.
    ValueError for batches that are too small, or directions that do not settle.
    """
    tuner = None if getattr(model, "peft_config", None) is None else tuner_of(model)
    if tuner is None and peft_config is None:
        raise ValueError("get_eva_state_dict: a model without adapters needs a peft_config")
    batches = expect_list(dataloader, "dataloader", BATCHES)
    if not batches:
        raise ValueError("get_eva_state_dict: dataloader is empty")
    if tuner is None:
        layers, config, owner = _targeted(model, peft_config), peft_config, None
    else:
        check_known(adapter_name, tuner.peft_config)
        config, owner = peft_config or tuner.peft_config[adapter_name], tuner.owner
        front = PREFIX if isinstance(getattr(model, "base_model", None), LoraModel) else ""
        adapted = {name: layer for name, layer in tuner.layers() if _is_linear(layer, adapter_name)}
        layers = {front + name: layer for name, layer in adapted.items()}
    if not layers:
        raise ValueError("'eva' is for whole linear layers, and target_modules names none")
    if config.eva_config is None:
        config = dataclasses.replace(config, init_lora_weights="eva", eva_config=EvaConfig())
    search = Search(layers, config, prepare_layer_inputs_fn)

    def run_over(batch: Any, hooked: dict[str, Any], on_input: Any) -> None:
        model_input = batch if prepare_model_inputs_fn is None else prepare_model_inputs_fn(batch, config)
        hear = lambda name, x: on_input(name, search.rows(name, x, model_input))  # noqa: E731
        with no_grad(), nn.evaluating():
            if owner is None:
                gather(hooked, lambda: forward_fn(model, batch), hear)
            else:
                with calling(owner, disabled=True):
                    gather(hooked, lambda: forward_fn(model, batch), hear)

    return search.found(batches, run_over)


def _targeted(model, config):
    """{dotted name: layer} of the whole linear layers that a config targets on a plain model."""
    modules = own_modules(model)
    wanted = targets_of(model, config, modules)
    return {n: modules[n] for n, parts in wanted.items() if not parts and not isinstance(modules[n], nn.Embedding)}


def _is_linear(layer: AdaptedLayer, name: str) -> bool:
    """Has the layer an adapter of this name whose A (r, in) looks at its inputs?"""
    adapter = layer.adapters.get(name)
    return isinstance(adapter, LowRankAdapter) and not isinstance(adapter, PartialProjection | TiedLora | OnParameter)


def initialize_lora_eva_weights(
    model: Any,
    dataloader: Iterable[Any] | None = None,
    eva_state_dict: Mapping[str, Any] | None = None,
    forward_fn: Callable[[Any, Any], Any] = forward_fn_dict,
    prepare_model_inputs_fn: Callable[[Any, Any], Any] | None = prepare_model_inputs_fn_language_modeling,
    prepare_layer_inputs_fn: LayerInputs | dict[str, LayerInputs] | None = prepare_layer_inputs_fn_language_modeling,
    adapter_name: str = "default",
    gather_distributed_inputs: bool = True,
    show_progress_bar: bool = True,
) -> None:
    """Give an adapter of `init_lora_weights="eva"` its A and its ranks, from batches or from `get_eva_state_dict`.

    Its configuration then names the layers, ranks and alphas that came out. Linear layers that eva_state_dict does not
    name start as by default, with a warning. The keywords are those of `get_eva_state_dict`. With any error the model
    is as it was. ValueError if several adapters are active, or this one starts in another way.
    """
    tuner = tuner_of(model)
    check_known(adapter_name, tuner.peft_config)
    if tuner.merged:
        raise RuntimeError(f"{', '.join(tuner.merged)} is merged into the weights: call unmerge_adapter() first")
    start = getattr(tuner.peft_config[adapter_name], "init_lora_weights", None)
    if start != "eva":
        raise ValueError(f"initialize_lora_eva_weights is for init_lora_weights='eva', {adapter_name} has {start!r}")
    if len(tuner.active_adapters) > 1:
        raise ValueError(f"one adapter at a time can be active here, not {', '.join(tuner.active_adapters)}")
    if eva_state_dict is None and dataloader is None:
        raise ValueError("initialize_lora_eva_weights needs a dataloader, or an eva_state_dict")
    if eva_state_dict is None:
        functions = forward_fn, prepare_model_inputs_fn, prepare_layer_inputs_fn
        eva_state_dict = get_eva_state_dict(model, dataloader or (), None, *functions, adapter_name)
    found = {name.removeprefix(PREFIX): to_numpy(data(A)) for name, A in eva_state_dict.items()}
    _put(model, tuner, adapter_name, found)


@nn.all_or_nothing
def _put(model: Any, tuner: LoraModel, name: str, found: dict[str, Array]) -> None:
    """Make the adapter's layers what `found` says, {dotted name: A}, and have its configuration say so."""
    config: Any = tuner.peft_config[name]
    layers = {target: layer for target, layer in tuner.layers() if name in layer.adapters}
    missing = [target for target, layer in layers.items() if target not in found and _is_linear(layer, name)]
    _check_shapes({target: layer for target, layer in layers.items() if _is_linear(layer, name)}, found)
    named = targeted({target: layer.adapters[name] for target, layer in layers.items()})
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    targets: list[str] = []
    for target, layer in layers.items():
        r, alpha = config.rank_and_alpha(target)
        new = layer.adapters[name]
        if target in found and len(found[target]) == 0:
            _remove(tuner.model, target, layer, name)
            continue
        if target in found:
            rank = len(found[target])
            alpha = alpha * (rank / r) if config.eva_config.adjust_scaling_factors and rank != r else alpha
            r, new = rank, _made(config, layer, Target(target, layer.base_layer, rank, alpha), new, found[target])
        elif target in missing:
            new = _made(config, layer, Target(target, layer.base_layer, r, alpha), new)
        layer.set_adapters({**layer.adapters, name: new})
        if target in named:
            targets.append(target)
            ranks |= {target: r} if r != config.r else {}
            alphas |= {target: alpha} if alpha != config.lora_alpha else {}
    if not targets:
        raise ValueError("eva_state_dict leaves no layer an adapter: every rank in it is 0")
    config.target_modules, config.rank_pattern, config.alpha_pattern = targets, ranks, alphas
    tuner._list_layers()
    if missing:
        warn(f"{', '.join(missing)}: not in the eva_state_dict, so they start as with init_lora_weights=True")


def _check_shapes(layers, found):
    for target, A in found.items():
        if target not in layers:
            raise ValueError(f"eva_state_dict has {target}, and the adapted linear layers are {', '.join(layers)}")
        if A.ndim != 2 or A.shape[1] != layers[target].in_features:
            raise ValueError(f"eva_state_dict: {target} has shape {A.shape}, not (r, {layers[target].in_features})")


def _made(config, layer, target, old, A=None):
    """A new adapter for the target, in the place of the old one, with this A."""
    new = make_adapter(config, target)
    if A is not None:
        own = new.lora_A.weight
        own.data = to_device(np.ascontiguousarray(A), own.device).astype(own.dtype)
    new.requires_grad_(old.lora_A.weight.requires_grad)
    return new


def _remove(model, target, layer, name):
    """Take the adapter away from a layer, which without any is the plain layer again."""
    layer.delete_adapter(name)
    if not layer.adapters:
        model.set_submodule(target, layer.base_layer)
