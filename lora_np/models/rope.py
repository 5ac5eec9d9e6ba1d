"""How fast rotary positions turn: the plain frequencies, and two ways of stretching them over a longer context."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ..storage.fields import Between, check_fields, fits, short

ORIGINAL = "original_max_position_embeddings"
POSITIVE = Annotated[float, Between(1e-9, 1e18, "a positive number")]  # float32 has room for what is made of them
REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL),
}


def rope_parameters(fields: Mapping[str, Any]) -> dict[str, Any]:
    """{"rope_type", "rope_theta", ...} of a config.json, as Transformers reads it.

    `rope_scaling`, as older files have it, goes before `rope_parameters`; what either leaves out stands beside them
    (`rope_theta`), and an `original_max_position_embeddings` there goes before theirs. Without any, Llama 3's is
    `max_position_embeddings`. ValueError if one of the two is no dict.
    """
    both = {name: fields[name] for name in ("rope_scaling", "rope_parameters") if fields.get(name) is not None}
    check_fields(both, dict.fromkeys(both, dict))
    given: dict[str, Any] = dict(both.get("rope_scaling") or both.get("rope_parameters") or {})
    given.setdefault("rope_type", given.pop("type", None) or "default")
    given.pop("type", None)
    given.setdefault("rope_theta", fields.get("rope_theta", 10000.0))
    if fields.get("partial_rotary_factor") is not None:
        given.setdefault("partial_rotary_factor", fields["partial_rotary_factor"])
    if given["rope_type"] == "llama3":
        given.setdefault(ORIGINAL, fields.get("max_position_embeddings"))
        given[ORIGINAL] = given[ORIGINAL] if fields.get(ORIGINAL) is None else fields[ORIGINAL]
    return given


def check_rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with their defaults; ValueError for a kind that is not known, or if a number is missing."""
    parameters = {"rope_type": "default", "rope_theta": 10000.0, **parameters}
    kind = parameters["rope_type"]
    if not isinstance(kind, str) or kind not in REQUIRED:
        raise ValueError(f"rope_type {short(kind)} is not supported; supported are {', '.join(REQUIRED)}")
    if parameters.get("partial_rotary_factor") not in (None, 1.0):
        raise ValueError("rotary positions on a part of each head (partial_rotary_factor) are not supported")
    if nested := [name for name, value in parameters.items() if isinstance(value, dict)]:
        raise ValueError(f"rotary positions for each kind of layer ({short(nested[0])}) are not supported")
    for name in ("rope_theta", *REQUIRED[kind]):
        if not fits(value := parameters.get(name), POSITIVE):
            raise ValueError(f"rope_type {kind!r} needs a positive number {name}, got {short(value)}")
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
    turns = parameters[ORIGINAL] * frequencies / np.float32(2 * math.pi)
    stays = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    return stays * frequencies + (1 - stays) * slow
