"""Packages that only a part of the library needs: imported where that part runs, or named in a clear error.

The core needs NumPy, safetensors and tqdm. Everything else is an extra in pyproject.toml, brought by
`pip install -e '.[NAME]'`; requirements.txt brings them all.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType


class MissingPackageError(ImportError):
    """A package is not installed; the message says what it is for and which command brings it."""


def require(module: str, purpose: str, extra: str) -> ModuleType:
    """Import `module`, such as "scipy.special", and return it.

    purpose: what it is for, the start of the error's sentence, such as "exact GELU". extra: the name in pyproject.toml
    that brings it. MissingPackageError if the package is not installed. Any other error while it is imported is the
    package's own and comes through.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:  # it is there, what it needs is not
            raise
        command = f"pip install -e '.[{extra}]' (or pip install {package})"
        raise MissingPackageError(f"{purpose} needs the package {package}: {command}", name=package) from error


GGUF = {"gguf": "gguf", "tokenizers": "text", "jinja2": "text"}  # what a GGUF file's model and its tokenizer need


def missing(needed: Mapping[str, str]) -> str:
    """The command that brings, at once, the packages of {package: its extra} that are not there; "" if all are."""
    absent = [package for package in needed if not _is_installed(package)]
    extras = ",".join(dict.fromkeys(needed[package] for package in absent))
    return f"pip install -e '.[{extras}]' (or pip install {' '.join(absent)})" if absent else ""


def _is_installed(package: str) -> bool:
    import importlib.util  # the engine does without

    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False
