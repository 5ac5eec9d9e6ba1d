"""Transformers' keywords of `from_pretrained`: what each means here, or why it means nothing, or what to do instead."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ... import nn
from ...autograd.devices import load_cupy
from ...keywords import Unused, check_unused
from ...storage.hub import HUB_OPTIONS
from ..call_options import CALL_OPTIONS
from ..config import ModelConfig
from ..tokenizers.special import EXTRA, NAMES
from .quantization import IN_8_BITS

ONE_PLACE = "a model is on one device here: device_map='cuda:0', 'cpu' or 'auto'"
NO_PICKLE = "that is a pickle, which runs code when it is read; only safetensors are read"
WHOLE = "it must be what the file says"
UNUSED = {
    "trust_remote_code": Unused(),  # no code of a model's is run in any case
    "low_cpu_mem_usage": Unused(),
    "attn_implementation": Unused(),  # all of them compute the same
    "experts_implementation": Unused(),
    "weights_only": Unused(NO_PICKLE, (True,)),
    "use_safetensors": Unused(NO_PICKLE, (True,)),
    "ignore_mismatched_sizes": Unused(WHOLE),
    "output_loading_info": Unused("weights that are missing or too many are an error"),
    "state_dict": Unused("make the model with from_config(config), then model.load_state_dict(state)", ()),
    "variant": Unused("there is one model.safetensors in a folder", ()),
    "key_mapping": Unused("rename the tensors in the file", ()),
    "load_in_8bit": Unused(IN_8_BITS),
    "max_memory": Unused(),
    "offload_folder": Unused(),
    "offload_state_dict": Unused(),
    "offload_buffers": Unused(),
    "tp_plan": Unused(ONE_PLACE, ()),
    "tp_size": Unused(ONE_PLACE, (1,)),
    "device_mesh": Unused(ONE_PLACE, ()),
    "fusion_config": Unused(),
    "disable_mmap": Unused(),
    "use_kernels": Unused(),
    "from_tf": Unused("convert the file with Transformers"),
    "from_flax": Unused("convert the file with Transformers"),
    "use_cache": Unused(),  # generate uses its cache, a forward pass does not
    **{name: CALL_OPTIONS[name] for name in ("return_dict", "output_attentions", "output_hidden_states")},
    "_fast_init": Unused(),
}
FOR_TOKENIZERS = {
    "use_fast": Unused(),
    "trust_remote_code": Unused(),
    "tokenizer_type": Unused(),
    "from_slow": Unused(),
}
OF_FILES = ("add_prefix_space", "legacy")  # a tokenizer is built by these, so they stand beside what its files say
SPECIAL = (*(f"{name}_token" for name in NAMES), EXTRA, "additional_special_tokens")
OWN = (
    *("pretrained_model_name_or_path", "gguf_file", "subfolder", "config", "quantization_config", "load_in_4bit"),
    *("dtype", "torch_dtype", "device", "device_map"),
)


def hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keywords that say where on the hub the files are."""
    return {name: value for name, value in options.items() if name in HUB_OPTIONS}


def fields_of(config_class: type[ModelConfig]) -> list[str]:
    """The names of a configuration's fields."""
    return [field.name for field in dataclasses.fields(config_class)]


def changes_of(call: str, config_class: type[ModelConfig], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keywords that are fields of the configuration; the others mean nothing here, or are refused."""
    names = fields_of(config_class)
    left = {name: value for name, value in options.items() if name not in names and name not in HUB_OPTIONS}
    check_unused(call, left, UNUSED, (*OWN, *HUB_OPTIONS, *names))
    return {name: value for name, value in options.items() if name in names}


def wanted_dtype(dtype: Any, torch_dtype: Any = None) -> Any:
    """The NumPy dtype, or None for float32. "auto" is float32 too, which holds what files have in 16 bits exactly."""
    given = torch_dtype if dtype is None else dtype
    return None if given is None or given == "auto" else nn.float_type(given, "dtype")


def wanted_device(device: str, device_map: Any) -> str:
    """The one device that Transformers' device_map means; `device` if there is none. ValueError for several."""
    if isinstance(device_map, Mapping):
        places = {str(_plain(place)) for place in device_map.values()}
        if len(places) != 1:
            raise ValueError(f"device_map names the devices {', '.join(sorted(places))}: {ONE_PLACE}")
        (device_map,) = places
    device_map = _plain(device_map)
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return _best_device()
    return device if device_map is None else str(device_map)


def _best_device():
    try:
        load_cupy()
    except RuntimeError:
        return "cpu"
    return "cuda"


def _plain(place):
    """A device's name for torch's number of a GPU."""
    return f"cuda:{place}" if isinstance(place, int) and not isinstance(place, bool) else place


def set_attributes(tokenizer: Any, options: Mapping[str, Any]) -> None:
    """Set what the keywords name of the tokenizer's attributes, such as padding_side; TypeError if it has none such."""
    own = [name for name in dir(tokenizer) if not name.startswith("_") and not callable(getattr(tokenizer, name, None))]
    check_unused(
        "AutoTokenizer.from_pretrained",
        {name: value for name, value in options.items() if name not in own},
        FOR_TOKENIZERS,
        ("pretrained_model_name_or_path", "gguf_file", "subfolder", *OF_FILES, *HUB_OPTIONS, *own),
    )
    special = {name: value for name, value in options.items() if name in SPECIAL and value is not None}
    if special:  # those that are new are added to the vocabulary
        tokenizer.add_special_tokens({n: list(v.values()) if isinstance(v, Mapping) else v for n, v in special.items()})
    for name in own:
        if name in options and name not in special:
            setattr(tokenizer, name, options[name])
