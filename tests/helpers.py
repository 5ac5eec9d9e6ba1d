"""What several test files share: oracles for gradients, and ways to look into a graph."""

import itertools
import types

import numpy as np
from hypothesis import HealthCheck, settings

from lora_np.autograd import Tensor, fused, gradcheck
from lora_np.autograd.devices import array_module, is_array, is_float, to_numpy
from lora_np.autograd.fused import reference
from lora_np.autograd.tensor import data, needs_grad, record

# How far float32 and float64 results of two libraries may lie apart.
TOLERANCE = {"float32": {"rtol": 1e-4, "atol": 2e-5}, "float64": {"rtol": 1e-9, "atol": 1e-11}}

# The fixture `xp` is a module: that it is shared between examples does no harm.
examples = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_close(found, expected, rtol=1e-10, atol=1e-12):
    """Equal shapes and nearly equal values, wherever the arrays live."""
    found, expected = (to_numpy(data(x)) for x in (found, expected))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def cotangent(y, seed=1):
    """A fixed random array like `y`: the dL/dy that goes into the backward pass."""
    values = np.random.default_rng(seed).standard_normal(y.shape)
    return array_module(data(y)).asarray(values, dtype=y.dtype)


def gradients(function, arrays, trained=None):
    """function(*tensors), and each tensor's .grad after backward; `trained` says which require a gradient."""
    trained = (True,) * len(arrays) if trained is None else trained
    tensors = [Tensor(a, requires_grad=t) for a, t in zip(arrays, trained, strict=True)]
    y = function(*tensors)
    assert y.requires_grad == any(trained)
    if y.requires_grad:
        y.backward(cotangent(y))
    return y, [t.grad for t in tensors]


def check_gradients(function, *arrays, **tolerances):
    """Central differences agree with all inputs trained; freezing any of them changes nothing for the others."""
    gradcheck(function, [Tensor(a, requires_grad=True) for a in arrays], **tolerances)
    expected_y, expected = gradients(function, arrays)
    for trained in itertools.product((True, False), repeat=len(arrays)):
        y, found = gradients(function, arrays, trained)
        assert_close(y, expected_y)
        assert_same_gradients(found, expected, trained)


def check_direction(function, *arrays, eps=1e-6):
    """The slope of Σ v∘f along a random direction, for each input: cheap enough for many examples."""
    y, found = gradients(function, arrays)
    v = to_numpy(cotangent(y))

    def loss(*inputs):
        return float((to_numpy(function(*map(Tensor, inputs)).data) * v).sum())

    for i, (x, dx) in enumerate(zip(arrays, found, strict=True)):
        assert dx.shape == x.shape
        direction = cotangent(x, seed=2 + i)
        ahead, behind = (loss(*arrays[:i], x + s * direction, *arrays[i + 1 :]) for s in (eps, -eps))
        slope = float((to_numpy(dx) * to_numpy(direction)).sum())
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * eps), rtol=1e-5, atol=1e-6)


def pair(place, name):
    """An operation's forward and backward from `fused`, `cuda` or `reference`."""
    return getattr(place, f"{name}_forward"), getattr(place, f"{name}_backward")


def by_reference(name, arrays, *options):
    """An operation by its plain formula, in float64: the result, and the function from its gradient to the inputs'."""
    forward, backward = pair(reference, name)
    out, cache = forward(*map(_exact, arrays), *map(_exact, options))
    return out, lambda dout: backward(_exact(dout), cache)


def check_pair(name, arrays, *options, **more):
    """A fused pair keeps its contract: it computes what the plain formula says, and has right gradients by central
    differences; so for every `needs`; nothing that was passed in is written to.

    `arrays` may contain None for an input that is left out; `more` are settings that must change nothing.
    """
    forward, backward = pair(fused, name)
    before = [None if a is None else to_numpy(a).copy() for a in arrays]
    arrays = [_read_only(a) for a in arrays]
    given = tuple(a is not None for a in arrays)
    out, cache = forward(*arrays, *options, needs=given, **more)
    dout = _read_only(cotangent(out))
    expected = backward(dout, cache)
    plain, plain_backward = by_reference(name, arrays, *options)
    assert_close(out, plain)
    assert_same_gradients(expected, plain_backward(dout), given)
    assert_same_gradients(backward(dout, cache), expected, given)
    for needs in itertools.product(*((True, False) if g else (False,) for g in given)):
        out_again, cache = forward(*arrays, *options, needs=needs, **more)
        assert_close(out_again, out)
        if any(needs):
            assert_same_gradients(backward(dout, cache), expected, needs)
    for a, b in zip(arrays, before, strict=True):
        assert a is None or (to_numpy(a) == b).all()
    check_differences(forward, backward, arrays, *options, **more)


def check_differences(forward, backward, arrays, *options, **more):
    """The gradients of a pair agree with central differences; None in `arrays` is an input that is left out."""

    def on_tensors(*inputs):
        y, cache = forward(*map(data, inputs), *options, needs=needs_grad(*inputs), **more)
        return record(y, inputs, lambda dy: backward(dy, cache))

    gradcheck(on_tensors, [None if a is None else Tensor(a, requires_grad=True) for a in arrays])


def assert_same_gradients(found, expected, wanted, **tolerance):
    for g, e, want in zip(found, expected, wanted, strict=True):
        if want:
            assert_close(g, e, **tolerance)
        else:
            assert g is None


def _exact(x):
    """An array in the computer's own memory, numbers in float64; anything else as it is."""
    if not is_array(x):
        return x
    x = to_numpy(x)
    return x.astype(np.float64) if is_float(x) else x


def _read_only(array):
    """A copy that NumPy protects from writing (CuPy has no such flag)."""
    if isinstance(array, np.ndarray):
        array = array.copy()
        array.flags.writeable = False
    return array


def compare_with_torch(ours, theirs, arrays, xp, dtype):
    """Outputs and gradients of `ours` on Tensors and `theirs` on torch tensors, from the same numbers."""
    import torch

    arrays = [np.asarray(a, dtype) for a in arrays]
    y, found = gradients(ours, [xp.asarray(a) for a in arrays])
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = theirs(*leaves)
    expected.backward(torch.tensor(to_numpy(cotangent(y))))
    assert y.dtype == dtype
    assert_close(y, expected.detach().numpy(), **TOLERANCE[dtype])
    for g, leaf in zip(found, leaves, strict=True):
        assert g.dtype == dtype
        assert_close(g, leaf.grad.numpy(), **TOLERANCE[dtype])


def graph_nodes(tensor):
    """Every Node that `tensor` depends on."""
    found, stack = set(), [tensor.node()]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(parent for parent in node.parents if parent is not None)
    return found


def captured(function):
    """Everything that a function's closure holds, through nested functions and containers."""
    held, stack = [], [function]
    while stack:
        x = stack.pop()
        if isinstance(x, types.FunctionType):
            stack.extend(cell.cell_contents for cell in x.__closure__ or ())
            stack.extend(x.__defaults__ or ())
        elif isinstance(x, (tuple, list)):
            stack.extend(x)
        elif isinstance(x, dict):
            stack.extend(x.values())
        else:
            held.append(x)
    return held
