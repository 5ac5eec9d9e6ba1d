"""What a model's generation_config.json says: the defaults of `generate`, as in Transformers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any

from ...storage.fields import Between, Count, Fraction, OptionalId, TokenIds, check_fields, short
from .sampling import Sampler

Factor = Annotated[float, Between(0, 3e38, "a finite number of at least 0")]
SAMPLING: dict[str, Any] = {
    "do_sample": bool | None,
    "temperature": Factor | None,
    "top_k": Count | None,
    "top_p": Fraction | None,
    "repetition_penalty": Factor | None,
}
FIELDS = SAMPLING | {
    "max_new_tokens": Count | None,
    "max_length": Count | None,
    "eos_token_id": TokenIds,
    "pad_token_id": OptionalId,
}
# What changes the text in Transformers and is not here: {field: the values with which it does nothing}.
LACKING: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), (1,)),
    **dict.fromkeys(
        ("min_length", "min_new_tokens", "no_repeat_ngram_size", "penalty_alpha", "diversity_penalty"), (0,)
    ),
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff"), (0,)),
    **dict.fromkeys(("typical_p", "top_h", "encoder_repetition_penalty", "guidance_scale"), (1,)),
    **dict.fromkeys(("bad_words_ids", "force_words_ids", "suppress_tokens", "begin_suppress_tokens"), ([],)),
    **dict.fromkeys(("sequence_bias", "constraints", "stop_strings", "exponential_decay_length_penalty"), ([], {}, "")),
    **dict.fromkeys(
        ("forced_bos_token_id", "forced_eos_token_id", "max_time", "dola_layers", "watermarking_config"), ()
    ),
    **dict.fromkeys(("remove_invalid_values", "token_healing"), (False,)),
}


def check_generation_config(fields: Mapping[str, Any]) -> None:
    """ValueError, with the field's name, if one that counts here is not of its type."""
    check_fields(fields, FIELDS)


def sampler(config: Mapping[str, Any], given: Mapping[str, Any]) -> Sampler:
    """The `Sampler` of a call: what is `given` counts, then what the model's generation_config.json says.

    A field there that would change the text in Transformers and is not known here is warned about.
    """
    check_generation_config(config)
    lacking = [f"{name} = {short(config[name])}" for name, neutral in LACKING.items() if _asks(config, name, neutral)]
    if lacking:
        warnings.warn(f"generation_config.json: {', '.join(lacking)} is not supported and does nothing", stacklevel=5)
    said = {name: config[name] for name in SAMPLING if config.get(name) is not None and name not in given}
    if said.get("top_k") == 0:  # all tokens, in Transformers
        del said["top_k"]
    try:
        Sampler(**{"do_sample": bool(given.get("do_sample")), **said})
    except ValueError as error:
        raise ValueError(f"generation_config.json: {error}") from None
    return Sampler(**{**said, **given})


def _asks(config: Mapping[str, Any], name: str, neutral: tuple[Any, ...]) -> bool:
    return config.get(name) is not None and config[name] not in neutral


def most_tokens(config: Mapping[str, Any], given: int | None, length: int) -> int:
    """How many tokens follow a text of `length`: as `given`, as the config says, or 20.

    Its max_length counts the text as well. ValueError if the text is as long already, or for a negative number.
    """
    if given is not None:
        if given < 0:
            raise ValueError(f"max_new_tokens must not be negative, got {given}")
        return given
    if config.get("max_new_tokens") is not None:
        return config["max_new_tokens"]
    if config.get("max_length") is None:
        return 20
    if config["max_length"] <= length:
        raise ValueError(
            f"the text has {length} tokens, and generation_config.json says max_length = {config['max_length']}: "
            "give max_new_tokens"
        )
    return config["max_length"] - length
