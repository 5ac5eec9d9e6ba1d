"""Compiling the kernels in kernels.cu when they are first used, and starting them."""

import functools
from pathlib import Path

import cupy
import numpy as np

SOURCE = Path(__file__).with_name("kernels.cu")
BLOCK, MOST_BLOCKS = 256, 4096
NOTHING = np.uint64(0)  # a null pointer


@functools.cache
def _module():
    return cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=("--std=c++17",))


@functools.cache
def _kernel(name, device):
    return _module().get_function(name)


def by_rows(name, rows, width, *arguments, each=4):
    """Start a kernel with one block for each of `rows` rows of `width` numbers, about `each` of them for every thread.

    Nothing happens if there are no rows.
    """
    if rows:
        threads = min(1024, max(32, 32 * -(-width // (32 * each))))
        _start(name, (rows,), threads, arguments)


def in_fours(width, *arrays):
    """Can rows of `width` numbers be read by four at a time? All then begin at multiples of 16 bytes."""
    return width % 4 == 0 and all(array.data.ptr % 16 == 0 for array in arrays)


def by_elements(name, size, *arguments, rows=1):
    """Start a kernel whose threads share `size` elements (of each of `rows` parameters) among them."""
    if size:
        _start(name, (min(MOST_BLOCKS, -(-size // BLOCK)), rows), BLOCK, arguments)


def by_tables(name, entries, tiles, *arguments):
    """Start a kernel with `tiles` blocks for each of the `entries` of a table; nothing happens if there are none."""
    if entries and tiles:
        _start(name, (tiles, entries), BLOCK, arguments)


def _start(name, grid, threads, arguments):
    """Arguments: CuPy arrays, NumPy scalars; Python ints are 32 bits, floats float32, None is a null pointer."""
    _kernel(name, cupy.cuda.runtime.getDevice())(grid, (threads,), tuple(map(_typed, arguments)))


def _typed(x):
    if x is None:
        return NOTHING
    return np.int32(x) if isinstance(x, (bool, int)) else np.float32(x) if isinstance(x, float) else x


def long(number):
    """A 64-bit argument, for sizes that may be over two billion."""
    return np.int64(number)
