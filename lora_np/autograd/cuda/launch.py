"""Compiling the kernels in the files .cu when they are first used, and starting them."""

import functools
from pathlib import Path

import cupy
import numpy as np

SOURCES = [Path(__file__).with_name(name) for name in ("numbers.cu", "kernels.cu", "weights.cu", "random.cu")]
STORED_AS = {"bfloat16": ("-DBFLOAT16",), "float16": ("-DFLOAT16",)}  # options for the compiler
BLOCK, MOST_BLOCKS = 256, 4096
NOTHING = np.uint64(0)  # a null pointer


@functools.cache
def _module(stored_as):
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    return cupy.RawModule(code=code, options=("--std=c++17", *STORED_AS.get(stored_as, ())))


@functools.cache
def _kernel(name, stored_as, device):
    return _module(stored_as).get_function(name)


def by_rows(name, rows, width, *arguments, each=None):
    """Start a kernel with one block for each of `rows` rows of `width` numbers, about `each` of them for every thread.

    each: if None, as many as a thread reads at once. Nothing happens if there are no rows.
    """
    if rows:
        each = pack(_first(arguments).dtype) if each is None else each
        threads = min(1024, max(32, 32 * -(-width // (32 * each))))
        _start(name, (rows,), threads, arguments)


def pack(dtype):
    """How many numbers a thread reads at once, 16 bytes of them; PACK in numbers.cu."""
    return 8 if dtype.itemsize == 2 else 4


def in_packs(width, *arrays):
    """Can rows of `width` numbers be read by PACK at a time? All then begin at multiples of 16 bytes."""
    return width * arrays[0].itemsize % 16 == 0 and all(array.data.ptr % 16 == 0 for array in arrays)


def by_elements(name, size, *arguments, rows=1):
    """Start a kernel whose threads share `size` elements (of each of `rows` parameters) among them."""
    if size:
        _start(name, (min(MOST_BLOCKS, -(-size // BLOCK)), rows), BLOCK, arguments)


def by_grid(name, grid, *arguments):
    """Start a kernel with as many blocks as `grid` says, up to three numbers; nothing happens if one of them is 0."""
    if all(grid):
        _start(name, grid, BLOCK, arguments)


def number_by_number(name, *arrays, options=()):
    """Start a kernel on arrays of one size (some may be None), how many packs they are, the options, packed or not."""
    given = [x for x in arrays if x is not None]
    size, packed = given[0].size, in_packs(given[0].size, *given)
    packs = size // pack(given[0].dtype) if packed else size
    by_elements(name, packs, *arrays, long(packs), *options, packed)


def _first(arguments):
    return next(x for x in arguments if isinstance(x, cupy.ndarray))


def _start(name, grid, threads, arguments):
    """Arguments: CuPy arrays, NumPy scalars; Python ints are 32 bits, floats float32, None is a null pointer.

    The first array says which type numbers are stored in.
    """
    kernel = _kernel(name, _first(arguments).dtype.name, cupy.cuda.runtime.getDevice())
    kernel(grid, (threads,), tuple(map(_typed, arguments)))


def _typed(x):
    if x is None:
        return NOTHING
    return np.int32(x) if isinstance(x, (bool, int)) else np.float32(x) if isinstance(x, float) else x


def long(number):
    """A 64-bit argument, for sizes that may be over two billion."""
    return np.int64(number)
