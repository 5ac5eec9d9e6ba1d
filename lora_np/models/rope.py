"""How fast rotary positions turn: the plain frequencies, and two ways of stretching them over a longer context."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def rope_parameters(fields: Mapping[str, Any]) -> dict[str, Any]:
    """{"rope_type", "rope_theta", ...} of a config.json: one field as it is written now, or the two of older files."""
    given = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    kind = given.pop("type", None)
    given.setdefault("rope_type", kind or "default")
    given.setdefault("rope_theta", fields.get("rope_theta", 10000.0))
    return given


def check_rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with their defaults; ValueError for a kind that is not known, or if a number is missing."""
    parameters = {"rope_type": "default", "rope_theta": 10000.0, **parameters}
    kind = parameters["rope_type"]
    if kind not in REQUIRED:
        raise ValueError(f"rope_type {kind!r} is not supported; supported are {', '.join(REQUIRED)}")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("rotary positions on a part of each head (partial_rotary_factor) are not supported")
    for name in ("rope_theta", *REQUIRED[kind]):
        value = parameters.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"rope_type {kind!r} needs a positive number {name}, got {value!r}")
    if kind == "llama3" and not parameters["low_freq_factor"] < parameters["high_freq_factor"]:
        raise ValueError("rope_type 'llama3' needs a low_freq_factor below its high_freq_factor")
    return parameters


def inverse_frequencies(head_dim: int, parameters: Mapping[str, Any]) -> np.ndarray:
    """(D/2,) float32: by how many radians each pair of channels turns from one position to the next.

    default   θ^(-2i/D), i = 0 ... D/2 - 1 (Su et al., 2021, section 3.2.2)
    linear    the same divided by `factor`: positions are squeezed together (Chen et al., 2023)
    llama3    pairs that turn often within the original context stay, those that turn less than `low_freq_factor` times
              are divided by `factor`, in between it changes gradually (Llama 3.1)
    In float32, as the models were trained.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1) / np.float32(parameters["rope_theta"]) ** exponents
    if parameters["rope_type"] == "default":
        return frequencies
    slow = frequencies / np.float32(parameters["factor"])
    if parameters["rope_type"] == "linear":
        return slow
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    turns = parameters["original_max_position_embeddings"] * frequencies / np.float32(2 * math.pi)
    stays = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    return stays * frequencies + (1 - stays) * slow
