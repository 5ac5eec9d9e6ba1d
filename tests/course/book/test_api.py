import inspect
from importlib import import_module

import lora_np
from lora_course.book.api import FIRST, PAGES, ROOMS, names_by_page, write_reference


def test_every_public_name_stands_on_one_page():
    found = [name for names in names_by_page().values() for name in names]
    assert len(found) == len(set(found))
    assert {f"lora_np.{name}" for name in lora_np.__all__} <= set(found)
    assert all(len(names) >= 5 for names in names_by_page().values())


def test_what_most_programs_need_comes_first():
    pages = names_by_page()
    assert pages["adapters"][:2] == ["lora_np.get_peft_model", "lora_np.PeftModel"]
    assert pages["settings"][0] == "lora_np.LoraConfig"
    first = {f"lora_np.{name}" for name in FIRST}
    assert first <= {name for names in pages.values() for name in names}
    for names in pages.values():
        rest = [name for name in names if name not in first]
        assert rest == sorted(rest, key=str.lower)
        assert names[len(names) - len(rest) :] == rest


def test_what_is_listed_is_there_and_has_a_docstring():
    silent = []
    for name in (name for names in names_by_page().values() for name in names):
        module, _, last = name.rpartition(".")
        if not inspect.getdoc(getattr(import_module(module), last)):
            silent.append(name)
    assert not silent


def test_the_pages_are_written(tmp_path):
    write_reference(tmp_path / "api")
    assert {path.stem for path in (tmp_path / "api").iterdir()} == {*PAGES, "index"}
    assert ".. autoclass:: lora_np.LoraConfig" in (tmp_path / "api" / "settings.rst").read_text()
    assert ".. autofunction:: lora_np.costs.memory" in (tmp_path / "api" / "costs.rst").read_text()
    assert set(ROOMS) <= set(PAGES)
