"""LoRA+ under PEFT's name: B learns faster than A."""

from typing import Any

from ... import nn
from ...autograd import Tensor
from ...expect import A_MODEL, expect, expect_number
from ...lora.lora_model import adapters_in
from ...lora.variants.embedding import EmbeddingAdapter
from .adamw8bit import AdamW8bit
from .optimizer import Group, Optimizer

NORMS = (nn.LayerNorm, nn.RMSNorm)


def create_loraplus_optimizer(
    model: nn.Module,
    optimizer_cls: type[Optimizer],
    *,
    lr: float,
    loraplus_lr_ratio: float,
    loraplus_lr_embedding: float = 1e-6,
    loraplus_weight_decay: float = 0.0,
    **kwargs: Any,
) -> Any:
    r"""An optimizer of `optimizer_cls` in which B learns at lr · loraplus_lr_ratio and A at lr.

    Hayou et al., 2024, "LoRA+: Efficient Low Rank Adaptation of Large Models" (arXiv 2402.12354): with width n, and
    one rate for both, A or B learns too little; features change by as much as they should if η_B / η_A grows like n.
    Its published claim is 1 to 2% better results in up to half the steps; the ratio should be 1 or more, about 16.

    What is trained is in four groups, in this order, which may be empty, as in PEFT:
        A's: all other matrices                          lr                       loraplus_weight_decay
        embeddings: A and B beside an embedding          loraplus_lr_embedding    loraplus_weight_decay
        B's: B, and vectors such as DoRA's magnitudes    lr · loraplus_lr_ratio   loraplus_weight_decay
        B's without decay: biases, and weights of norms  lr · loraplus_lr_ratio   0
    In 8 bits, embeddings that are trained whole keep their state in 32 bits, as in PEFT.

    kwargs are those of `optimizer_cls`. ValueError if nothing is trained, and for weight_decay=, which PEFT takes and
    heeds nowhere: write loraplus_weight_decay=. (In PEFT the norms without a mean, of Llama and its like, decay.)
    """
    expect(model, nn.Module, "model", A_MODEL)
    if not (isinstance(optimizer_cls, type) and issubclass(optimizer_cls, Optimizer)):
        raise TypeError(f"optimizer_cls should be a class of optimizers, such as AdamW, got {optimizer_cls!r:.60}")
    expect_number(loraplus_lr_ratio, "loraplus_lr_ratio", positive=True)
    expect_number(loraplus_lr_embedding, "loraplus_lr_embedding")
    expect_number(loraplus_weight_decay, "loraplus_weight_decay")
    if kwargs.get("weight_decay"):
        raise ValueError(f"weight_decay={kwargs['weight_decay']!r}: write loraplus_weight_decay, which the groups have")
    kwargs.pop("weight_decay", None)
    rates = (lr, loraplus_lr_embedding, lr * loraplus_lr_ratio, lr * loraplus_lr_ratio)
    decays = (*[loraplus_weight_decay] * 3, 0.0)
    groups: list[Group] = [
        {"params": params, "lr": rate, "weight_decay": decay}
        for params, rate, decay in zip(_four_groups(model), rates, decays, strict=True)
    ]
    if not any(group["params"] for group in groups):
        raise ValueError("nothing to train: every parameter of the model is frozen")
    optimizer: Any = optimizer_cls(groups, lr=lr, **kwargs)
    if isinstance(optimizer, AdamW8bit):
        optimizer.keep_32bit(module.weight for module in model.modules() if isinstance(module, nn.Embedding))
    return optimizer


def _four_groups(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """What is trained: (A's, embeddings, B's, B's without decay)."""
    faster = {id(p) for adapter in adapters_in(model) for p in adapter.faster_parameters()}
    of_embeddings = [adapter for adapter in adapters_in(model) if isinstance(adapter, EmbeddingAdapter)]
    embeddings = {id(p) for adapter in of_embeddings for p in adapter.matrices()}
    of_norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    groups: tuple[list[Tensor], ...] = ([], [], [], [])
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if id(p) in embeddings:
            groups[1].append(p)
        elif id(p) in faster or p.ndim == 1:
            groups[3 if id(p) in of_norms or "bias" in name.split(".") else 2].append(p)
        else:
            groups[0].append(p)
    return groups  # type: ignore[return-value]
