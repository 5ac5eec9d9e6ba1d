r""" "lora_ga": A and B from the gradient that full training would begin with. (Wang et al., 2024, "LoRA-GA: Low-Rank
Adaptation with Gradient Approximation", theorem 3.1 and section 3.3.)

    G = mean of dL/dW over the first batches,  G = U S Vᵀ
    A = Vᵀ[:r],  B = U[:, r:2r] S[r:2r] · c       `direction="ArB2r"`; others in `LoraGAConfig`
    W - s·B A stays frozen, so that training starts at the base model

The first step that LoRA makes in s·B A, s² (B Bᵀ G + G Aᵀ A), is of rank 2r: with A and B along the first 2r singular
vectors of G it is as near to the step of full training as it can be. c, by `scale`: "stable" out^¼ / √stable_gamma, so
that the size of the output does not depend on the width; "weight_svd" makes B's largest column as long as W's largest
singular value; "gd_scale" divides both A and B by s; "unit" leaves them.

The claim: 2 to 4 times faster convergence than LoRA, and scores near those of full fine-tuning on GLUE subsets and on
Llama 2.

    config = LoraConfig(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())
    preprocess_loraga(model, config, train_step)     # train_step: model(...).loss.backward() for a few batches
    peft_model = get_peft_model(model, config)

Other than in PEFT, the decomposition is exact and not randomised, "stable" means the outputs of a Conv1D too (there it
takes the size that is stored first, the inputs), a rank of which G has not 2r is refused, and the cache is safetensors.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ... import nn
from ...autograd.devices import to_numpy
from ...autograd.random import generator
from ...storage import read_safetensors, write_safetensors
from ..adapter import Target
from ..base_layer import all_finite, oriented
from ..types import Array, Config
from .gather import gather, layers_for
from .prepared import note, noted

IN_FILE = "{}._peft_loraga_grad"  # of a layer's gradient


@nn.all_or_nothing
def preprocess_loraga(
    model: Any, lora_config: Config, train_step: Callable[[], Any], cache_file: str | None = None
) -> None:
    """Find what an adapter of `init_lora_weights="lora_ga"` begins with, before `get_peft_model(model, lora_config)`.

    train_step  runs forward and backward passes; gradients add up over all of them, and are divided by their number
    cache_file  a safetensors file of the gradients: read where it is there, else written
    Only the targeted layers' weights get gradients inside, and dropout is on. Afterwards everything in the model, what
    is trained and gradients too, is as before; what was found is kept with its layers until the adapter is made.
    """
    if lora_config.lora_ga_config is None:
        raise ValueError("preprocess_loraga: init_lora_weights='lora_ga', lora_ga_config=LoraGAConfig(...) are needed")
    layers = layers_for(model, lora_config)
    for name, layer in layers.items():
        _check_rank(name, layer, lora_config.rank_and_alpha(name)[0])
    if cache_file is not None and Path(cache_file).exists() and Path(cache_file).stat().st_size > 0:
        found = _read(cache_file, layers)
    else:
        found = _gradients(model, layers, train_step)
        if cache_file is not None:
            write_safetensors(cache_file, {IN_FILE.format(name): array for name, array in found.items()})
    note(layers, "lora_ga", found)


def _gradients(model, layers, train_step):
    """{name: dL/dW as the layer stores W}: the mean over the times that a gradient came back through the layer."""
    times = dict.fromkeys(layers, 0)

    def count(name: str) -> None:
        times[name] += 1

    parameters = [p for _, p in model.named_parameters()]
    before = [(p, p.requires_grad, p.grad) for p in parameters]
    modes = [(module, module._training) for module in model.modules()]
    try:
        for p in parameters:
            p.requires_grad, p.grad = False, None
        for layer in layers.values():
            layer.weight.requires_grad = True
        model.train()
        gather(layers, train_step, on_backward=count)
        found = {name: layer.weight.grad for name, layer in layers.items()}
        missing = [name for name, gradient in found.items() if gradient is None or not times[name]]
        if missing:
            raise ValueError(
                f"{missing[0]} got no gradient: train_step is to call loss.backward(), and not zero_grad()"
            )
        if not all_finite(found.values()):
            raise ValueError("preprocess_loraga: a gradient has NaN or infinity in it")
        return {name: to_numpy(gradient) / times[name] for name, gradient in found.items()}
    finally:
        for p, requires_grad, grad in before:
            p.requires_grad, p.grad = requires_grad, grad
        for module, mode in modes:
            module._training = mode


def _read(path, layers):
    arrays, found = read_safetensors(path)[0], {}
    for name, layer in layers.items():
        found[name] = arrays.get(IN_FILE.format(name))
        if found[name] is None or found[name].shape != layer.weight.shape:
            raise ValueError(f"{path} has no {IN_FILE.format(name)} {layer.weight.shape}: it is of another model")
    return found


def _check_rank(name, layer, r):
    smaller = min(layer.out_features, layer.in_features)
    if 2 * r > smaller:
        raise ValueError(
            f"init_lora_weights='lora_ga' with r = {r} takes 2r singular vectors: {name} allows r = {smaller // 2}"
        )


def check(config: Config, target: Target) -> None:
    """ValueError unless the target's layer has been prepared, and is wide enough."""
    if noted(target.layer, "lora_ga") is None:
        raise ValueError(
            f"init_lora_weights='lora_ga': {target.name} has not been prepared: call preprocess_loraga(model, config, "
            "train_step) first. A file with it can be read once it is saved for the unchanged base model "
            "(path_initial_model_for_weight_conversion), or says true there and the base is the changed one"
        )
    _check_rank(target.name, target.layer, target.r)


def matrices(config: Config, target: Target, s: float) -> list[Array]:
    """[A (r, in), B (out, r)]."""
    layer, r, options = target.layer, target.r, config.lora_ga_config
    gradient = oriented(layer, noted(layer, "lora_ga"))
    U, S, Vt = np.linalg.svd(gradient.astype(np.result_type(gradient.dtype, np.float32)), full_matrices=False)
    of_A, of_B = _chosen(options.direction, r)
    A, B = Vt[of_A], U[:, of_B] * S[of_B]
    if options.scale == "stable":
        B = B * (layer.out_features**0.25 / options.stable_gamma**0.5)
    elif options.scale == "weight_svd" and S[of_B][0] > 0:
        B = B * (np.linalg.norm(to_numpy(layer.weight.data), 2) / S[of_B][0])
    elif options.scale == "gd_scale":
        A, B = A / s, B / s
    return [A, B]


def _chosen(direction, r):
    """The numbers of the singular vectors, of 2r, that go into A and into B."""
    first, second = np.arange(r), np.arange(r, 2 * r)
    if direction == "random":
        chosen = generator().permutation(2 * r)[:r]
        return chosen, chosen
    return {"ArB2r": (first, second), "A2rBr": (second, first), "ArBr": (2 * first + 1, 2 * first)}[direction]
