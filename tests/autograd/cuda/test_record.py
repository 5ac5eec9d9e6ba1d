"""Recordings that share a stream and its memory."""

import numpy as np
import pytest

pytestmark = pytest.mark.gpu


def sums_of_products(cupy, sizes, results):
    """Functions that work in memory of their own and leave a number in `results`."""

    def of(i, n):
        a = cupy.full((n, n), i + 1, np.float32)
        results[i] += ((a + 1) * a).sum()

    return [lambda i=i, n=n: of(i, n) for i, n in enumerate(sizes)]


def test_they_take_turns_in_the_same_memory():
    import cupy

    from lora_np.autograd.cuda.record import Recording, Room

    room, results, sizes = Room(), cupy.zeros(3), (1000, 3000, 2000)
    works = sums_of_products(cupy, sizes, results)
    recordings = [Recording(room) for _ in works]
    for work, recording in zip(works, recordings, strict=True):
        with recording.inside():
            work()
        recording.record(work)
    for i in (2, 0, 1, 2, 0):
        recordings[i].replay()
    times = np.array([4, 3, 4])
    expected = [n * n * (i + 2) * (i + 1) * times[i] for i, n in enumerate(sizes)]
    np.testing.assert_allclose(results.get(), expected, rtol=1e-5)
    alone = Room()
    with alone.inside():
        works[1]()
    assert room.nbytes() <= 1.5 * alone.nbytes()


def test_its_memory_is_given_back():
    import cupy

    from lora_np.autograd.cuda.record import Recording, Room

    room, results = Room(), cupy.zeros(2)
    for work in sums_of_products(cupy, [1000, 2000], results):
        recording = Recording(room)
        with recording.inside():
            work()
        recording.record(work)
    pool = room.pool
    assert pool.total_bytes() >= 4 * 2000**2
    del room, recording
    assert pool.total_bytes() == 0


def test_what_recordings_use_is_not_given_back_where_the_memory_is_full(monkeypatch):
    import cupy

    from lora_np.autograd.cuda.record import Recording, Room

    room, results = Room(), cupy.zeros(1)
    (work,) = sums_of_products(cupy, [1000], results)
    recording = Recording(room)
    with recording.inside():
        work()
    recording.record(work)
    free = room.pool.free_bytes()
    assert free >= 4 * 1000**2

    def full(size):
        raise cupy.cuda.runtime.CUDARuntimeError(2)

    with monkeypatch.context() as patch, room.inside():
        patch.setattr(cupy.cuda, "Memory", full)
        with pytest.raises(MemoryError):
            cupy.empty(1 << 30, np.uint8)
    assert room.pool.free_bytes() >= free
    recording.replay()
    np.testing.assert_allclose(results.get(), 3 * 1000**2 * 2, rtol=1e-5)
