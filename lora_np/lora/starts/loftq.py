r""" "loftq": the base is rounded, and A and B begin with what rounding did to it. (Li et al., 2023, "LoftQ:
LoRA-Fine-Tuning-Aware Quantization for Large Language Models", algorithm 1.)

    B A = 0, then `loftq_iter` times:   Q = round(W - B A);   B A = the nearest to W - Q of rank r
    W - Q = U S Vᵀ,   A = √(S/s) Vᵀ[:r],   B = U[:, :r] √(S/s),   and Q stays frozen

so Q + s·B A is nearer to W than Q alone, which is what QLoRA starts from. round is NF4 in blocks of 64, as
`nn.quantize_model` has it but for double quantisation (`loftq_bits=4`), or whole numbers from -127 to 127 with one
scale for each output (8). Q is kept as floats, as in PEFT: rounding it once more gives it again. As A and B are not
what Q lacks exactly, training starts near the base model and not at it.

The claim: better than QLoRA, most of all with few bits (2, and 2 mixed with 4), where QLoRA may not train at all.

Beside a base that is in 4 bits already there is `replace_lora_weights_loftq`, one such step with Q as it is.
Other than in PEFT, this needs no GPU, A and B are divided by √s, so that the sum is the nearest also where
lora_alpha is not r, and a Conv1D's A and B are not exchanged.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ... import nn
from ...autograd.devices import to_device, to_numpy
from ...nn.nf4 import dequantize_nf4, quantize_nf4
from ...storage import open_safetensors, open_sharded_safetensors
from ..adapter import Target
from ..base_layer import oriented
from ..init import pissa
from ..lora_model import LoraModel
from ..state import tuner_of
from ..types import Array, Config, StrPath

WHOLE = "model.safetensors"  # the file of a model's weights, and what lists its parts where it is in several


def check(config: Config, target: Target) -> None:
    """Any layer whose weight can be changed will do."""


def matrices(config: Config, target: Target, s: float) -> list[Array]:
    """[A (r, in), B (out, r), Q (out, in)]: Q takes the weight's place."""
    layer, options = target.layer, config.loftq_config
    weight = oriented(layer, to_numpy(layer.weight.data))
    weight = weight.astype(np.result_type(weight.dtype, np.float32), copy=False)
    product = np.zeros_like(weight)
    for _ in range(options["loftq_iter"]):
        Q = _rounded(layer, weight - product, options["loftq_bits"])
        A, B = pissa(weight - Q, target.r, s)  # of all of rank r, s·B A is the nearest
        product = s * (B @ A)
    return [A, B, Q]


def _rounded(layer, weight, bits):
    """A weight (out, in) rounded to so many bits; NF4's blocks lie as the layer stores it."""
    if bits == 4:
        stored = np.ascontiguousarray(oriented(layer, weight))
        return oriented(layer, dequantize_nf4(quantize_nf4(stored, double_quant=False)))
    largest = np.abs(weight).max(axis=1, keepdims=True)
    step = np.where(largest > 0, largest, 1) / 127
    return np.rint(weight / step) * step


def replace_lora_weights_loftq(
    peft_model: Any,
    model_path: StrPath | None = None,
    adapter_name: str = "default",
    callback: Callable[[Any, str], bool] | None = None,
) -> None:
    """Give an adapter beside a base in 4 bits the A and B that make up for the rounding: of rank r nearest to W - Q.

    model_path  the safetensors file with the weights W from before, or its folder; None: where the model came from
    callback    (peft_model, layer's name), called after each layer: False takes its A and B back
    With any error nothing has changed. ValueError if no layer of the adapter is in 4 bits, or the file is of another
    model.
    """
    tuner = tuner_of(peft_model)
    layers = {name: layer for name, layer in tuner.layers() if isinstance(layer.base_layer, nn.Linear4bit)}
    layers = {name: layer for name, layer in layers.items() if adapter_name in layer.adapters}
    if not layers:
        raise ValueError(f"no layer with the adapter {adapter_name!r} is in 4 bits: nn.quantize_model(model) does that")
    for name, layer in layers.items():
        if not layer.adapters[adapter_name].plain or layer.adapters[adapter_name].scaling <= 0:
            raise ValueError(f"{name}: LoftQ is for plain LoRA, with lora_alpha > 0, and {adapter_name!r} is not that")
    path = model_path or getattr(getattr(tuner.model, "config", None), "name_or_path", None)
    if not path:
        raise ValueError("replace_lora_weights_loftq: model_path is needed, the folder of the model's weights")
    with _opened(Path(path)) as weights:
        _replace(peft_model, tuner, layers, adapter_name, weights, callback)


@nn.all_or_nothing
def _replace(
    peft_model: Any, tuner: LoraModel, layers: dict[str, Any], adapter_name: str, weights: Any, callback: Any
) -> None:
    prefix = f"{getattr(tuner.model, 'base_model_prefix', '')}."
    for name, layer in layers.items():
        adapter, base = layer.adapters[adapter_name], layer.base_layer
        stored = _read(weights, f"{name}.weight", prefix, base.quantized.shape)
        lost = oriented(base, stored - to_numpy(base.weight.data))
        found = pissa(lost, adapter.r, adapter.scaling)
        own = adapter.matrices()
        before = [p.data for p in own]
        for p, matrix in zip(own, found, strict=True):
            p.data = to_device(matrix, p.device).astype(p.dtype, copy=False)
        if callback is not None and not callback(peft_model, name):
            for p, array in zip(own, before, strict=True):
                p.data = array


def _opened(path):
    """The weights in a file, in a folder's `model.safetensors`, or in the several files that stand for that."""
    path = path / WHOLE if path.is_dir() else path
    index = path.with_name(f"{path.name}.index.json")
    return open_sharded_safetensors(index) if index.exists() and not path.exists() else open_safetensors(path)


def _read(weights, name, prefix, shape):
    """The array of this name, with or without the prefix that a file may leave out. ValueError without one."""
    own = next((key for key in (name, name.removeprefix(prefix)) if key in weights.shapes), None)
    if own is None or weights.shapes[own] != shape:
        raise ValueError(f"{weights.path} has no {name} of shape {shape}: it is of another model")
    return weights.read(own)
