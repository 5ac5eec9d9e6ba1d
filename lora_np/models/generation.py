"""Writing on: one token after another, each chosen from the model's probabilities."""

import numpy as np

from ..autograd import no_grad
from ..autograd.backend import generator, to_numpy
from ..autograd.tensor import data


def generate(model, ids, max_new_tokens=20, do_sample=False, temperature=1.0, top_k=None, top_p=None, seed=None):
    """Continue each row of `ids` (B, T) by `max_new_tokens` tokens; returns ids (B, T + max_new_tokens).

    Greedy unless `do_sample`. With sampling, logits are divided by `temperature`, then all but the `top_k` most likely
    tokens, or all but the smallest set with probability `top_p` together, are left out. The same `seed`
    gives the same text. Where the text outgrows the model's context, the model sees the last part of it.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must not be negative, got {max_new_tokens}")
    if do_sample and temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}; for greedy text use do_sample=False")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    ids, rng = to_numpy(data(ids)), generator() if seed is None else np.random.default_rng(seed)
    if ids.ndim != 2:
        raise ValueError(f"ids must be (batch, time), got shape {ids.shape}")
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            for _ in range(max_new_tokens):
                logits = model(ids[:, -model.config.n_positions :]).logits[:, -1]  # (B, V)
                logits = logits.numpy().astype(np.float64)
                chosen = _sample(logits / temperature, top_k, top_p, rng) if do_sample else logits.argmax(axis=-1)
                ids = np.concatenate([ids, chosen[:, None].astype(ids.dtype)], axis=1)
    finally:
        model.train(was_training)
    return ids


def _sample(logits, top_k, top_p, rng):
    """One id per row of logits (B, V), by the inverse of the cumulative distribution, most likely tokens first."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    ranked = np.take_along_axis(logits, order, axis=-1)
    p = np.exp(ranked - ranked[:, :1])
    if top_k is not None:
        p[:, top_k:] = 0
    p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None:  # a token stays if those more likely than it do not reach top_p yet
        p[np.cumsum(p, axis=-1) - p >= top_p] = 0
        p /= p.sum(axis=-1, keepdims=True)
    rank = (np.cumsum(p, axis=-1) < rng.random((len(p), 1))).sum(axis=-1)
    rank = np.minimum(rank, (p > 0).sum(axis=-1) - 1)
    return np.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
