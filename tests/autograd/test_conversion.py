"""Tensors in other dtypes and places, and as numbers, lists and arrays of Python and NumPy."""

import sys

import numpy as np
import pytest
from helpers import assert_close, check_gradients

from lora_np import no_grad
from lora_np.autograd import Tensor
from lora_np.autograd.devices import Device, device_of

F16, F32, F64 = np.float16, np.float32, np.float64


class TestTo:
    @pytest.mark.parametrize(
        ("args", "options", "dtype"),
        [
            ((F64,), {}, F64),
            (("float16",), {}, F16),
            (("cpu",), {}, F32),
            (("cpu", F64), {}, F64),
            ((F64, "cpu"), {}, F64),
            ((), {"device": "cpu", "dtype": "float64"}, F64),
            ((Tensor(np.zeros(1)),), {}, F64),
            ((Device("cpu"),), {"non_blocking": True}, F32),
            ((np.int64,), {}, np.int64),
            (("bool",), {}, bool),
        ],
    )
    def test_every_form(self, args, options, dtype):
        x = Tensor([0.0, 1.0, 2.0])
        y = x.to(*args, **options)
        assert (y.dtype, y.device) == (dtype, "cpu")
        np.testing.assert_array_equal(y.numpy(), x.numpy().astype(dtype))

    def test_what_is_so_already_is_not_copied(self):
        x = Tensor([1.0])
        assert x.to("cpu") is x.to(F32) is x.cpu() is x.float() is x
        assert x.to("cpu", copy=True) is not x

    def test_gradients_come_back_in_the_own_dtype(self, xp):
        x = Tensor(xp.ones(3, "float32"), requires_grad=True)
        (x.double() * 2).to(F32).sum().backward()
        assert x.grad.dtype == F32
        assert_close(x.grad, np.full(3, 2.0))
        check_gradients(lambda a: a.to(F64, copy=True) * 2, xp.ones(3))

    def test_gradients_come_back_to_the_own_device(self, xp):
        x = Tensor(xp.ones(3, "float32"), requires_grad=True)
        (x.cpu() * 2).sum().backward()
        assert device_of(x.grad) == x.device

    def test_integers_have_no_gradient(self):
        assert not Tensor([1.5], requires_grad=True).long().requires_grad

    @pytest.mark.parametrize(
        ("ask", "dtype"),
        [("float", F32), ("double", F64), ("half", F16), ("long", np.int64), ("int", np.int32), ("bool", bool)],
    )
    def test_by_name(self, ask, dtype):
        assert getattr(Tensor([1, 0]), ask)().dtype == dtype
        assert getattr(Tensor([1, 0]), ask).__doc__

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda x: x.to("tpu"), ValueError, "unknown device 'tpu': expected 'cpu', 'cuda' or 'cuda:N'"),
            (lambda x: x.to("cuda:x"), ValueError, "unknown device 'cuda:x'"),
            (lambda x: x.bfloat16(), ImportError, "bfloat16 needs the package ml_dtypes"),
            (lambda x: x.to("bfloat16"), ImportError, "bfloat16 needs the package ml_dtypes"),
        ],
    )
    def test_what_is_not_there_is_refused(self, monkeypatch, call, error, message):
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
        with pytest.raises(error, match=message):
            call(Tensor([1.0]))

    @pytest.mark.skipif("config.getoption('markexpr') == 'gpu'")
    def test_without_a_gpu_the_sentence_says_what_is_missing(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "cupy", None)
        for call in (lambda x: x.cuda(), lambda x: x.to("cuda"), lambda x: x.to(0), lambda x: x.cuda(1)):
            with pytest.raises(RuntimeError, match="device 'cuda' needs CuPy, which is not installed"):
                call(Tensor([1.0]))


class TestNumbers:
    @pytest.mark.parametrize("values", [2.5, [2.5], [[2.5]]])
    def test_one_number(self, xp, values):
        x = Tensor(xp.asarray(values))
        assert (float(x), int(x), bool(x), x.item()) == (2.5, 2, True, 2.5)
        assert not Tensor(0.0)

    @pytest.mark.parametrize("kind", [float, int, bool])
    def test_several_are_not_one(self, kind):
        with pytest.raises(ValueError, match=r"a tensor of shape \(2,\) is not one number: index it"):
            kind(Tensor([1.0, 2.0]))

    def test_text(self):
        loss = Tensor(np.float64(2.345678))
        assert f"{loss:.3f} {loss:>8.2e} {loss}" == "2.346 2.35e+00 2.345678"
        assert f"{Tensor([1.0])}" == str(Tensor([1.0]))
        with pytest.raises(TypeError, match=r"shape \(2,\) is not one number that '.4f' could format"):
            f"{Tensor([1.0, 2.0]):.4f}"

    def test_as_an_index(self):
        assert list(range(Tensor(3))) == [0, 1, 2]
        assert "abc"[Tensor([1])] == "b"
        assert np.arange(5)[Tensor(2) :].tolist() == [2, 3, 4]
        with pytest.raises(TypeError, match="only integers can be an index, this tensor is float32"):
            range(Tensor(3.0))

    def test_lists(self, xp):
        assert Tensor(xp.asarray([[1, 2], [3, 4]])).tolist() == [[1, 2], [3, 4]]
        assert Tensor(xp.asarray(2.5)).tolist() == 2.5


class TestArrays:
    def test_numpy_takes_a_tensor(self, xp):
        x = Tensor(xp.asarray([[1.0, 2.0]], "float32"), requires_grad=True)
        assert np.asarray(x).dtype == np.float32
        assert np.array(x, dtype=np.float64).tolist() == [[1.0, 2.0]]
        np.testing.assert_allclose(x, [[1.0, 2.0]])
        assert np.mean(x.detach().numpy()) == 1.5

    def test_numpys_functions_get_the_values_and_no_gradient(self):
        x = Tensor([3.0, 4.0], requires_grad=True)
        assert np.linalg.norm(x) == 5
        assert np.stack([x, x]).shape == (2, 2)


def test_nothing_is_recorded_in_no_grad():
    with no_grad():
        assert not Tensor([1.0], requires_grad=True).double().requires_grad
