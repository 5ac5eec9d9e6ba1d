"""Old names still lead to what they meant."""

import importlib
import warnings

import pytest

import lora_np
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
        importlib.import_module(aliases._absolute(new))


@pytest.mark.parametrize("old", sorted(aliases.RENAMED))
def test_every_old_name_leads_to_something(old):
    module, _, name = old.rpartition(".")
    assert getattr(moved(module), name) is not None


def test_the_old_backend_still_sets_what_the_engine_reads():
    backend, precision = moved("autograd.backend"), importlib.import_module("lora_np.autograd.precision")
    before = precision.tf32_enabled()
    try:
        for enabled in (True, False):
            backend.set_tf32(enabled)
            assert precision.tf32_enabled() is backend.tf32_enabled() is enabled
    finally:
        precision.set_tf32(before)
    old = "FLOATS array_module on_gpu is_array is_float load_cupy parse_device device_of to_device to_numpy blocks"
    old += " manual_seed random_seed generator keep_freed_memory device_name gpu_available moment seconds_between"
    assert all(hasattr(backend, name) for name in [*old.split(), "synchronize"])


def test_the_old_places_of_operations_have_what_they_had():
    from lora_np.autograd import dispatch, gradcheck, shape_ops

    assert moved("autograd.layout").embedding is shape_ops.embedding
    assert moved("autograd.check").gradcheck is gradcheck
    assert [getattr(moved("autograd.kernels"), n) for n in ("add", "matmul", "sum_groups")] == [
        dispatch.add,
        dispatch.matmul,
        dispatch.sum_groups,
    ]


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one():
    with pytest.raises(ImportError, match="cannot import name 'LoraConfg' from 'lora_np'; did you mean 'LoraConfig'"):
        from lora_np import LoraConfg  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'lora_np\.nothing_of_the_kind'"):
        importlib.import_module("lora_np.nothing_of_the_kind")
    assert not hasattr(lora_np, "LoraConfg")
