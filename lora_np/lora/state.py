"""An adapter's numbers by their names in PEFT's files, without a file: taken from a model, and put into one."""

from collections.abc import Mapping
from typing import Any

from .. import nn
from ..autograd import Tensor
from ..autograd.tensor import data
from ..expect import A_MODEL, expect, wrong
from ..nn.module import LoadResult
from ..refusals import warn
from ..storage import read_safetensors
from .accepted import accept, adapter_folder, expect_embeddings
from .call import Owner
from .files import WEIGHTS_FILE
from .forwarding import Tuner
from .lora_model import LoraModel
from .model_adapter import PREFIX, ModelAdapter, embedding_weights
from .names import check_known
from .stored import without_names
from .types import StrPath


def tuner_of(model: Any) -> LoraModel:
    """The LoraModel of a PeftModel, or of a model that `inject_adapter_in_model` gave adapters."""
    expect(model, nn.Module, "model", A_MODEL)
    base = getattr(model, "base_model", model)
    if isinstance(base, LoraModel):
        return base
    if not isinstance(getattr(model, "peft_config", None), dict):
        raise ValueError(f"this {type(model).__name__} has no adapters: get_peft_model(model, config) gives it one")
    made = LoraModel.__new__(LoraModel)
    made.model, made.shared, made.owner = model, {}, Owner()
    made.peft_config = model.peft_config
    made._list_layers()
    made.active_adapters = list(dict.fromkeys(n for layer in made.adapted.values() for n in layer.active_adapters))
    return made


def tensors_of(tuner: Tuner, adapter_name: str) -> tuple[ModelAdapter, dict[str, Tensor]]:
    """(the adapter, {name in PEFT's files: Parameter or Buffer}). KeyError and ValueError if there is none."""
    check_known(adapter_name, tuner.peft_config)
    adapter = tuner.adapter(adapter_name)
    adapter.biases = tuner.biases(tuner.peft_config[adapter_name].bias)
    return adapter, adapter.tensors()


def get_peft_model_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Any] | None = None,
    adapter_name: str = "default",
    unwrap_compiled: bool = False,
    save_embedding_layers: bool | str = "auto",
) -> dict[str, Tensor]:
    """{name in PEFT's files: Tensor} of one adapter: what its file would hold. The arrays in them are the model's own,
    and not copies, but for those that a file has in another form (AdaLoRA's, VB-LoRA's, parts of a projection).

    model: a PeftModel, or one from `inject_adapter_in_model`, whose names have no "base_model.model." in front.
    state_dict: what `model.state_dict()` gave, to take the numbers from there, in the form in which they are trained.
    The other keywords are PEFT's.
    """
    expect_embeddings(save_embedding_layers)
    tuner = tuner_of(model)
    adapter, own = tensors_of(tuner, adapter_name)
    bases = {PREFIX + name: p for name, p in embedding_weights(tuner.model, save_embedding_layers).items()}
    if state_dict is None:
        arrays = adapter.saved_arrays() | {name: p.data for name, p in bases.items()}
        found = {name: Tensor(array) for name, array in arrays.items()}
    else:
        own |= bases
        expect(state_dict, Mapping, "state_dict", "what model.state_dict() gives")
        places = {id(p): name for name, p in (*model.named_parameters(), *model.named_buffers())}
        absent = [places[id(p)] for p in own.values() if places[id(p)] not in state_dict]
        if absent:
            raise KeyError(f"state_dict lacks {absent[0]}: it should be what model.state_dict() gives")
        found = {name: Tensor(data(state_dict[places[id(p)]])) for name, p in own.items()}
    return {name.removeprefix(_prefix(model)): value for name, value in found.items()}


@nn.all_or_nothing
def set_peft_model_state_dict(
    model: nn.Module,
    peft_model_state_dict: Mapping[str, Any],
    adapter_name: str = "default",
    ignore_mismatched_sizes: bool = False,
    low_cpu_mem_usage: bool = False,
) -> LoadResult:
    """Copy {name in PEFT's files: array or Tensor} into one adapter.

    The result names the adapter's tensors that were not among them (missing_keys), and those that are no tensors of
    the adapter (unexpected_keys). ValueError for wrong shapes; with ignore_mismatched_sizes those stay as they are, a
    warning says so, and they are among the missing_keys.
    """
    tuner = tuner_of(model)
    if tuner.merged:
        raise RuntimeError(f"{', '.join(tuner.merged)} is merged into the weights: call unmerge_adapter() first")
    adapter, trained = tensors_of(tuner, adapter_name)
    adapter.bases = embedding_weights(tuner.model)  # which may be among them, and need not
    own = trained | adapter.tensors()
    prefix, state = _prefix(model), _arrays(peft_model_state_dict)
    given = without_names({prefix + name: array for name, array in state.items()}, own)
    given = adapter.read(given, "peft_model_state_dict")
    odd = [name for name in given if name in own and tuple(given[name].shape) != own[name].shape]
    if odd:
        what = f"{odd[0]} has shape {tuple(given[odd[0]].shape)} instead of {own[odd[0]].shape}"
        if not ignore_mismatched_sizes:
            raise ValueError(f"{what}: this is another adapter's state ({len(odd)} do not fit)")
        warn(f"ignore_mismatched_sizes: {what} and stays as it is ({len(odd)} do not fit)")
    adapter.incoming = {name: given[name] for name in given if name in own and name not in odd}
    adapter.fill()
    missing = [name for name in trained if name not in given or name in odd]
    return LoadResult(missing, [name for name in given if name not in own and name not in adapter.saved_arrays()])


def load_peft_weights(
    model_id: StrPath, device: str | None = None, key_mapping: dict[str, str] | None = None, **kwargs: Any
) -> dict[str, Tensor]:
    """{name: Tensor} of what is in an adapter's folder, for `set_peft_model_state_dict`; subfolder=, revision=, ..."""
    accept("load_peft_weights", key_mapping=key_mapping)
    folder = adapter_folder("load_peft_weights", model_id, kwargs)
    return {name: Tensor(array) for name, array in read_safetensors(folder / WEIGHTS_FILE)[0].items()}


def _arrays(state):
    """{name: array} of a state, which may have Tensors. TypeError if it is none."""
    expect(state, Mapping, "peft_model_state_dict", "{name in PEFT's files: array or Tensor}")
    for name, value in state.items():
        if not isinstance(name, str) or not hasattr(value, "shape"):
            raise TypeError(wrong(value, f"peft_model_state_dict[{name!r}]", "an array or a Tensor, under a name"))
    return {name: data(value) for name, value in state.items()}


def _prefix(model):
    """What stands in front of names in files, and in the names of a model without a PeftModel around it does not."""
    return "" if isinstance(getattr(model, "base_model", model), Tuner) else PREFIX
