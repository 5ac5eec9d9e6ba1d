"""How fast rotary positions turn: the plain frequencies, and the ways of stretching them over a longer context."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np

from ..storage.fields import Between, check_fields, fits, short

ORIGINAL = "original_max_position_embeddings"
PART = "partial_rotary_factor"
POSITIVE = Annotated[float, Between(1e-9, 1e18, "a positive number")]  # float32 has room for what is made of them
NOT_NEGATIVE = Annotated[float, Between(0, 1e18, "a number of at least 0")] | None
REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL),
    "dynamic": ("factor",),
    "yarn": (ORIGINAL,),
    "longrope": (ORIGINAL,),
}
LISTS = {"longrope": ("short_factor", "long_factor")}  # one number for each pair of channels
YARN = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
OPTIONAL: dict[str, dict[str, Any]] = {
    "yarn": {**dict.fromkeys(YARN, NOT_NEGATIVE), "factor": POSITIVE | None, "truncate": bool},
    "longrope": {"attention_factor": NOT_NEGATIVE, "factor": POSITIVE | None},
}
CHANGING = ("dynamic", "longrope")  # those that turn otherwise in a long text than in a short one


def rope_parameters(fields: Mapping[str, Any]) -> dict[str, Any]:
    """{"rope_type", "rope_theta", ...} of a config.json, as Transformers reads it.

    `rope_scaling`, as older files have it, goes before `rope_parameters`; what either leaves out stands beside them
    (`rope_theta`), and an `original_max_position_embeddings` there goes before theirs. Without any, it is
    `max_position_embeddings`, for the kinds that need one. ValueError if one of the two is no dict.
    """
    both = {name: fields[name] for name in ("rope_scaling", "rope_parameters") if fields.get(name) is not None}
    check_fields(both, dict.fromkeys(both, dict))
    given: dict[str, Any] = dict(both.get("rope_scaling") or both.get("rope_parameters") or {})
    given.setdefault("rope_type", given.pop("type", None) or "default")
    given.pop("type", None)
    given.setdefault("rope_theta", fields.get("rope_theta", 10000.0))
    if fields.get(PART) is not None:
        given.setdefault(PART, fields[PART])
    if given["rope_type"] in ("llama3", "yarn", "longrope"):
        given.setdefault(ORIGINAL, fields.get("max_position_embeddings"))
        given[ORIGINAL] = given[ORIGINAL] if fields.get(ORIGINAL) is None else fields[ORIGINAL]
    return given


def check_rope(parameters: Mapping[str, Any], head_dim: int | None = None) -> dict[str, Any]:
    """The parameters with their defaults; ValueError for a kind that is not known, or if a number is missing.

    head_dim: that of the model, if it is known: then longrope's factors have to be as many as the pairs that turn.
    """
    parameters = {"rope_type": "default", "rope_theta": 10000.0, **parameters}
    kind = parameters["rope_type"]
    if not isinstance(kind, str) or kind not in REQUIRED:
        raise ValueError(f"rope_type {short(kind)} is not supported; supported are {', '.join(REQUIRED)}")
    if not fits(parameters.get(PART), Annotated[float, Between(0, 1, "")] | None):
        raise ValueError(f"{PART}, how much of each head is turned, must be from 0 to 1, got {short(parameters[PART])}")
    if nested := [name for name, value in parameters.items() if isinstance(value, dict)]:
        raise ValueError(f"rotary positions for each kind of layer ({short(nested[0])}) are not supported")
    for name in ("rope_theta", *REQUIRED[kind]):
        if not fits(value := parameters.get(name), POSITIVE):
            raise ValueError(f"rope_type {kind!r} needs a positive number {name}, got {short(value)}")
    check_fields(parameters, OPTIONAL.get(kind, {}))
    if kind in _SPECIAL:
        _SPECIAL[kind](parameters)
    for name in LISTS.get(kind, ()):
        _check_list(name, parameters.get(name), None if head_dim is None else turning_pairs(head_dim, parameters))
    return parameters


def _check_llama3(parameters):
    if not parameters["low_freq_factor"] < parameters["high_freq_factor"]:
        raise ValueError("rope_type 'llama3' needs a low_freq_factor below its high_freq_factor")


def _check_yarn(parameters):
    if "factor" not in parameters:
        raise ValueError(f"rope_type 'yarn' needs a factor (null for max_position_embeddings / {ORIGINAL})")
    if parameters["rope_theta"] == 1:
        raise ValueError("rope_type 'yarn' needs a rope_theta other than 1, for which all pairs turn alike")


def _check_longrope(parameters):
    if parameters[ORIGINAL] <= 1:
        raise ValueError(f"rope_type 'longrope' needs an {ORIGINAL} above 1, got {short(parameters[ORIGINAL])}")


_SPECIAL = {"llama3": _check_llama3, "yarn": _check_yarn, "longrope": _check_longrope}


def _check_list(name, factors, pairs):
    if not isinstance(factors, list) or not fits(factors, list[POSITIVE]):
        raise ValueError(f"rope_type 'longrope' needs {name}, a list of positive numbers, got {short(factors)}")
    if pairs is not None and len(factors) != pairs:
        raise ValueError(f"{name} must have {pairs} numbers, one for each pair of channels, got {len(factors)}")


def turning_channels(head_dim: int, parameters: Mapping[str, Any]) -> int:
    """How many channels of each head are meant to turn, the first ones."""
    part = parameters.get(PART)
    return int(head_dim * (1.0 if part is None else part))


def turning_pairs(head_dim: int, parameters: Mapping[str, Any]) -> int:
    """How many pairs of channels turn: of an odd number of channels, one more than half, as in Transformers."""
    return (turning_channels(head_dim, parameters) + 1) // 2


def context_length(config: Any) -> int:
    """How many positions a model of this config is made for: its max_position_embeddings, or more.

    Where rotary positions are stretched by a factor, files mostly give the context before (Vicuna 16k, Qwen2.5 with
    YaRN).
    """
    parameters, length = getattr(config, "rope_parameters", None) or {}, config.max_position_embeddings
    factor, kind = parameters.get("factor") or 1.0, parameters.get("rope_type")
    if kind in ("linear", "dynamic"):
        return int(length * max(1.0, factor))
    return max(length, int(parameters[ORIGINAL] * factor)) if kind == "yarn" else length


def rows_apart(config: Any) -> bool:
    """Does what comes out for a row depend on that row alone, and not on how long another one is?"""
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [parameters, *(one for one in parameters.values() if isinstance(one, dict))]  # Gemma 3: for each of layers
    return not any(one.get("rope_type") in CHANGING for one in kinds)


def inverse_frequencies(
    head_dim: int, parameters: Mapping[str, Any], context: int | None = None, length: int = 0
) -> np.ndarray:
    """(pairs,) float32: by how many radians each pair of channels turns from one position to the next.

    With θ the rope_theta and D the channels that turn, head_dim · partial_rotary_factor:

    default   θ^(-2i/D), i = 0 ... D/2 - 1 (Su et al., 2021, section 3.2.2)
    linear    the same divided by `factor`: positions are squeezed together (Chen et al., 2023)
    llama3    pairs that turn often within the original context stay, those that turn less than `low_freq_factor` times
              are divided by `factor`, in between it changes gradually (Llama 3.1)
    dynamic   in a text of L > `context` tokens, θ (factor·L / context - factor + 1)^(D/(D - 2)) for θ ("NTK-aware"):
              the slowest pair turns as much as at the end of the context, the fastest stays
    yarn      pairs that turn `beta_fast` (32) times within the original context stay, those that turn `beta_slow` (1)
              times are divided by `factor`, with a ramp over the pairs between (Peng et al., 2023, section 3.2)
    longrope  the plain ones divided by factors that were searched, one for each pair: `short_factor` in texts of up to
              the original context, `long_factor` in longer ones (Ding et al., 2024)

    context   the model's max_position_embeddings, for dynamic, and for yarn without a factor
    length    of the text so far, for dynamic and longrope
    In float32, as the models were trained.
    """
    channels = turning_channels(head_dim, parameters)
    stretch = STRETCHES.get(parameters["rope_type"])
    if stretch is None:
        return _plain(parameters["rope_theta"], channels)
    return stretch(parameters, channels, context, length)


def attention_factor(parameters: Mapping[str, Any], context: int | None = None) -> float:
    """What cosines and sines are multiplied by, so that the scores keep their temperature over a longer context.

    yarn      0.1 ln(factor) + 1 (Peng et al., 2023, eq. 22); with mscale and mscale_all_dim, the ratio of
              0.1 m ln(factor) + 1 for each m
    longrope  √(1 + ln(factor) / ln(original context)) (Ding et al., 2024)
    Both as long as the parameters give no attention_factor and the factor is above 1. Else 1.
    """
    kind = parameters["rope_type"]
    if kind not in ("yarn", "longrope"):
        return 1.0
    if (given := parameters.get("attention_factor")) is not None:
        return float(given)
    grows = math.log(max(1.0, _factor(parameters, context)))
    if kind == "longrope":
        return math.sqrt(1 + grows / math.log(parameters[ORIGINAL]))
    m, m_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return (0.1 * m * grows + 1) / (0.1 * m_all * grows + 1) if m and m_all else 0.1 * grows + 1


def _factor(parameters, context):
    """By how much the context is stretched: as it is given, or as the lengths say."""
    given = parameters.get("factor")
    return given if given is not None else context / parameters[ORIGINAL]


def _plain(theta, channels):
    exponents = np.arange(0, channels, 2, dtype=np.float32) / np.float32(max(1, channels))
    return np.float32(1) / np.float32(min(theta, 1e38)) ** exponents


def _linear(parameters, channels, context, length):
    return _plain(parameters["rope_theta"], channels) / np.float32(parameters["factor"])


def _llama3(parameters, channels, context, length):
    plain = _plain(parameters["rope_theta"], channels)
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    turns = parameters[ORIGINAL] * plain / np.float32(2 * math.pi)
    stays = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    return stays * plain + (1 - stays) * plain / np.float32(parameters["factor"])


def _dynamic(parameters, channels, context, length):
    factor, longer = parameters["factor"], max(1.0, length / context)
    exponent = channels / max(1, channels - 2)  # a single pair turns by 1 whatever θ is
    return _plain(parameters["rope_theta"] * (factor * longer - factor + 1) ** exponent, channels)


def _yarn(parameters, channels, context, length):
    plain = _plain(parameters["rope_theta"], channels)

    def pair(turns):
        """Which pair turns so many times within the original context. (Peng et al., 2023, from eq. 18.)"""
        ratio = math.log(parameters[ORIGINAL] / (turns * 2 * math.pi))
        return channels * ratio / (2 * math.log(parameters["rope_theta"]))

    low, high = pair(parameters.get("beta_fast") or 32), pair(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, channels - 1)
    width = high - low or 0.001
    slows = np.clip((np.arange(len(plain), dtype=np.float32) - np.float32(low)) / np.float32(width), 0, 1)
    return plain / np.float32(_factor(parameters, context)) * slows + plain * (1 - slows)


def _longrope(parameters, channels, context, length):
    factors = parameters["long_factor" if length > parameters[ORIGINAL] else "short_factor"]
    return _plain(parameters["rope_theta"], channels) / np.array(factors, np.float32)


STRETCHES: dict[str, Callable[..., np.ndarray]] = {
    "linear": _linear,
    "llama3": _llama3,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
}
