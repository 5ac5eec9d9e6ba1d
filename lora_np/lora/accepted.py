"""PEFT's keywords that mean nothing here, or something that is not here: said once, for all that take them."""

import re
from pathlib import Path
from typing import Any

from .. import nn
from ..autograd.float_types import in_16_bits
from ..expect import expect_path
from ..keywords import Unused, check_unused
from ..storage.hub import HUB_OPTIONS, from_hub
from .types import StrPath

FILES = ["adapter_config.json", "adapter_model.safetensors"]
OFFLOAD = "adapters are where their layers are"
NAMES = "rename the tensors in the file"
PICKLE = "that is a pickle, which runs code when it is read; adapters are written as safetensors"
UNUSED = {
    "low_cpu_mem_usage": Unused(),
    "ephemeral_gpu_offload": Unused(OFFLOAD),
    "key_mapping": Unused(NAMES, ()),
    "torch_device": Unused(),
    "max_memory": Unused(),
    "device_map": Unused(),
    "offload_folder": Unused(),
    "offload_dir": Unused(),
    "offload_index": Unused(),
    "offload_buffers": Unused(),
    "use_safetensors": Unused(PICKLE, (True,)),
    "safe_serialization": Unused(PICKLE, (True,)),
    "push_to_hub": Unused("nothing is uploaded from here"),
    "state_dict": Unused("the weights that the model has are written", ()),
    "max_shard_size": Unused(),
    "create_pr": Unused(),
    "commit_message": Unused(),
    "repo_id": Unused(),
    "private": Unused(),
    "ignore_mismatched_sizes": Unused("an adapter of other sizes does not fit the model"),
    "unwrap_compiled": Unused(),
    "gradient_checkpointing_kwargs": Unused(),
    "auto_clear_cache": Unused(),
}


def accept(call: str, **given: Any) -> None:
    """Keywords that `call` was given and does not use: ValueError for a value that would do something."""
    check_unused(call, given, UNUSED)


def accept_others(call: str, given: dict[str, Any], names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """The same for what stands in **kwargs: only these names are taken; TypeError for others, with the nearest."""
    check_unused(call, given, {name: UNUSED[name] for name in names}, known)


def expect_embeddings(save_embedding_layers: object) -> None:
    """ValueError unless this is one of the values that PEFT's save_embedding_layers has."""
    if save_embedding_layers not in (True, False, "auto"):
        raise ValueError(f'save_embedding_layers must be True, False or "auto", got {save_embedding_layers!r:.80}')


def accept_dtype(call: str, model: nn.Module, autocast: bool) -> None:
    """autocast_adapter_dtype: adapters are in float32 here, so False is for models that are not in 16 bits."""
    if not autocast and any(in_16_bits(p.dtype) for p in model.parameters()):
        raise ValueError(f"{call}: autocast_adapter_dtype=False is not supported: adapters are in float32 here")


def adapter_folder(call: str, model_id: StrPath, options: dict[str, Any], known: tuple[str, ...] = ()) -> Path:
    """The folder of an adapter: `model_id` itself, the `subfolder` in it, or what a name on the hub was downloaded to.

    options: the other keywords of PEFT's functions, of which those for the hub are used.
    """
    hub = {name: value for name, value in options.items() if name in HUB_OPTIONS}
    others = {name: value for name, value in options.items() if name not in (*hub, "subfolder")}
    loading = (
        "torch_device",
        "max_memory",
        "device_map",
        "offload_folder",
        "offload_dir",
        "offload_index",
        "offload_buffers",
    )
    accept_others(call, others, (*loading, "use_safetensors"), (*known, *HUB_OPTIONS, "subfolder"))
    subfolder, folder = options.get("subfolder") or "", expect_path(model_id, "model_id", "an adapter's folder")
    if not folder.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(model_id)):
        patterns = [f"{subfolder}/{name}".lstrip("/") for name in FILES]
        folder = from_hub(str(model_id), patterns, "an adapter", **hub)
    return folder / subfolder
