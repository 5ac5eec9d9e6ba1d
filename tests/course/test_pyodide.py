"""What the site takes of Pyodide, tried on a list and a wheel of our own."""

import hashlib
import json
import zipfile

import pytest

from lora_course import pyodide

NAME = "matplotlib-1-cp312-wasm32.whl"
INFO = "matplotlib-1.dist-info"
MEMBERS = {
    "matplotlib/__init__.py": "x = 1\n",
    "matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf": "kept",
    "matplotlib/mpl-data/fonts/ttf/STIXGeneral.ttf": "unused",
    "matplotlib/mpl-data/sample_data/x.csv": "unused",
    f"{INFO}/METADATA": "Name: matplotlib\nRequires-Dist: numpy>=1\nRequires-Dist: fonttools>=4\n",
}


@pytest.fixture
def folder(tmp_path):
    """A folder with Pyodide's files."""
    folder = tmp_path / "pyodide"
    folder.mkdir()
    with zipfile.ZipFile(folder / NAME, "w") as wheel:
        for name, content in MEMBERS.items():
            wheel.writestr(name, content)
        listed = "".join(f"{name},sha256=abc,{len(content)}\n" for name, content in MEMBERS.items())
        wheel.writestr(f"{INFO}/RECORD", listed)
    digest = hashlib.sha256((folder / NAME).read_bytes()).hexdigest()
    rows = {
        name: {"name": name, "file_name": f"{name}.whl", "imports": [name]} for name in ("jedi", "six", "ssl", "numpy")
    }
    rows["matplotlib"] = {"name": "matplotlib", "file_name": NAME, "sha256": digest}
    (folder / pyodide.LOCK).write_text(json.dumps({"info": {}, "packages": rows}))
    return folder


def test_the_sites_list_brings_less(folder):
    whole = pyodide.lock(folder)
    short = pyodide.short_lock(whole)["packages"]
    assert {name: row["file_name"] for name, row in short.items()} == {
        **dict.fromkeys(("jedi", "six", "ssl"), "six.whl"),
        "numpy": "numpy.whl",
    }
    assert short["ssl"]["imports"] == []
    assert "matplotlib" in whole["packages"]


@pytest.mark.parametrize("from_server", [False, True])
def test_matplotlib_comes_without_what_is_unused(folder, tmp_path, monkeypatch, from_server):
    monkeypatch.setattr(pyodide, "SERVER", f"{folder.as_uri()}/")
    made = pyodide.matplotlib_wheel(tmp_path, pyodide.lock(folder), None if from_server else folder)
    assert made == tmp_path / NAME
    with zipfile.ZipFile(made) as wheel:
        found = {name: wheel.read(name).decode() for name in wheel.namelist()}
    record = found.pop(f"{INFO}/RECORD").splitlines()
    assert [line.split(",")[0] for line in record] == list(found)
    assert f"{INFO}/METADATA,," in record
    assert list(found) == [name for name in MEMBERS if "STIX" not in name and "sample" not in name]
    assert found[f"{INFO}/METADATA"] == "Name: matplotlib\nRequires-Dist: numpy>=1\n"


def test_another_wheel_than_the_lists_is_refused(folder, tmp_path):
    whole = pyodide.lock(folder)
    (folder / NAME).write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"{NAME} has not the SHA-256"):
        pyodide.matplotlib_wheel(tmp_path, whole, folder)
    assert not (tmp_path / NAME).exists()
