"""Recording a stretch of work for the GPU, to start it again as a whole (a CUDA graph).

A small model's step is a few hundred kernels of a few microseconds each; starting them one by one from Python takes
longer than running them. Recorded once, they start with one call. What is recorded are addresses, so all arrays
have to stay where they are: the work has a memory pool of its own. What the host sends along goes through
`upload`, as everything does that `devices.to_device` sends; what can be refreshed is sent again before each replay.
"""

import threading
from contextlib import contextmanager, suppress

import cupy
import numpy as np


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


class Recording:
    """Work that was recorded, the arrays it uses, and the stream it runs in, which waits for the usual one."""

    def __init__(self):
        self.stream, self.pool = cupy.cuda.Stream(), cupy.cuda.MemoryPool()
        self.uploads, self.graph = [], None

    @contextmanager
    def inside(self):
        """Inside this block, work goes to the recording's stream and takes its memory."""
        with self.stream, cupy.cuda.using_allocator(self.pool.malloc):
            yield

    def record(self, function):
        """Record what `function` does on the GPU, then do it; returns its result, which each replay overwrites.

        It should have run once inside `inside`, so that nothing is compiled or set up meanwhile. It must not wait for
        the GPU, nor draw random numbers, which would be the same in every replay.
        """
        with self.inside():
            try:
                result = self._captured(function)
            finally:  # also where it failed: what was uploaded may be kept, as the addresses of matrices are
                for array, host, _ in self.uploads:
                    array[...] = cupy.asarray(host)
            self.graph.launch(self.stream)
        return result

    def _captured(self, function):
        self.stream.begin_capture()
        _current.recording = self
        try:
            result = function()
        except BaseException:
            with suppress(cupy.cuda.runtime.CUDARuntimeError):  # the first error is the one to be told
                self.stream.end_capture()
            raise
        finally:
            _current.recording = None
        self.graph = self.stream.end_capture()
        return result

    def replay(self):
        """Do the recorded work again, with refreshed uploads."""
        with self.inside():
            for array, _, refresh in self.uploads:
                if refresh is not None:
                    array[...] = cupy.asarray(refresh())
            self.graph.launch(self.stream)
