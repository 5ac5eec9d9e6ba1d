"""Which parameters share which settings: the groups that an optimizer takes."""


def parameter_groups(model, learning_rate, weight_decay=0.0, loraplus_lr_ratio=1.0):
    """Groups for an optimizer from what is trained in `model`.

    Weight decay acts on matrices only: a bias, a norm or DoRA's magnitudes have no reason to be near zero.
    LoRA+ (Hayou et al., 2024): B learns at learning_rate · loraplus_lr_ratio. B starts at zero and A does not, so that
    equal rates are too slow for B in wide layers; the paper suggests a ratio of about 16.
    ValueError if nothing is trained.
    """
    groups = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            key = (".lora_B." in name, p.ndim > 1)
            groups.setdefault(key, []).append(p)
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
