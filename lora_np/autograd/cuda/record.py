"""Recording a stretch of work for the GPU, to start it again as a whole (a CUDA graph).

A small model's step is a few hundred kernels of a few microseconds each; starting them one by one from Python takes
longer than running them. Recorded once, they start with one call. What is recorded are addresses, so all arrays
have to stay where they are: the work has a memory pool of its own. What the host sends along goes through
`upload`, as everything does that `devices.to_device` sends; what can be refreshed is sent again before each replay.
Random numbers follow from a key and a count, which are sent again too: each replay draws the next ones (`dropout.py`).
"""

import threading
import weakref
from contextlib import contextmanager, suppress

import cupy
import numpy as np

from .. import random

SLAB = 32 << 20  # bytes that a room asks for at once, at least


class _Current(threading.local):
    recording = None


_current = _Current()


def is_recording():
    """Is the work that this thread gives the GPU being recorded, and not done? Then nobody may wait for it."""
    return cupy.cuda.get_current_stream().is_capturing()


def upload(host, refresh=None):
    """A NumPy array on the GPU. While a recording is made, it is sent later; `refresh()` is its value for a replay."""
    if _current.recording is None:
        return cupy.asarray(host)
    host = np.asarray(host)
    with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
        # Not from the work's own pool: there, kernels recorded earlier might use the same memory, and overwrite it.
        array = cupy.empty(host.shape, host.dtype)
    _current.recording.uploads.append((array, host, refresh))
    return array


def place_in_recording():
    """(key and count on the GPU, the count when it began) of the recording that is being made; None if none is."""
    return None if _current.recording is None else _current.recording.random_place()


class Room:
    """The stream that recordings run in, which waits for the usual one, and the memory of what they compute.

    Recordings that never run at the same time, and leave nothing in this memory for each other, can share it. Memory
    that a recording uses must never be given back: where the GPU's is full, there is a MemoryError instead.
    """

    def __init__(self):
        self.stream, self.pool = cupy.cuda.Stream(), cupy.cuda.MemoryPool(_from_the_gpu)
        # One of CuPy's pools that is merely forgotten gives nothing back.
        weakref.finalize(self, self.pool.free_all_blocks).atexit = False

    def nbytes(self):
        """How much memory it holds."""
        return self.pool.total_bytes()

    @contextmanager
    def inside(self):
        """Inside this block, work goes to the room's stream and takes its memory."""
        with self.stream, cupy.cuda.using_allocator(self._malloc):
            yield

    def _malloc(self, size):
        """Memory from the pool, which grows by large pieces: what a longer batch needs can be cut from the same."""
        if size > self.pool.free_bytes():
            with suppress(MemoryError):
                self.pool.malloc(max(size, SLAB, self.pool.total_bytes() // 4))  # and at once it is free again
        return self.pool.malloc(size)


def _from_the_gpu(size):
    """Memory of the GPU for a `Room`'s pool.

    CuPy's own pools, where the memory is full, give back what no array holds, and that may be what a recording uses.
    They do so at a CUDARuntimeError; at the MemoryError here they do not.
    """
    for _ in range(2):
        try:
            return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
        except cupy.cuda.runtime.CUDARuntimeError:
            cupy.get_default_memory_pool().free_all_blocks()
    raise cupy.cuda.memory.OutOfMemoryError(size, 0)


class Recording:
    """Work that was recorded, and the arrays it uses. room: where it runs; a new `Room` if none is given."""

    def __init__(self, room=None):
        self.room = Room() if room is None else room
        self.uploads, self.graph = [], None
        self.place, self.first, self.drawn = None, 0, [0]  # of random numbers: see `random_place`

    def inside(self):
        """Inside this block, work goes to the recording's stream and takes its memory."""
        return self.room.inside()

    def record(self, function):
        """Record what `function` does on the GPU, then do it; returns its result, which each replay overwrites.

        It should have run once inside `inside`, so that nothing is compiled or set up meanwhile. It must not wait for
        the GPU. Of random numbers it may draw dropout's masks; others would be the same in every replay.
        """
        self.first = random.masks_drawn()
        with self.inside():
            try:
                result = self._captured(function)
            except BaseException:
                self._upload()  # what was uploaded may be kept by others, as the addresses of matrices are
                self.uploads, self.place = [], None
                random.draw_masks_from(self.first)
                raise
            self.drawn[0] = random.masks_drawn() - self.first
            self._upload()
            self.graph.launch(self.room.stream)
        return result

    def _captured(self, function):
        stream = self.room.stream
        stream.begin_capture()
        _current.recording = self
        try:
            result = function()
        except BaseException:
            with suppress(cupy.cuda.runtime.CUDARuntimeError):  # the first error is the one to be told
                stream.end_capture()
            raise
        finally:
            _current.recording = None
        self.graph = stream.end_capture()
        return result

    def _upload(self):
        for array, host, _ in self.uploads:
            array[...] = cupy.asarray(host)

    def replay(self):
        """Do the recorded work again, with refreshed uploads."""
        with self.inside():
            for array, _, refresh in self.uploads:
                if refresh is not None:
                    array[...] = cupy.asarray(refresh())
            self.graph.launch(self.room.stream)

    def random_place(self):
        """(key and count on the GPU, the count when the recording began). In a replay they are those of that time."""
        if self.place is None:
            now, drawn = np.array([random.mask_key(), self.first], np.uint64), self.drawn
            self.place = upload(now, refresh=lambda: np.array(random.next_masks(drawn[0]), np.uint64))
        return self.place, self.first
