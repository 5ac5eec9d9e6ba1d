"""Pyodide, Python compiled to WebAssembly, with no more of it than the course needs: what a first visit brings is less.

Its list of packages ("lock") says what the name of a package brings. The site has a list of its own, without what only
looks nice, and a Matplotlib without the fonts and examples that no picture here uses.
"""

import hashlib
import json
import re
import urllib.request
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

from .npm import Package

VERSION = "0.27.7"
SERVER = f"https://cdn.jsdelivr.net/pyodide/v{VERSION}/full/"  # Pyodide's own
LOCK = "pyodide-lock.json"
PACKAGE = Package(
    "pyodide",
    VERSION,
    sha256="89d5d952675eb08e11286e52c7238f1248ce71726e896db9703e73bef23dc343",
    members={f"package/{LOCK}": LOCK},
    need="the notebooks in the browser need Pyodide's list of packages",
    option="--pyodide FOLDER",
)
LEFT_OUT = ("jedi", "ssl")  # the kernel asks for them: what else might complete a word, and encryption
INSTEAD = "six"  # small, and needed anyway
AT_ONCE = ("micropip", "ipython", "numpy", "sqlite3", "tqdm", "pydoc-data")  # loaded side by side
UNUSED = re.compile(r"matplotlib/mpl-data/(sample_data|fonts/(afm|pdf|ttf/(STIX|DejaVuSerif|DejaVuSansMono-)))")


def lock(folder: str | PathLike | None = None) -> dict[str, Any]:
    """Pyodide's own list, {"packages": {name: row}, ...}, from a folder with its files, or from npm."""
    return json.loads((Path(folder or PACKAGE.folder()) / LOCK).read_text(encoding="utf-8"))


def short_lock(whole: dict[str, Any]) -> dict[str, Any]:
    """The site's own list, made from the whole one: what is left out is another, small package under its name."""
    packages = {name: row for name, row in whole["packages"].items() if name != "matplotlib"}
    for name in LEFT_OUT:
        packages[name] = {**packages[INSTEAD], "name": name, "imports": []}
    return {**whole, "packages": packages}


def matplotlib_wheel(target: Path, whole: dict[str, Any], folder: str | PathLike | None = None) -> Path:
    """Write Matplotlib's wheel without what is unused into the folder `target`; its path.

    The official one comes from `folder`, or from Pyodide's server. ValueError if it has not the hash of the list.
    """
    row = whole["packages"]["matplotlib"]
    content = (Path(folder) / row["file_name"]).read_bytes() if folder else _brought(row["file_name"])
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise ValueError(f"{row['file_name']} has not the SHA-256 that Pyodide's list of packages says")
    official, made = target / "official.zip", target / row["file_name"]
    official.write_bytes(content)
    with zipfile.ZipFile(official) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for member in old.infolist():
            if not UNUSED.match(member.filename):
                new.writestr(member.filename, _without_unused(member.filename, old.read(member)))
    official.unlink()
    return made


def _brought(name):
    with urllib.request.urlopen(SERVER + name, timeout=60) as answer:
        return answer.read()


def _without_unused(name, content):
    """The list of files, and what is required, say what is there: fontTools is for PDF alone."""
    if not name.endswith((".dist-info/RECORD", ".dist-info/METADATA")):
        return content
    lines = content.decode().splitlines(keepends=True)
    if name.endswith("METADATA"):
        return "".join(line for line in lines if not line.startswith("Requires-Dist: fonttools"))
    kept = (line for line in lines if not UNUSED.match(line))
    return "".join(re.sub(r"(METADATA),.*", r"\1,,", line) for line in kept)
