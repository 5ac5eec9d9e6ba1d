"""Old names still lead to what they meant."""

import importlib
import warnings

import pytest

from lora_np import aliases


def moved(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"lora_np.{name}")


@pytest.fixture
def one_moved_module(monkeypatch):
    """An old place of two modules' names, one of them renamed."""
    monkeypatch.setitem(aliases.MOVED, "autograd.old_place", ("autograd.tensor", "autograd.ops"))
    monkeypatch.setitem(aliases.RENAMED, "autograd.old_place.plus", "add")
    yield
    import sys

    sys.modules.pop("lora_np.autograd.old_place", None)
    vars(importlib.import_module("lora_np.autograd")).pop("old_place", None)


def test_an_old_module_finds_names_where_they_are_now(one_moved_module):
    from lora_np.autograd import ops, tensor

    with pytest.warns(DeprecationWarning, match=r"old_place has moved: import from lora_np.autograd.tensor or lora_np"):
        from lora_np.autograd import old_place
    assert old_place.Tensor is tensor.Tensor
    assert old_place.mul is ops.mul
    assert old_place.plus is ops.add
    with pytest.raises(AttributeError, match=r"now lora_np.autograd.tensor or lora_np.autograd.ops, has no 'nothing'"):
        old_place.nothing  # noqa: B018


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("lora_np.autograd.never_was")
    with pytest.raises(AttributeError, match=r"module 'lora_np.autograd' has no attribute 'never_was'"):
        importlib.import_module("lora_np.autograd").never_was  # noqa: B018


@pytest.mark.parametrize("old", sorted(aliases.MOVED))
def test_every_row_leads_to_modules_that_are_there(old):
    assert isinstance(moved(old), aliases._MovedModule), f"lora_np.{old} is there: the row in MOVED is not needed"
    for new in aliases.MOVED[old]:
        importlib.import_module(f"lora_np.{new}")


@pytest.mark.parametrize("old", sorted(aliases.RENAMED))
def test_every_old_name_leads_to_something(old):
    module, _, name = old.rpartition(".")
    assert getattr(moved(module), name) is not None
