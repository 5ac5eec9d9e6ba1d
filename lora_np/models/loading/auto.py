"""`from_pretrained` by name or path, as in Transformers."""

import difflib
import os
import re
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from ...expect import expect_path
from ...extras import require
from ...storage import open_gguf, read_json
from ..base import CausalLM
from ..tokenizers import PretrainedTokenizer, load_tokenizer, tokenizer_from_gguf
from ..tokenizers.base import BaseTokenizer
from . import fetch
from .checkpoints import gguf_fields, load_pretrained

TINY_PYTHON = "tiny-python"  # the shipped base: a byte-level GPT pretrained on the standard library's source
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]


def resolve(name_or_path: str | PathLike, gguf_file: str | None = None) -> Path:
    """Where a model's files are: a directory, or one GGUF file.

    name_or_path: a shipped model's name, one that `lora-np fetch` brought, a path, or a name on the Hugging Face hub
    ("owner/model"), which is downloaded. FileNotFoundError, in one sentence, if it is none of these.
    """
    expect_path(name_or_path, "name_or_path", "a model's name or path")
    name, path = str(name_or_path), Path(name_or_path)
    shipped = resources.files("lora_np.models") / "pretrained" / name
    if name == TINY_PYTHON and shipped.is_dir():
        return Path(str(shipped))
    if os.path.isdir(path) or path.suffix == ".gguf":  # pathlib's raises OSError where a name is too long for one
        return path if gguf_file is None else path / gguf_file
    if name in fetch.FETCHABLE:
        found = fetch.cached(name)
        if found is None:
            raise FileNotFoundError(f"{name!r} has not been fetched yet: run  lora-np fetch {name}")
        return found
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        directory = _from_hub(name, gguf_file)
        return directory if gguf_file is None else directory / gguf_file
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


def _from_hub(name: str, gguf_file: str | None) -> Path:
    """The directory that a model on the hub was downloaded to: the files that are needed, no pickles."""
    missing = f"there is no directory {name!r}, and"
    hub = require("huggingface_hub", f"{missing} downloading a model", "hub")
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(hub.snapshot_download(name, allow_patterns=[gguf_file] if gguf_file else HUB_FILES))
    except HFValidationError:
        raise _unknown(name) from None
    except GatedRepoError:
        raise FileNotFoundError(
            f"{missing} the model of this name on the Hugging Face hub is given to those only who have accepted its "
            f"terms at https://huggingface.co/{name} and are logged in (hf auth login)"
        ) from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(f"{missing} no such model on the Hugging Face hub") from None
    except Exception:  # without a network, behind a broken proxy, ...: errors of several libraries
        raise FileNotFoundError(
            f"{missing} the Hugging Face hub cannot be reached to look for a model of this name: "
            "give a path, or try again with a network"
        ) from None


def config_fields(name_or_path: str | PathLike) -> dict[str, Any]:
    """The fields of a model's config.json as a dict; `name_or_path` may also be a config.json itself."""
    if Path(name_or_path).suffix == ".json":
        return read_json(name_or_path)
    path = resolve(name_or_path)
    return gguf_fields(open_gguf(path)) if path.suffix == ".gguf" else read_json(path / "config.json")


class AutoModelForCausalLM:
    """Loads whichever language model a directory or file holds."""

    @staticmethod
    def from_pretrained(name_or_path: str | PathLike, gguf_file: str | None = None, device: str = "cpu") -> CausalLM:
        """The model `name_or_path` on `device`, in float32 and in evaluation mode.

        gguf_file: the name of a GGUF file in that directory or repository. Errors: see `resolve` and
        `checkpoints.load_pretrained`.
        """
        model = load_pretrained(resolve(name_or_path, gguf_file))
        model.config.name_or_path = str(name_or_path)
        return model.to(device)


class AutoTokenizer:
    """Loads whichever tokenizer a directory or file holds."""

    @staticmethod
    def from_pretrained(name_or_path: str | PathLike, gguf_file: str | None = None) -> BaseTokenizer:
        """The tokenizer of the model `name_or_path`; arguments as for `AutoModelForCausalLM.from_pretrained`."""
        path = resolve(name_or_path, gguf_file)
        return load_gguf_tokenizer(path) if path.suffix == ".gguf" else load_tokenizer(path)


def load_gguf_tokenizer(path: str | PathLike) -> PretrainedTokenizer:
    """The tokenizer inside a GGUF file. ValueError, with the file's name, if it is damaged or of a kind not known."""
    metadata = open_gguf(path).metadata
    try:
        return tokenizer_from_gguf(metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
