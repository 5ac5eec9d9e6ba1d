r""" "corda": A and B from W seen through the covariance of its inputs. (Yang et al., 2024, "CorDA: Context-Oriented
Decomposition Adaptation of Large Language Models", section 3.)

    C = mean over the calls of xᵀ x,   x (N, in) a layer's inputs, divided by |max x|
    C' = C + λ·mean(diag C)·I          λ = 0.01, doubled until C' can be inverted well
    W C' = U S Vᵀ                      so W = U S Vᵀ C'⁻¹
    A = √(S/s) Vᵀ C'⁻¹,  B = U √(S/s)  of r components, and W - s·B A stays frozen

Directions in which inputs are large weigh more than in PiSSA, which is this with C' = I. `corda_method="ipm"`
(instruction-previewed mode, with inputs of the new task) takes the r largest components, "kpm" (knowledge-preserving
mode, with inputs of what is to be kept) the r smallest, and leaves the large ones frozen.

The claim: "ipm" trains better and faster than LoRA and PiSSA; "kpm" learns as LoRA does and forgets less of what the
base knew, such as facts asked for in TriviaQA.

    config = LoraConfig(init_lora_weights="corda", corda_config=CordaConfig(corda_method="kpm"))
    preprocess_corda(model, config, run_model=lambda: [model(**batch) for batch in batches])
    peft_model = get_peft_model(model, config)

Other than in PEFT, a batch may have several rows, and files are in safetensors, as nothing here reads a pickle.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import nn
from ...autograd import no_grad
from ...autograd.devices import to_numpy
from ...storage import read_safetensors, write_safetensors
from ..adapter import Target
from ..base_layer import oriented
from ..types import Array, Config
from .gather import gather, layers_for
from .prepared import note, noted

TOLERATED = 0.05  # ‖C' C'⁻¹ - I‖


class Eigens(NamedTuple):
    """U (out, r), S (r,) and V (in, r) of W = U S Vᵀ, where V has the inverse covariance in it: PEFT's names."""

    U_WC: Array
    S_WC: Array
    V_WC: Array


@nn.all_or_nothing
def preprocess_corda(
    model: Any, lora_config: Config, run_model: Callable[[], Any] | None = None, hooked_model: Any = None
) -> None:
    """Find what an adapter of `init_lora_weights="corda"` begins with, before `get_peft_model(model, lora_config)`.

    run_model     calls the model on some batches; a few times as many tokens as layers are wide are enough. It may be
                  None where one of the files of `lora_config.corda_config` is there
    hooked_model  what run_model calls, where that is another model with the same layers
    Nothing in the model changes: what was found is kept with its layers until the adapter is made. Inside, dropout is
    off and no gradients are recorded. ValueError for inputs or files that will not do.
    """
    corda = lora_config.corda_config
    if corda is None:
        raise ValueError("preprocess_corda: init_lora_weights='corda' and corda_config=CordaConfig(...) are needed")
    layers = layers_for(model, lora_config)
    ranks = {name: lora_config.rank_and_alpha(name)[0] for name in layers}
    if _is_there(corda.cache_file):
        found = _read_cache(corda.cache_file, layers, ranks)
    else:
        covariances = _covariances(layers, lora_config, run_model, model if hooked_model is None else hooked_model)
        found = {}
        for name, layer in layers.items():
            if corda.verbose:
                print(f"CorDA: decomposing {name} {(layer.out_features, layer.in_features)}")
            weight = oriented(layer, to_numpy(layer.weight.data))
            _check_rank(name, weight.shape, ranks[name])
            found[name] = decomposed(weight, covariances[name], ranks[name], corda.corda_method, name)
        if corda.cache_file is not None:
            parts = {f"{n}.eigens.{part}": a for n, eigens in found.items() for part, a in eigens._asdict().items()}
            write_safetensors(corda.cache_file, parts)
    note(layers, "corda", found)


def decomposed(weight: Array, covariance: Array, r: int, method: str, name: str = "the layer") -> Eigens:
    """U, S and V of W (out, in) and C (in, in): the r largest components ("ipm") or the r smallest ("kpm")."""
    dtype = np.result_type(weight.dtype, np.float32)
    covariance, inverse = _inverted(covariance.astype(dtype), name)
    U, S, Vt = np.linalg.svd(weight.astype(dtype, copy=False) @ covariance, full_matrices=False)
    kept = slice(0, r) if method == "ipm" else slice(len(S) - r, len(S))
    return Eigens(U[:, kept].copy(), S[kept].copy(), (Vt[kept] @ inverse).T.copy())


