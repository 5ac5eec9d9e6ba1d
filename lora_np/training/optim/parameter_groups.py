"""Which parameters share which settings: the groups that an optimizer takes."""

from ...autograd import Tensor
from ...expect import A_MODEL, expect
from ...lora.lora_model import adapters_in
from ...nn import Module
from .optimizer import Group


def parameter_groups(
    model: Module, learning_rate: float, weight_decay: float = 0.0, loraplus_lr_ratio: float = 1.0
) -> list[Group]:
    """Groups for an optimizer from what is trained in `model`.

    Weight decay acts on matrices only: a bias, a norm or DoRA's magnitudes have no reason to be near zero.
    LoRA+ (Hayou et al., 2024): B learns at learning_rate · loraplus_lr_ratio. B begins at zero and A does not, so that
    with equal rates B learns too slowly in wide layers; the paper suggests a ratio of about 16.
    ValueError if nothing is trained.
    """
    expect(model, Module, "model", A_MODEL)
    faster = {id(p) for adapter in adapters_in(model) for p in adapter.faster_parameters()}
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for p in model.parameters():
        if p.requires_grad:
            groups.setdefault((id(p) in faster, p.ndim > 1), []).append(p)
    if not groups:
        raise ValueError("nothing to train: every parameter of the model is frozen")
    return [
        {
            "params": params,
            "lr": learning_rate * (loraplus_lr_ratio if is_faster else 1.0),
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        for (is_faster, is_matrix), params in groups.items()
    ]
