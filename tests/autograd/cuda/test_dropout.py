"""Dropout's masks on a GPU: a function of seed, number and place."""

import numpy as np
import pytest

from lora_np import Tensor, manual_seed
from lora_np.autograd import ops
from lora_np.autograd.random import Stretch, random_seed

pytestmark = pytest.mark.gpu
SHAPE = (4, 37, 150)


def mask(shape=SHAPE, p=0.3, dtype=np.float32):
    import cupy

    return ops.dropout_mask(shape, p, cupy.empty(0, dtype)).get()


def seeded(number=0, seed=3, **options):
    """The mask with this number after the seed."""
    manual_seed(seed)
    for _ in range(number):
        mask((1,))
    return mask(**options)


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.9])
def test_as_many_are_zero_as_there_should_be(p):
    found = seeded(shape=(64, 128, 128), p=p)
    assert set(np.unique(found)) <= {np.float32(0), np.float32(1 / (1 - p))}
    n = found.size
    assert abs((found == 0).mean() - p) <= 5 * (p * (1 - p) / n) ** 0.5
    for axis in range(3):  # no row, column or plane has more than its share
        share = (found == 0).mean(axis=tuple({0, 1, 2} - {axis}))
        assert abs(share - p).max() <= 6 * (p * (1 - p) * found.shape[axis] / n) ** 0.5


def correlation(a, b):
    return abs(np.corrcoef(a.ravel() == 0, b.ravel() == 0)[0, 1])


def test_masks_have_nothing_to_do_with_each_other():
    shape, few = (64, 128, 128), 5 / 2**10
    first = seeded(shape=shape, p=0.5)
    assert correlation(first, seeded(1, shape=shape, p=0.5)) < few
    assert correlation(first, seeded(seed=4, shape=shape, p=0.5)) < few
    for axis in range(3):
        assert correlation(first, np.roll(first, 1, axis)) < few


def test_a_seed_brings_the_same_and_masks_count():
    assert (seeded() == seeded()).all()
    assert (seeded(2) == seeded(2)).all()
    assert (seeded() != seeded(1)).any()


def test_other_random_numbers_change_nothing():
    expected = seeded()
    manual_seed(3)
    with random_seed(9):
        mask()
    assert (mask() == expected).all()


def test_a_stretch_draws_the_same_twice_and_its_masks_count():
    expected = [seeded(0), seeded(1), seeded(2)]
    manual_seed(3)
    stretch = Stretch()
    with stretch.first_time():
        first = [mask(), mask()]
    after = mask()
    with stretch.second_time():
        second = [mask(), mask()]
    for found, wanted in zip([*first, after], expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(second, first)


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (7, 33), (5,), (3, 5, 1), (0, 4), ()])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_shape_and_dtype(shape, dtype):
    found = seeded(shape=shape, p=0.25, dtype=dtype)
    assert found.shape == shape
    assert found.dtype == dtype
    assert set(np.unique(found)) <= {np.dtype(dtype).type(0), np.dtype(dtype).type(1 / 0.75)}


def test_a_longer_batch_has_the_same_masks_where_it_has_tokens():
    short, long = seeded(), seeded(shape=(4, 48, 150))
    np.testing.assert_array_equal(long[:, :37], short)
    short, long = (seeded(shape=(2, 3, T, T)) for T in (30, 41))
    np.testing.assert_array_equal(long[:, :, :30, :30], short)


def philox(place, key):
    """Philox 4x32 with ten rounds, by Python's whole numbers."""
    for _ in range(10):
        a, b = 0xD2511F53 * place[0], 0xCD9E8D57 * place[2]
        place = [b >> 32 ^ place[1] ^ key[0], b, a >> 32 ^ place[3] ^ key[1], a]
        place, key = [x & 0xFFFFFFFF for x in place], [(key[0] + 0x9E3779B9), (key[1] + 0xBB67AE85)]
        key = [x & 0xFFFFFFFF for x in key]
    return place


def test_it_is_philox():
    """And Philox is that of the paper's library (Random123, its kat_vectors)."""
    assert philox([0] * 4, [0, 0]) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    from lora_np.autograd.random import mask_key

    found = seeded(2, shape=(3, 2, 8), p=0.5)
    key = [mask_key() & 0xFFFFFFFF, mask_key() >> 32]
    drawn = [[[philox([group, row, plane, 2], key) for group in (0, 1)] for row in (0, 1)] for plane in range(3)]
    expected = np.where(np.array(drawn, np.uint64).reshape(3, 2, 8) < 2**31, 0.0, 2.0)
    np.testing.assert_array_equal(found, expected)


def test_replays_draw_what_would_be_drawn_next():
    import cupy

    from lora_np.autograd.cuda.record import Recording

    x = Tensor(cupy.ones(SHAPE, np.float32))
    out = cupy.empty((2, *SHAPE), np.float32)

    def work():
        for place in out:
            place[...] = ops.dropout(x, 0.3).data

    def results(run, times):
        found = []
        for _ in range(times):
            run()
            found.append(out.get())
            ops.dropout(x, 0.3)  # somebody else draws in between
        return found

    manual_seed(3)
    expected = results(work, 5)
    manual_seed(3)
    recording = Recording()
    with recording.inside():
        found = results(work, 1)
    found += results(lambda: recording.record(work), 1) + results(recording.replay, 3)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    manual_seed(3)
    recording.replay()
    np.testing.assert_array_equal(out.get(), expected[0])


def test_a_recording_that_fails_has_drawn_nothing():
    import cupy

    from lora_np.autograd.cuda.record import Recording
    from lora_np.autograd.random import masks_drawn

    recording, x = Recording(), Tensor(cupy.ones(SHAPE, np.float32))
    before = masks_drawn()

    def work():
        ops.dropout(x, 0.3)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        recording.record(work)
    assert masks_drawn() == before