def _inverted(covariance, name):
    """(C', C'⁻¹): the covariance with as much on its diagonal as it takes."""
    identity = np.eye(len(covariance), dtype=covariance.dtype)
    mean, damp = np.diag(covariance).mean(), 0.01
    if not np.isfinite(covariance).all() or mean <= 0:
        raise ValueError(f"{name}: its inputs are all zero, or not finite: no covariance can be made of them")
    while True:
        damped = covariance + identity * (mean * damp)
        inverse = np.linalg.inv(damped)
        if np.linalg.norm(damped @ inverse - identity) < TOLERATED:
            return damped, inverse
        damp *= 2


def _covariances(layers, config, run_model, hooked_model):
    """{name: C (in, in)}, from the file, or from what the layers are given while `run_model` runs."""
    path = config.corda_config.covariance_file
    if _is_there(path):
        found = read_safetensors(path)[0]
        for name, layer in layers.items():
            _expect_shape(path, name, found.get(name), (layer.in_features,) * 2)
        return found
    if run_model is None:
        raise ValueError("preprocess_corda needs run_model, unless a covariance_file or a cache_file is there")
    heard = layers_for(hooked_model, config)
    sums: dict[str, Array] = {}
    calls: dict[str, int] = {}

    def hear(name: str, x: Array) -> None:
        sums[name] = sums.get(name, 0) + _product(name, x, config.corda_config.use_float16_for_covariance)
        calls[name] = calls.get(name, 0) + 1

    with no_grad(), nn.evaluating():
        gather({name: layer for name, layer in heard.items() if name in layers}, run_model, hear)
    if lost := [name for name in layers if name not in sums]:
        raise ValueError(f"preprocess_corda: hooked_model has no {lost[0]}")
    found = {name: total / calls[name] for name, total in sums.items()}
    if path is not None:
        write_safetensors(path, found)
    return found


def _product(name, x, in_float16):
    """xᵀ x of one call's inputs x (..., in), divided by the size of their largest."""
    rows = x.reshape(-1, x.shape[-1])
    dtype = rows.dtype if in_float16 else np.result_type(rows.dtype, np.float32)
    rows = rows.astype(np.result_type(rows.dtype, np.float32), copy=False)
    largest = abs(rows.max())
    if not np.isfinite(rows).all() or largest == 0:
        raise ValueError(f"{name}: its inputs are all zero, or have NaN or infinity in them")
    rows = rows / largest
    return (rows.T @ rows).astype(dtype, copy=False)


def _is_there(path):
    return path is not None and Path(path).exists() and Path(path).stat().st_size > 0


def _read_cache(path, layers, ranks):
    arrays, found = read_safetensors(path)[0], {}
    for name, layer in layers.items():
        r = ranks[name]
        sizes = {"U_WC": (layer.out_features, r), "S_WC": (r,), "V_WC": (layer.in_features, r)}
        for part, shape in sizes.items():
            _expect_shape(path, f"{name}.eigens.{part}", arrays.get(f"{name}.eigens.{part}"), shape)
        found[name] = Eigens(*(arrays[f"{name}.eigens.{part}"] for part in Eigens._fields))
    return found


def _expect_shape(path, name, array, shape):
    if array is None or array.shape != shape:
        given = "is missing" if array is None else f"has shape {array.shape}, not {shape}"
        raise ValueError(f"{path}: {name} {given}: it was made for another model or rank")


def _check_rank(name, shape, r):
    if r > min(shape):
        raise ValueError(f"init_lora_weights='corda' with r = {r}: {name} {shape} allows {min(shape)} at most")


def check(config: Config, target: Target) -> None:
    """ValueError unless the target's layer has been prepared, for this rank."""
    found = noted(target.layer, "corda")
    if found is None:
        raise ValueError(
            f"init_lora_weights='corda': {target.name} has not been prepared: call preprocess_corda(model, config, "
            "run_model) first. A file with it can be read once it is saved for the unchanged base model "
            "(path_initial_model_for_weight_conversion), or says true there and the base is the changed one"
        )
    if len(found.S_WC) != target.r:
        raise ValueError(f"{target.name} was prepared for r = {len(found.S_WC)}, and is to get {target.r}")


def matrices(config: Config, target: Target, s: float) -> list[Array]:
    """[A (r, in), B (out, r)]."""
    U, S, V = noted(target.layer, "corda")
    root = np.sqrt(S / s)
    return [root[:, None] * V.T, U * root]
