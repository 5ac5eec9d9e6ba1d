"""`from_pretrained` by name or path, as in Transformers."""

import dataclasses
import difflib
import os
import re
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from ...expect import expect, expect_path
from ...extras import GGUF, MissingPackageError, missing
from ...storage import is_there, open_gguf, read_json
from ...storage.hub import from_hub
from ..base import CausalLM
from ..config import ModelConfig
from ..labels import said_of_labels, with_changes
from ..tokenizers import PretrainedTokenizer, load_tokenizer, tokenizer_from_gguf
from ..tokenizers.base import BaseTokenizer
from . import fetch
from .checkpoints import SHARDED, SINGLE, Wanted, classes_at, gguf_fields, load_model
from .foreign import refuse_foreign
from .options import OF_FILES, changes_of, hub_options, set_attributes, wanted_device, wanted_dtype
from .quantization import quantized, wanted_bits

TINY_PYTHON = "tiny-python"  # the shipped base: a byte-level GPT pretrained on the standard library's source
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]


def resolve(name_or_path: str | PathLike, gguf_file: str | None = None, **options: Any) -> Path:
    """Where a model's files are: a directory, or one GGUF file.

    name_or_path: a shipped model's name, one that `lora-np fetch` brought, a path, or a name on the Hugging Face hub
    ("owner/model"), which is downloaded. FileNotFoundError, in one sentence, if it is none
    of these. options: `subfolder`, the folder in that folder, and for the hub those of `storage/hub.py`.
    """
    expect_path(name_or_path, "pretrained_model_name_or_path", "a model's name or path")
    name, path = str(name_or_path), Path(name_or_path)
    shipped = resources.files("lora_np.models") / "pretrained" / name
    if name == TINY_PYTHON and shipped.is_dir():
        return Path(str(shipped))
    if os.path.isdir(path) or path.suffix == ".gguf":  # pathlib's raises OSError where a name is too long for one
        return path / (options.get("subfolder") or "") / (gguf_file or "")
    if name in fetch.FETCHABLE:
        found = fetch.cached(name)
        if found is None:
            raise FileNotFoundError(f"{name!r} has not been fetched yet: run  lora-np fetch {name}")
        if "gguf" in (command := missing(GGUF)):  # it would be asked for next, and the others when it is there
            raise MissingPackageError(f"{name!r}, a GGUF file with its tokenizer, needs more packages: {command}")
        return found
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        folder = options.pop("subfolder", None) or ""
        patterns = [f"{folder}/{pattern}".lstrip("/") for pattern in ([gguf_file] if gguf_file else HUB_FILES)]
        try:
            return from_hub(name, patterns, **options) / folder / (gguf_file or "")
        except ValueError:  # a name that the hub cannot have
            raise _unknown(name) from None
    raise _unknown(name)


