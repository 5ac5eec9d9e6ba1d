"""A Tensor in another dtype or on another device, and as what else Python and NumPy know."""

import numpy as np

from .arrangement import clone
from .devices import Device, beside, parse_device, to_device, to_numpy
from .float_types import NAMES, bfloat16, is_floating
from .shape_ops import astype
from .tensor import Tensor, data, record

DTYPES = {
    "float": np.float32,
    "double": np.float64,
    "half": np.float16,
    "long": np.int64,
    "int": np.int32,
    "bool": bool,
}


def target_of(args, device=None, dtype=None):
    """(device or None, dtype or None) of the arguments of `.to`: in any order, or another tensor."""
    for given in args:
        if isinstance(given, Tensor):
            device, dtype = given.device, given.dtype
        elif given is None or isinstance(given, bool):  # non_blocking, copy
            continue
        elif isinstance(given, int):
            device = Device("cuda", given)
        elif isinstance(given, Device) or (isinstance(given, str) and is_device(given)):
            device = given
        else:
            dtype = given
    return device, None if dtype is None else as_dtype(dtype)


def is_device(name):
    """Is this the name of a device, and not of a dtype?"""
    return name.partition(":")[0] in ("cpu", "cuda")


def as_dtype(dtype):
    """NumPy's dtype of a name or a type; bfloat16's needs the package ml_dtypes. TypeError for what is none."""
    name = str(dtype).removeprefix("torch.")
    if name in NAMES:
        return bfloat16()
    try:
        return np.dtype(DTYPES.get(name, name) if isinstance(dtype, str) or name != str(dtype) else dtype)
    except TypeError:
        parse_device(dtype)  # says what devices there are
        raise TypeError(f"{dtype!r} is no dtype") from None


def to(a, *args, device=None, dtype=None, non_blocking=False, copy=False):
    """The tensor on a device ('cpu', 'cuda', 'cuda:N') and in a dtype; itself where it is so already.

    to("cuda"), to(np.float64), to("cuda", np.float16), to(other): da = dy, in the dtype and on the device of a.
    Integers and booleans have no gradient.
    """
    device, dtype = target_of(args, device, dtype)
    if dtype is not None and dtype != a.dtype:
        a = astype(a, dtype) if is_floating(dtype) else Tensor(data(a).astype(dtype))
    before = data(a)
    moved = before if device is None else to_device(before, device)
    if moved is before:
        return clone(a) if copy else a
    return record(moved, (a,), lambda dy: (beside(dy, before),))


def cpu(a):
    """The tensor in the computer's own memory."""
    return to(a, "cpu")


def cuda(a, device=None):
    """The tensor on a GPU (None: the first); RuntimeError, which says what is missing, where there is none."""
    return to(a, "cuda" if device is None else device)


def caster(name):
    """The method `name`(): the tensor in that dtype."""

    def cast(a):
        return to(a, dtype=DTYPES[name])

    cast.__name__, cast.__doc__ = name, f"The tensor as {np.dtype(DTYPES[name])}; itself where it is so already."
    return cast


def tolist(a):
    """The numbers as nested lists, or a single one as a Python number."""
    return data(a).tolist()


def item(a):
    """The one value as a Python number. ValueError, with the shape, if there are several."""
    if data(a).size != 1:
        raise ValueError(
            f"a tensor of shape {a.shape} is not one number: index it, or use .any(), .all(), .mean() or .tolist()"
        )
    return data(a).item()


def as_kind(kind):
    """float(tensor), int(tensor), bool(tensor): the one value as that."""

    def convert(a):
        return kind(item(a))

    return convert


def index(a):
    """The one integer, where Python needs one: range(t), list[t]."""
    if a.dtype.kind not in "iub":
        raise TypeError(f"only integers can be an index, this tensor is {a.dtype}")
    return int(item(a))


def formatted(a, spec):
    """f"{loss:.4f}": the one number of a tensor without axes. Without a spec also any other tensor's text."""
    if a.shape and not spec:
        return str(a)
    if a.shape:
        raise TypeError(
            f"a tensor of shape {a.shape} is not one number that {spec!r} could format: use .mean() or .item()"
        )
    return format(data(a).item(), spec)


def as_numpy(a, dtype=None, copy=None):
    """np.asarray(tensor): the numbers in the computer's own memory."""
    array = to_numpy(data(a))
    return np.array(array, dtype=dtype, copy=copy)
