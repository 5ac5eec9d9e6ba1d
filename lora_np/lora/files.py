"""Adapters as files: adapter_config.json and adapter_model.safetensors, as PEFT writes and reads them.

The weights are one array for each trained tensor, such as

    base_model.model.transformer.h.0.attn.c_attn.lora_A.weight  (r, in)

The name leaves out the adapter's own, which in memory comes after `lora_A`: it can be loaded under any name.
"""

import dataclasses
import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .. import nn
from ..autograd.devices import array_module
from ..storage import one_version, read_json, read_safetensors, together, write_safetensors
from .foreign import refuse_foreign
from .kinds import config_class
from .model_adapter import BASE_WEIGHT, PREFIX, ModelAdapter, embedding_weights, new_adapter
from .patterns import of_several
from .peft_config import CONFIG_FILE, PeftConfig
from .stored import fitted, without_names
from .types import StrPath
from .written import as_written, check_saved

if TYPE_CHECKING:
    from .peft_model import PeftModel

WEIGHTS_FILE = "adapter_model.safetensors"


def write_adapter(
    peft_model: "PeftModel",
    name: str,
    directory: StrPath,
    as_plain_lora: bool = False,
    save_embedding_layers: bool | str = "auto",
) -> None:
    """Write one adapter: "default" into `directory` itself, any other into the folder of its name there.

    With `as_plain_lora`, one whose initialisation took s·B₀A₀ out of the base weight (PiSSA, OLoRA) is written as plain
    LoRA of twice the rank for the unchanged base: A' = [A; A₀], B' = [B, -B₀], as it computes W + s·(B A - B₀A₀).

    One that began with random numbers (pissa_niter_N) or with data (CorDA, LoRA-GA) can be written in no other way, as
    loading it would take another part out of the base weight; nor can one in this way whose base was rounded (LoftQ),
    as no A₀ and B₀ make up for that. ValueError in both cases; PEFT writes such files too, and warns or says nothing.
    What was in the folder stays there then: the file is looked at before anything is written, and what is written goes
    into other files first.
    """
    directory = Path(directory) if name == "default" else Path(directory) / name
    config, tuner = peft_model.peft_config[name], peft_model.base_model
    model_adapter = tuner.adapter(name)
    model_adapter.biases, model_adapter.bases = tuner.biases(config.bias), {}
    check_saved(config, as_plain_lora)
    arrays = model_adapter.saved_arrays()
    for target, adapter in model_adapter.adapters.items():
        if adapter.brings_base:
            arrays[f"{PREFIX}{target}.{BASE_WEIGHT}"] = tuner.adapted[target].base_layer.weight.data
    if save_embedding_layers:
        embeddings = embedding_weights(tuner.model, save_embedding_layers)
        arrays |= {PREFIX + name: p.data for name, p in embeddings.items()}
    else:
        for name in embedding_weights(tuner.model):
            arrays.pop(PREFIX + name, None)
    for target, adapter in model_adapter.adapters.items() if as_plain_lora else ():
        if adapter.initial is not None:
            A, B, xp = *adapter.initial[:2], array_module(adapter.initial[0])
            key_A, key_B = (f"{PREFIX}{target}.lora_{letter}.weight" for letter in "AB")
            arrays[key_A] = xp.concatenate([arrays[key_A], A])
            arrays[key_B] = xp.concatenate([arrays[key_B], -B], axis=1)
    with together(directory):
        write_safetensors(directory / WEIGHTS_FILE, arrays)
        as_written(config, tuner.model, model_adapter.adapters, arrays, as_plain_lora).save_pretrained(directory)


@one_version
def read_adapter(
    directory: StrPath,
    model: nn.Module,
    is_trainable: bool = False,
    beside: tuple[Iterable[str], Iterable[str]] = ((), ()),
    config: PeftConfig | None = None,
) -> tuple[PeftConfig, ModelAdapter]:
    """(config, ModelAdapter) of the adapter in `directory`, which fits `model`.

    The ModelAdapter is in no layer yet, and the file's arrays are not in its tensors yet: attaching it does both.
    FileNotFoundError if there is no adapter; ValueError, with the file's name, if a file is damaged or does not fit. An
    all-zero B gives a warning: such an adapter does nothing.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory with an adapter in it")
    refuse_foreign(directory, WEIGHTS_FILE)
    config = read_config(directory) if config is None else dataclasses.replace(config)
    path = directory / WEIGHTS_FILE
    with _naming(directory):
        config, arrays, bases = fitted(config, read_safetensors(path)[0], model, path)
        config.inference_mode = not is_trainable
        with nn.weightless():  # first without memory, to compare names and shapes: a wrong config may ask for terabytes
            expected = new_adapter(model, config, beside).bringing(bases)
        arrays = expected.read(without_names(arrays, expected.tensors()), path)
        check_fits(expected, arrays, path, config)
        model_adapter = new_adapter(model, config, beside).bringing(bases)
        model_adapter.incoming = arrays
    decisive = [f"{PREFIX}{target}.{a.idle_if_zero}" for target, a in model_adapter.adapters.items() if a.idle_if_zero]
    zero = [key for key in decisive if not arrays[key].any()]
    if zero:
        warnings.warn(
            f"{path}: B is all zero in {len(zero)} layers, so they change nothing ({zero[0]}, ...)", stacklevel=6
        )
    return config, model_adapter


def read_config(directory: StrPath) -> PeftConfig:
    """The configuration in a directory, of whatever peft_type it is. Errors as for `PeftConfig.from_pretrained`."""
    path = Path(directory) / CONFIG_FILE
    fields = read_json(path)
    return config_class(fields.get("peft_type", "LORA"), path).from_dict(fields, str(path))


@contextmanager
def _naming(directory):
    """Inside this block, an error that names no file in the directory gets the configuration's name."""
    try:
        yield
    except (ValueError, OverflowError, MemoryError) as error:
        named = str(error) if str(directory) in str(error) else f"{directory / CONFIG_FILE}: {error}"
        raise ValueError(named) from None


def check_fits(model_adapter, arrays, path, config):
    """ValueError if the names and shapes of the arrays in the file `path` are not those of the adapter's tensors.

    It says so where the ranks depend on the order of the entries in rank_pattern, which PEFT's files do not keep.
    """
    expected = {key: tensor.shape for key, tensor in model_adapter.tensors().items()}
    given = {key: tuple(array.shape) for key, array in arrays.items()}
    problems = [f"missing {key}" for key in expected if key not in given]
    problems += [f"unexpected {key}" for key in given if key not in expected]
    problems += [
        f"{key} has shape {given[key]} instead of {shape}"
        for key, shape in expected.items()
        if key in given and given[key] != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        several = of_several(getattr(config, "rank_pattern", {}), model_adapter.adapters)
        if several:
            more += (
                f". Several entries of rank_pattern match {several[0]}: the first counts, and PEFT sorts them in the "
                f"file: put them into the order in which they were given, in {path.parent / CONFIG_FILE}"
            )
        raise ValueError(f"{path} does not fit the model: {'; '.join(problems[:5])}{more}")
