"""A package that is missing is named, with the command that brings it; what is there is imported."""

import sys

import pytest

from lora_np.extras import MissingPackageError, missing, require


def test_a_package_that_is_there_is_imported():
    assert require("json.decoder", "reading", "text") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_a_missing_package_is_a_sentence(module):
    with pytest.raises(MissingPackageError) as caught:
        require(module, "exact GELU", "scipy")
    sentence = "exact GELU needs the package no_such_package: "
    command = "pip install -e '.[scipy]' (or pip install no_such_package)"
    assert str(caught.value) == sentence + command
    assert caught.value.name == "no_such_package"


def test_an_error_inside_a_package_that_is_there_comes_through(tmp_path, monkeypatch):
    (tmp_path / "needs_another.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        require("needs_another", "a picture", "plots")
    assert not isinstance(caught.value, MissingPackageError)
    assert caught.value.name == "no_such_package"


def test_all_that_is_missing_is_named_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "spec_that_is_none", None)
    needed = {"json": "a", "no_such_package": "gguf", "nor_this": "text", "spec_that_is_none": "text"}
    command = "pip install -e '.[gguf,text]' (or pip install no_such_package nor_this spec_that_is_none)"
    assert missing(needed) == command
    assert missing({"json": "a"}) == ""