def _unknown(name: str) -> FileNotFoundError:
    """The FileNotFoundError for a name that is none of those that `resolve` knows."""
    known = ", ".join(map(repr, (TINY_PYTHON, *fetch.FETCHABLE)))
    close = difflib.get_close_matches(name, (TINY_PYTHON, *fetch.FETCHABLE), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return FileNotFoundError(
        f"{name!r} is neither a directory, nor a .gguf file, nor the name of a shipped or fetched model ({known}), "
        f"nor a name on the Hugging Face hub (owner/model){hint}"
    )


def config_fields(name_or_path: str | PathLike) -> dict[str, Any]:
    """The fields of a model's config.json as a dict; `name_or_path` may also be a config.json itself."""
    return read_json(name_or_path) if _is_json(name_or_path) else fields_at(resolve(name_or_path))


def fields_at(path: Path) -> dict[str, Any]:
    """The fields of config.json of what `resolve` found."""
    if path.suffix == ".gguf":
        return gguf_fields(open_gguf(path))
    if not is_there(path / "config.json"):
        refuse_foreign(path, "config.json")
    return read_json(path / "config.json")


def _is_json(name_or_path):
    return Path(name_or_path).suffix == ".json"


def load_any(
    call: str,
    name_or_path: str | PathLike,
    wanted: Wanted,
    kind: type[Any] | None = None,
    gguf_file: str | None = None,
    device: str = "cpu",
    config: ModelConfig | str | PathLike | None = None,
    **options: Any,
) -> Any:
    """The model `name_or_path` in evaluation mode; see `AutoModelForCausalLM.from_pretrained`.

    call: the function as the user wrote it. wanted: what the file is to become; the changes of the configuration are
    added. kind: the class that the model should be of, or None.
    """
    place = options.pop("device_map", None)
    bits = wanted_bits(options.pop("quantization_config", None), options.pop("load_in_4bit", None))
    dtype = wanted_dtype(options.pop("dtype", None), options.pop("torch_dtype", None))
    path = resolve(name_or_path, gguf_file, subfolder=options.pop("subfolder", None), **hub_options(options))
    refuse_adapter(path, name_or_path)
    own = {} if config is None else as_config(config).to_dict()
    said = path if path.suffix == ".gguf" else path / "config.json"
    fields, source = (fields_at(path), said) if config is None or kind is not None else (own, "config")
    config_class, language_model = classes_at(fields, source)
    model_class = wanted.head(language_model)
    if kind is not None and not issubclass(model_class, kind):
        auto = "AutoModelForCausalLM" if issubclass(model_class, CausalLM) else "AutoModelForSequenceClassification"
        raise ValueError(f"{path} is for a {model_class.__name__}, not for a {kind.__name__}: load it with {auto}")
    changes = with_changes(own, said_of_labels(changes_of(call, config_class, options)))
    model = load_model(path, None, dataclasses.replace(wanted, changes=changes, dtype=dtype))
    model.config.name_or_path = str(name_or_path)
    device = wanted_device(device, place)
    model = quantized(model, bits, device).to(device=device, dtype=dtype)
    model.config.weights_dtype = model.dtype
    return model


def refuse_adapter(path: Path, name: str | PathLike) -> None:
    """ValueError if a folder has an adapter in it, and no model."""
    if (path / "adapter_config.json").is_file() and not any((path / file).is_file() for file in (SINGLE, SHARDED)):
        raise ValueError(
            f"{name} has an adapter and no model: AutoPeftModelForCausalLM.from_pretrained loads both (for classifiers "
            "AutoPeftModelForSequenceClassification), or PeftModel.from_pretrained(model, folder) puts it on a model"
        )


def as_config(config: ModelConfig | str | PathLike) -> ModelConfig:
    """A configuration, given as one or as the name or path of a model."""
    return config if isinstance(config, ModelConfig) else AutoConfig.from_pretrained(config)


def make_any(call: str, config: ModelConfig, wanted: Wanted, **options: Any) -> Any:
    """A new model of this configuration, with random weights, in training mode. dtype=, and fields of it, may be given.

    call: the function as the user wrote it. wanted: what is made of the language model's class.
    """
    expect(config, ModelConfig, "config", "a configuration, such as AutoConfig.from_pretrained(...) gives it")
    dtype = wanted_dtype(options.pop("dtype", None), options.pop("torch_dtype", None))
    language_model = classes_at(config.to_dict(), "config")[1]
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    changes = said_of_labels(changes_of(call, type(config), options))
    model = wanted.head(language_model)(type(config)(**with_changes(fields, changes))).to(dtype=dtype)
    model.config.weights_dtype = model.dtype
    return model


class AutoModelForCausalLM:
    """Loads whichever language model a directory or file holds."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike,
        gguf_file: str | None = None,
        device: str = "cpu",
        **kwargs: Any,
    ) -> CausalLM:
        """The model on `device`, in evaluation mode, in float32 unless another dtype is asked for.

        gguf_file: the name of a GGUF file in that directory or repository. Of Transformers' keywords there are

        dtype, torch_dtype   bfloat16, float16, float32 ("auto" too) or float64, in any spelling
        device_map           one device: "cpu", "cuda:0", {"": 0}; "auto" is a GPU if there is one
        quantization_config  a BitsAndBytesConfig, for a base in 4 bits; or load_in_4bit=True
        config               a configuration in the place of the file's; so is any field of it, attn_pdrop=0.0
        subfolder            the folder in that folder
        revision, cache_dir, token, local_files_only, force_download   for names on the Hugging Face hub

        Others are accepted where they change nothing here (attn_implementation=, trust_remote_code=), and else refused
        with a reason: ValueError. TypeError for unknown ones. Errors: see `resolve`, `checkpoints.load_pretrained`.
        """
        call = "AutoModelForCausalLM.from_pretrained"
        name = pretrained_model_name_or_path
        return load_any(call, name, Wanted(), gguf_file=gguf_file, device=device, **kwargs)

    @classmethod
    def from_config(cls, config: ModelConfig, **kwargs: Any) -> CausalLM:
        """A new model of this configuration, with random weights, in training mode. dtype=: as above."""
        return make_any("AutoModelForCausalLM.from_config", config, Wanted(), **kwargs)


class AutoConfig:
    """Reads whichever configuration a directory or file holds."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> ModelConfig:
        """The configuration of a model; keywords that are fields of it take the place of what the file says."""
        return load_config("AutoConfig.from_pretrained", pretrained_model_name_or_path, None, **kwargs)

    @classmethod
    def for_model(cls, model_type: str, **kwargs: Any) -> ModelConfig:
        """A new configuration of the architecture that config.json calls `model_type`."""
        return classes_at({"model_type": model_type}, "AutoConfig.for_model")[0](**kwargs)


def load_config(call: str, name_or_path: str | PathLike, kind: type[ModelConfig] | None = None, **options: Any) -> Any:
    """The configuration of the model `name_or_path`. kind: the class that it should be of, or None."""
    where = {"subfolder": options.pop("subfolder", None), **hub_options(options)}
    path = resolve(name_or_path, options.pop("gguf_file", None), **where) if not _is_json(name_or_path) else None
    fields = read_json(name_or_path) if path is None else fields_at(path)
    config_class = classes_at(fields, name_or_path if path is None or path.suffix else path / "config.json")[0]
    if kind is not None and not issubclass(config_class, kind):
        raise ValueError(f"{name_or_path} has a {config_class.__name__}: read it with that, or with AutoConfig")
    config: Any = config_class.from_dict({**fields, **changes_of(call, config_class, options)})
    config.name_or_path = str(name_or_path)
    return config


class AutoTokenizer:
    """Loads whichever tokenizer a directory or file holds."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike, gguf_file: str | None = None, **kwargs: Any
    ) -> BaseTokenizer:
        """The tokenizer of a model; subfolder= and what is for the hub as for `AutoModelForCausalLM.from_pretrained`.

        padding_side=, pad_token= and other attributes of the tokenizer are set. use_fast= and the like are accepted.
        add_prefix_space=, legacy=: as in tokenizer_config.json, for the classes that read them (GPT-2's, Llama's).
        """
        where = {"subfolder": kwargs.pop("subfolder", None), **hub_options(kwargs)}
        path = resolve(pretrained_model_name_or_path, gguf_file, **where)
        changes = {name: kwargs.pop(name) for name in OF_FILES if name in kwargs}
        tokenizer = load_gguf_tokenizer(path) if path.suffix == ".gguf" else load_tokenizer(path, changes)
        tokenizer.name_or_path = str(pretrained_model_name_or_path)
        set_attributes(tokenizer, {name: value for name, value in kwargs.items() if name not in where})
        return tokenizer


def load_gguf_tokenizer(path: str | PathLike) -> PretrainedTokenizer:
    """The tokenizer inside a GGUF file. ValueError, with the file's name, if it is damaged or of a kind not known."""
    metadata = open_gguf(path).metadata
    try:
        return tokenizer_from_gguf(metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
