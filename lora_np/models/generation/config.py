"""GenerationConfig: how a model writes where a call says nothing, in generation_config.json's names."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np

from ...autograd.devices import to_numpy
from ...autograd.tensor import Tensor, data
from ...storage import read_json, together, write_json
from ...storage.fields import Between, Count, Fraction, OptionalId, Size, TokenId, TokenIds, check_fields

FILE = "generation_config.json"
Factor = Annotated[float, Between(0, 3e38, "a finite number of at least 0")]
Power = Annotated[float, Between(-3e38, 3e38, "a finite number")]
FIELDS: dict[str, Any] = {  # what counts here; None may stand for each
    **dict.fromkeys(("max_length", "max_new_tokens", "min_length", "min_new_tokens"), Count),
    **dict.fromkeys(("top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), Count),
    **dict.fromkeys(("num_beams", "num_return_sequences"), Size),
    **dict.fromkeys(("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values"), bool),
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits"), bool),
    **dict.fromkeys(("temperature", "repetition_penalty", "encoder_repetition_penalty", "max_time"), Factor),
    **dict.fromkeys(("top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"), Fraction),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), list[TokenId]),
    "early_stopping": bool | Literal["never"],
    "length_penalty": Power,
    "stop_strings": str | list[str],
    "bad_words_ids": list[list[TokenId]],
    "eos_token_id": TokenIds,
    "forced_eos_token_id": TokenIds,
    "forced_bos_token_id": TokenId,
    "bos_token_id": OptionalId,
    "pad_token_id": OptionalId,
}
UNTYPED = ("sequence_bias", "exponential_decay_length_penalty")  # the processors look at these themselves
# What changes the text or the result in Transformers and is not here: {field: the values with which it does nothing}.
LACKING: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("num_beam_groups", "guidance_scale"), (1,)),
    **dict.fromkeys(("penalty_alpha", "diversity_penalty"), (0,)),
    **dict.fromkeys(("force_words_ids", "constraints"), ([],)),
    **dict.fromkeys(("token_healing", "use_mtp", "output_attentions", "output_hidden_states"), (False,)),
    **dict.fromkeys(("dola_layers", "watermarking_config", "speculation_type"), ()),
    **dict.fromkeys(("prompt_lookup_num_tokens", "assistant_early_exit", "assistant_ensemble_weight"), ()),
}
# What is about how Transformers computes, not about what.
WITHOUT_EFFECT = (
    *("cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile"),
    *("prefill_chunk_size", "low_memory", "continuous_batching_config", "decoder_start_token_id", "is_assistant"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "max_matching_ngram_size"),
)
ORIGIN = ("transformers_version", "_from_model_config", "_commit_hash")  # of a file: where it is from
HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")
NAMES = (*FIELDS, *UNTYPED, *LACKING, *WITHOUT_EFFECT)


class GenerationConfig:
    """The options of `generate`, as attributes; None: nothing is said. The names are those of `generate`'s table.

    A model has one, `model.generation_config`, of its generation_config.json; without such a file, of its config's
    bos_token_id, eos_token_id and pad_token_id. A call's `generation_config=` goes before it, and what a call gives
    before both.
    TypeError for a name that is no option; ValueError, with its name, for a value that is none of its type.
    """

    def __init__(self, **fields: Any) -> None:
        if unknown := [name for name in fields if name not in (*NAMES, *ORIGIN)]:
            raise TypeError(unknown_option(unknown[0], NAMES, "GenerationConfig has no field"))
        vars(self).update(dict.fromkeys(NAMES), **fields)
        self.validate()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def validate(self) -> None:
        """ValueError, with the field's name, if one is not of its type."""
        check_fields(typed(vars(self)), FIELDS)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of a generation_config.json; those that are not known are kept, and written again."""
        config = cls(**{name: value for name, value in fields.items() if name in (*NAMES, *ORIGIN)})
        vars(config).update(fields)
        return config

    @classmethod
    def from_model_config(cls, model_config: Any) -> Self:
        """What a model's config.json says about generating: its special tokens."""
        fields = model_config if isinstance(model_config, Mapping) else model_config.to_dict()
        return cls(**{name: fields[name] for name in (*FIELDS, *UNTYPED) if fields.get(name) is not None})

    @classmethod
    def from_pretrained(cls, directory: str | PathLike[str], config_file_name: str = FILE, **changes: Any) -> Self:
        """From the generation_config.json of a model's folder. changes: fields with other values than there.

        What is about fetching (revision=, token=, ...) is passed over: the folder is here.
        """
        path = Path(directory) / config_file_name
        changes = {name: value for name, value in changes.items() if name not in HUB}
        cls(**changes)  # an unknown one is named
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: a model's folder has one only if something is said there")
        try:
            return cls.from_dict({**read_json(path), **changes})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save_pretrained(self, directory: str | PathLike[str], config_file_name: str = FILE) -> None:
        """Write what is said here into `directory`, as generation_config.json."""
        with together(directory):
            write_json(Path(directory) / config_file_name, self.to_json())

    def update(self, **fields: Any) -> dict[str, Any]:
        """Set fields; returns those that are no option's. With a ValueError, nothing is changed."""
        own = {name: value for name, value in fields.items() if name in vars(self)}
        check_fields(typed(own), FIELDS)
        vars(self).update(own)
        return {name: value for name, value in fields.items() if name not in own}

    def to_dict(self) -> dict[str, Any]:
        """{name: value} of all fields, None where nothing is said."""
        return copy.deepcopy(vars(self))

    def to_diff_dict(self) -> dict[str, Any]:
        """{name: value} of what is said."""
        return {name: value for name, value in self.to_dict().items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """What is said, as a file can hold it: no tuples as keys."""
        said = self.to_diff_dict()
        if isinstance(said.get("sequence_bias"), dict):
            said["sequence_bias"] = [[list(ids), bias] for ids, bias in said["sequence_bias"].items()]
        return {name: _plain(value) for name, value in said.items()}

    def to_json_string(self) -> str:
        """What is said, as JSON."""
        return json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationConfig):
            return NotImplemented
        ours, theirs = self.to_diff_dict(), other.to_diff_dict()
        return {**ours, **dict.fromkeys(ORIGIN)} == {**theirs, **dict.fromkeys(ORIGIN)}

    __hash__ = None  # type: ignore[assignment]  # it may change

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def typed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are said, arrays and tuples in them as lists, numbers of NumPy as Python's."""
    return {name: _plain(value) for name, value in fields.items() if name in FIELDS and value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return to_numpy(data(value)).tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def unknown_option(name: str, known: Iterable[str], what: str) -> str:
    """The sentence about an option that there is not, with the nearest that there is."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"{what} {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
