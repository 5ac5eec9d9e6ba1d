"""Which parameters share which settings: the groups that an optimizer takes."""

from ...autograd import Tensor
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
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups.setdefault((_is_lora_b(name), p.ndim > 1), []).append(p)
    if not groups:
        raise ValueError("nothing to train: every parameter of the model is frozen")
    return [
        {
            "params": params,
            "lr": learning_rate * (loraplus_lr_ratio if is_b else 1.0),
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        for (is_b, is_matrix), params in groups.items()
    ]


def _is_lora_b(name: str) -> bool:
    """Is this the name of a LoRA layer's B?"""
    return ".lora_B." in name
