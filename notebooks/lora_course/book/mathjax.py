"""MathJax, which draws the formulas: one file of the npm package, checked by its hash and kept in the cache folder."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from os import PathLike
from pathlib import Path

from lora_np.models.loading.fetch import cache_directory
from lora_np.storage import replacing

VERSION = "3.2.2"
ARCHIVE = f"mathjax-{VERSION}.tgz"
SHA256 = "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09"  # of the archive
SCRIPT = "tex-svg-full.js"  # every TeX extension, and letters drawn as paths: it needs no other file
MEMBERS = {f"package/es5/{SCRIPT}": SCRIPT, "package/LICENSE": "LICENSE"}


def mathjax(archive: str | PathLike | None = None) -> Path:
    """The folder with MathJax's script and its licence, brought with npm if it is not in the cache.

    archive: the package's file, for a machine that cannot reach npm. RuntimeError, with what to do, if it cannot be
    had; ValueError if it is another file than expected.
    """
    folder = cache_directory() / f"mathjax-{VERSION}"
    if not all((folder / name).is_file() for name in MEMBERS.values()):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            _unpack(Path(archive) if archive else _download(Path(temporary)), folder)
    return folder


def _download(folder):
    """The package's archive, from npm."""
    advice = f"bring {ARCHIVE} with `npm pack mathjax@{VERSION}` on another machine and give --mathjax FILE"
    if (npm := shutil.which("npm")) is None:
        raise RuntimeError(f"formulas need MathJax, and npm, which brings it, is not installed; {advice}")
    command = [npm, "pack", f"mathjax@{VERSION}", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode or not (folder / ARCHIVE).is_file():
        reason = done.stderr.strip().rpartition("\n")[2] or f"it ended with code {done.returncode}"
        raise RuntimeError(f"npm could not bring MathJax ({reason}); {advice}")
    return folder / ARCHIVE


def _unpack(archive, folder):
    """The two files, from an archive whose hash is right."""
    content = archive.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ValueError(f"{archive.name} is not the file that was expected: its SHA-256 is {found}, not {SHA256}")
    with tarfile.open(archive) as tar:
        for member, name in MEMBERS.items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(tar.extractfile(member).read())
