"""What the distribution is that tokens are drawn from: scores (B, V) in, and -inf for the unlikely out.

As the other processors (`processors.py`), and with Transformers' names. min_tokens_to_keep: so many of the likeliest
always stay.
"""

from __future__ import annotations

import numpy as np

from .processors import LogitsProcessor, log_softmax


class TemperatureLogitsWarper(LogitsProcessor):
    """Scores are divided by the temperature: below 1, the likely become likelier."""

    def __init__(self, temperature: float) -> None:
        if not temperature > 0:
            raise ValueError(
                f"temperature must be positive, got {temperature}; for greedy text use do_sample=False (--greedy)"
            )
        self.temperature = temperature

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return scores / self.temperature


class TopKLogitsWarper(LogitsProcessor):
    """Only the `top_k` likeliest tokens stay, and those as likely as the last of them (Fan et al., 2018)."""

    def __init__(self, top_k: int, min_tokens_to_keep: int = 1) -> None:
        if not top_k >= 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        self.top_k = max(top_k, min_tokens_to_keep)

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return np.where(scores < highest(scores, self.top_k), -np.inf, scores)


class TopPLogitsWarper(LogitsProcessor):
    """Only the smallest set of likeliest tokens stays that has the probability `top_p` (Holtzman et al., 2019).

    A token stays if those that are likelier do not reach top_p yet.
    """

    def __init__(self, top_p: float, min_tokens_to_keep: int = 1) -> None:
        if not 0 <= top_p <= 1:
            raise ValueError(f"top_p must be a number from 0 to 1, got {top_p}")
        self.top_p, self.least = top_p, min_tokens_to_keep

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        columns = possible(scores)
        among = scores[:, columns]
        order = np.argsort(among, axis=-1)
        up_to = np.cumsum(probabilities(np.take_along_axis(among, order, axis=-1)), axis=-1)
        unlikely = up_to <= 1 - self.top_p
        unlikely[:, -self.least :] = False
        remove = np.zeros_like(unlikely)
        np.put_along_axis(remove, order, unlikely, axis=-1)
        scores = scores.copy()
        scores[:, columns] = np.where(remove, -np.inf, among)
        return scores


class TopHLogitsWarper(LogitsProcessor):
    """Of the 100 likeliest tokens, those stay that have at most `top_h` of their entropy (Potraghloo et al., 2025)."""

    def __init__(self, top_h: float) -> None:
        if not 0 < top_h <= 1:
            raise ValueError(f"top_h must be in (0, 1], got {top_h}")
        self.top_h = top_h

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        order = np.argsort(-scores, axis=-1, kind="stable")[:, :100]
        top = np.take_along_axis(scores, order, axis=-1)
        terms = surprise(top) * probabilities(top)
        stays = np.cumsum(terms, axis=-1) <= self.top_h * terms.sum(axis=-1, keepdims=True)
        stays[:, 0] = True
        found = np.full_like(scores, -np.inf)
        np.put_along_axis(found, order, np.where(stays, top, -np.inf), axis=-1)
        return found


class MinPLogitsWarper(LogitsProcessor):
    """Only tokens stay that are at least `min_p` times as likely as the likeliest (Nguyen et al., 2024)."""

    def __init__(self, min_p: float, min_tokens_to_keep: int = 1) -> None:
        if not 0 <= min_p <= 1:
            raise ValueError(f"min_p must be a number from 0 to 1, got {min_p}")
        self.min_p, self.least = min_p, min_tokens_to_keep

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        p = probabilities(scores)
        return without(scores, p < self.min_p * p.max(axis=-1, keepdims=True), self.least)


class TypicalLogitsWarper(LogitsProcessor):
    """The tokens stay whose surprise -log p is nearest to the entropy H, up to a `mass` of p (Meister et al., 2022)."""

    def __init__(self, mass: float = 0.9, min_tokens_to_keep: int = 1) -> None:
        if not 0 < mass < 1:
            raise ValueError(f"typical_p must be in (0, 1), got {mass}")
        self.mass, self.least = mass, min_tokens_to_keep

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        p = probabilities(scores)
        distance = np.where(np.isneginf(scores), np.inf, np.abs(surprise(scores) - entropy(scores)))
        order = np.argsort(distance, axis=-1, kind="stable")
        up_to = np.cumsum(np.take_along_axis(p, order, axis=-1), axis=-1)
        last = np.minimum((up_to < self.mass).sum(axis=-1), scores.shape[1] - 1)
        ranked = np.take_along_axis(distance, order, axis=-1)
        far = ranked > np.take_along_axis(ranked, last[:, None], axis=-1)
        far[:, : self.least] = False
        remove = np.zeros_like(far)
        np.put_along_axis(remove, order, far, axis=-1)
        return np.where(remove, -np.inf, scores)


class EpsilonLogitsWarper(LogitsProcessor):
    """Only tokens of at least the probability `epsilon` stay (Hewitt et al., 2022)."""

    name = "epsilon_cutoff"

    def __init__(self, epsilon: float, min_tokens_to_keep: int = 1) -> None:
        if not 0 < epsilon < 1:
            raise ValueError(f"{self.name} must be in (0, 1), got {epsilon}")
        self.epsilon, self.least = epsilon, min_tokens_to_keep

    def least_probability(self, scores: np.ndarray) -> float | np.ndarray:
        """What a token must have to stay."""
        return self.epsilon

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        unlikely = probabilities(scores) < self.least_probability(scores)
        return np.where(unlikely & (scores < highest(scores, self.least)), -np.inf, scores)


class EtaLogitsWarper(EpsilonLogitsWarper):
    """Only tokens of at least the probability η = min(ε, √ε·exp(-H)) stay, H the entropy (Hewitt et al., 2022)."""

    name = "eta_cutoff"

    def least_probability(self, scores: np.ndarray) -> np.ndarray:
        """η, (B, 1)."""
        return np.minimum(self.epsilon, np.sqrt(self.epsilon) * np.exp(-entropy(scores)))


def probabilities(scores: np.ndarray) -> np.ndarray:
    """softmax of each row."""
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def surprise(scores: np.ndarray) -> np.ndarray:
    """-log p of each token; 0 where p is."""
    log_p = log_softmax(scores)
    return np.where(np.isneginf(log_p), 0, -log_p)


def entropy(scores: np.ndarray) -> np.ndarray:
    """H = -Σ p log p of each row, (B, 1)."""
    return (surprise(scores) * probabilities(scores)).sum(axis=-1, keepdims=True)


def highest(scores: np.ndarray, k: int) -> np.ndarray:
    """The k-th highest score of each row, (B, 1)."""
    place = scores.shape[1] - min(k, scores.shape[1])
    return np.partition(scores, place, axis=-1)[:, place : place + 1]


def without(scores: np.ndarray, remove: np.ndarray, least: int) -> np.ndarray:
    """The scores with -inf where `remove` says, but not for the `least` highest of a row."""
    top = np.argsort(-scores, axis=-1, kind="stable")[:, :least] if least > 1 else scores.argmax(axis=-1)[:, None]
    np.put_along_axis(remove, top, False, axis=-1)
    return np.where(remove, -np.inf, scores)


def possible(scores: np.ndarray) -> np.ndarray:
    """The tokens that some row does not forbid: after top_k these are few, and sorting them is quick."""
    return np.flatnonzero(~np.isneginf(scores).all(axis=0))
