"""A model's vocabulary made longer or shorter: `model.resize_token_embeddings`, as in Transformers."""

from typing import Any

import numpy as np

from .. import nn
from ..autograd.devices import to_device, to_numpy
from ..expect import expect_whole

SPREAD = 1e-9  # of new rows' covariance, as a part of that of the old ones


def resize_token_embeddings(
    model: Any, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
) -> nn.Embedding:
    """Give the embedding, and the head, `new_num_tokens` rows: new ones behind the old, or the last ones taken away.

    new_num_tokens       None leaves the number as it is
    pad_to_multiple_of   round the number up to a multiple of this
    mean_resizing        draw new rows very near the mean of the old ones (normal, with 1e-9 of their covariance), so
                         that the new tokens are about as likely as the others are on average; else with mean 0 and
                         the config's initializer_range (Hewitt, 2021, "Initializing new word embeddings")
    Returns the embedding. The config says the new number; a tied head stays tied. An optimizer that was made before
    has to be made anew. ValueError where an adapter is on the embedding or the head: resize first, then adapt.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for name, layer, kind in (("embedding", embedding, nn.Embedding), ("head", head, nn.Linear)):
        if layer is not None and not isinstance(layer, kind):
            raise ValueError(
                f"the token {name} is a {type(layer).__name__}, with adapters or in few bits: resize_token_embeddings "
                "comes before get_peft_model and quantizing, on the plain model"
            )
    count = _rounded(len(embedding.weight) if new_num_tokens is None else new_num_tokens, pad_to_multiple_of)
    std = None if mean_resizing else model.config.initializer_range
    layers = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    new = [{name: _resized(p, count, std) for name, p in _with_rows(layer)} for layer in layers]  # all, then put
    if count == len(embedding.weight):
        return embedding
    for layer, arrays in zip(layers, new, strict=True):
        for name, array in arrays.items():
            parameter = getattr(layer, name)
            parameter.data, parameter.grad = array, None
    embedding.num_embeddings = count
    if embedding.padding_idx is not None and embedding.padding_idx >= count:
        embedding.padding_idx = None
    if head is not None:
        head.out_features = count
    model.config.vocab_size, model.resized = count, True
    return embedding


def _rounded(count: int, multiple: int | None) -> int:
    expect_whole(count, "new_num_tokens")
    if multiple is None:
        return int(count)
    expect_whole(multiple, "pad_to_multiple_of")
    return -(-int(count) // int(multiple)) * int(multiple)


def _with_rows(layer):
    """(name, Parameter) of what has a row for each token: the weight, and a head's bias."""
    return [(name, p) for name in ("weight", "bias") if (p := getattr(layer, name, None)) is not None]


def _resized(parameter, count, std):
    """The array with `count` rows. std: that of new ones around 0; None draws them around the mean of the old."""
    old, device = to_numpy(parameter.data), parameter.device
    kept, added = old[:count], max(0, count - len(old))
    if added == 0:
        return to_device(kept.copy(), device)
    if old.ndim == 1 and std is not None:
        new = nn.zeros(added)
    else:
        new = nn.normal((added, *old.shape[1:]), std) if std is not None else _around_mean(old, added)
    return to_device(np.concatenate([kept, new.astype(old.dtype)]), device)


def _around_mean(rows, count):
    """`count` rows from the normal distribution with the mean of `rows` (N, C) and 1e-9 of their covariance.

    With G (count, N) standard normal, G (rows - mean) / √N has just that covariance.
    """
    rows = rows.astype(np.float32)
    mean = rows.mean(axis=0)
    return mean + nn.normal((count, len(rows)), (SPREAD / len(rows)) ** 0.5) @ (rows - mean)
