"""Cross-entropy, on logits and on hidden states a few rows at a time."""

import numpy as np
import pytest
from helpers import (
    assert_close,
    captured,
    check_direction,
    check_gradients,
    check_pair,
    compare_with_torch,
    examples,
    pair,
)
from hypothesis import given
from hypothesis import strategies as st

from lora_np.autograd import Tensor, fused
from lora_np.autograd import functional as F
from lora_np.autograd.devices import is_array, to_numpy
from lora_np.autograd.fused import loss as loss_module

TARGETS = {
    "all count": [1, 0, 3, 3, 2],
    "some ignored": [1, -100, 3, -100, 3],
    "first and last ignored": [-100, 0, 3, 3, -100],
    "one counts": [-100, -100, 2, -100, -100],
}


def formula(logits, targets, ignore_index=-100):
    """One row at a time: -ln(e^z[target] / Σ e^z)."""
    rows = [(row, t) for row, t in zip(to_numpy(logits), targets, strict=True) if t != ignore_index]
    return np.mean([-np.log(np.exp(row[t]) / np.exp(row).sum()) for row, t in rows])


@pytest.mark.parametrize("name", TARGETS)
def test_cross_entropy(xp, rng, name):
    logits, targets = xp.asarray(rng.standard_normal((5, 4))), TARGETS[name]
    loss, _ = fused.cross_entropy_forward(logits, np.asarray(targets))
    assert_close(loss, np.asarray(formula(logits, targets)))
    check_pair("cross_entropy", [logits], np.asarray(targets))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 5, 100])
def test_linear_cross_entropy_in_any_chunks(xp, rng, name, rows_at_once):
    x, weight = (xp.asarray(rng.standard_normal(shape)) for shape in ((5, 3), (4, 3)))
    targets = np.asarray(TARGETS[name])
    check_pair("linear_cross_entropy", [x, weight], targets, chunk_bytes=rows_at_once * 4 * 8 + 7)


def test_a_chunk_is_never_less_than_one_row(xp, rng):
    x, weight = (xp.asarray(rng.standard_normal(shape)) for shape in ((5, 3), (4, 3)))
    check_pair("linear_cross_entropy", [x, weight], np.asarray(TARGETS["all count"]), chunk_bytes=1)


@pytest.mark.parametrize("ignored", [2, 0, -1])
def test_another_value_may_be_the_ignored_one(xp, rng, ignored):
    logits, x, weight = (rng.standard_normal(shape) for shape in ((5, 4), (5, 3), (4, 3)))
    targets = [ignored, 1, 3, ignored, 1]
    loss = F.cross_entropy(Tensor(xp.asarray(logits)), targets, ignored)
    assert_close(loss, np.asarray(formula(logits, targets, ignored)))
    loss = F.linear_cross_entropy(Tensor(xp.asarray(x)), Tensor(xp.asarray(weight)), targets, ignored)
    assert_close(loss, np.asarray(formula(x @ weight.T, targets, ignored)))
    check_gradients(lambda logits: F.cross_entropy(logits, targets, ignored), xp.asarray(logits))
    check_gradients(
        lambda x, weight: F.linear_cross_entropy(x, weight, targets, ignored), xp.asarray(x), xp.asarray(weight)
    )


def test_ignored_rows_get_a_gradient_of_zero_and_are_not_read(xp, rng):
    x, weight = rng.standard_normal((5, 3)), xp.asarray(rng.standard_normal((4, 3)))
    x[[1, 3]] = np.nan
    targets = np.asarray(TARGETS["some ignored"])
    logits = xp.asarray(x) @ weight.T
    for loss, cache, backward in (
        (*fused.cross_entropy_forward(logits, targets), fused.cross_entropy_backward),
        (*fused.linear_cross_entropy_forward(xp.asarray(x), weight, targets), fused.linear_cross_entropy_backward),
    ):
        assert np.isfinite(float(loss))
        gradients = [to_numpy(d) for d in backward(xp.asarray(1.0), cache)]
        assert all(np.isfinite(d).all() for d in gradients)
        assert (gradients[0][[1, 3]] == 0).all()
        assert (gradients[0][[0, 2, 4]] != 0).all()


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Targets count as those that live on a GPU, where they stay: every row is computed, ignored ones weigh nothing."""
    monkeypatch.setattr(loss_module, "on_gpu", lambda x: True)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 100])
@pytest.mark.parametrize("ignored", [-100, -1, 9])
def test_targets_that_stay_on_a_gpu(xp, rng, name, rows_at_once, ignored):
    logits, x, weight = (xp.asarray(rng.standard_normal(shape)) for shape in ((5, 4), (5, 3), (4, 3)))
    targets = [ignored if t == -100 else t for t in TARGETS[name]]
    there, more = xp.asarray(targets, dtype=np.int32), {"chunk_bytes": rows_at_once * 4 * 8 + 7}
    loss, _ = fused.cross_entropy_forward(logits, there, ignored)
    assert_close(loss, np.asarray(formula(logits, targets, ignored)))
    check_pair("cross_entropy", [logits], there, ignored)
    loss, _ = fused.linear_cross_entropy_forward(x, weight, there, ignored, **more)
    assert_close(loss, np.asarray(formula(x @ weight.T, targets, ignored)))
    check_pair("linear_cross_entropy", [x, weight], there, ignored, **more)


@pytest.mark.usefixtures("on_a_gpu")
def test_words_ruled_out_do_not_matter_to_rows_without_a_target(xp):
    logits = xp.asarray([[0.0, 1.0, -np.inf], [2.0, 0.0, -np.inf]])
    loss, cache = fused.cross_entropy_forward(logits, xp.asarray([-100, 0]))
    np.testing.assert_allclose(float(loss), np.log1p(np.exp(-2)))
    assert_close(fused.cross_entropy_backward(xp.asarray(1.0), cache)[0][0], np.zeros(3))


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_targets_on_a_gpu_change_no_dtype(xp, rng, dtype):
    x, weight = (xp.asarray(rng.standard_normal(shape).astype(dtype)) for shape in ((5, 3), (4, 3)))
    targets = xp.asarray(TARGETS["some ignored"])
    for name, arrays in (("cross_entropy", [x]), ("linear_cross_entropy", [x, weight])):
        forward, backward = pair(fused, name)
        loss, cache = forward(*arrays, targets % 3)
        assert loss.dtype == np.result_type(dtype, np.float32)  # a sum over a batch
        assert {d.dtype for d in backward(xp.asarray(2.0, dtype), cache)} == {np.dtype(dtype)}


@pytest.mark.usefixtures("on_a_gpu")
def test_no_target_on_a_gpu_is_refused_where_the_host_may_look(xp, monkeypatch):
    targets = xp.asarray([-100, -100])
    with pytest.raises(ValueError, match="every target is -100, the value that is ignored"):
        fused.cross_entropy_forward(xp.ones((2, 3)), targets)
    monkeypatch.setattr(loss_module, "host_can_read", lambda x: False)
    with np.errstate(invalid="ignore"):
        assert np.isnan(float(fused.cross_entropy_forward(xp.ones((2, 3)), targets)[0]))


def test_targets_give_the_same_loss_wherever_they_are(xp, rng):
    logits, x, weight = (xp.asarray(rng.standard_normal(shape)) for shape in ((5, 4), (5, 3), (4, 3)))
    for name in TARGETS:
        here, there = np.asarray(TARGETS[name]), xp.asarray(TARGETS[name])
        assert_close(F.cross_entropy(logits, there), F.cross_entropy(logits, here))
        found, expected = (F.linear_cross_entropy(x, weight, targets) for targets in (there, here))
        assert_close(found, expected)


def test_the_loss_of_a_large_batch_in_float16_is_finite(xp):
    """The sum of the losses is far beyond what float16 holds."""
    logits = xp.zeros((40_000, 8), np.float16)
    loss, _ = fused.cross_entropy_forward(logits, np.zeros(40_000, int))
    np.testing.assert_allclose(float(loss), np.log(8), rtol=1e-3)


def test_every_row_of_the_gradient_sums_to_zero(xp, rng):
    logits = xp.asarray(rng.standard_normal((5, 4)))
    _, cache = fused.cross_entropy_forward(logits, np.asarray(TARGETS["some ignored"]))
    (dlogits,) = fused.cross_entropy_backward(xp.asarray(1.0), cache)
    assert_close(dlogits.sum(axis=1), np.zeros(5))


@pytest.mark.parametrize(
    ("needs", "sizes"), [((False, False), []), ((True, False), [15]), ((False, True), [12]), ((True, True), [12, 15])]
)
def test_only_the_gradients_are_kept_and_no_logits(xp, rng, needs, sizes):
    _, cache = fused.linear_cross_entropy_forward(
        xp.asarray(rng.standard_normal((5, 3))),
        xp.asarray(rng.standard_normal((4, 3))),
        [1, 0, 3, -100, 2],
        needs=needs,
    )
    assert sorted(x.size for x in captured(cache) if is_array(x)) == sizes


def test_without_a_gradient_to_come_nothing_is_kept(xp):
    assert fused.cross_entropy_forward(xp.ones((2, 3)), np.array([0, 1]), needs=(False,))[1] is None


def test_equal_logits_give_the_logarithm_of_the_vocabulary(xp):
    loss = F.cross_entropy(Tensor(xp.zeros((3, 50))), [1, 2, 49])
    np.testing.assert_allclose(loss.item(), np.log(50), rtol=1e-12)


def test_large_logits_do_not_overflow(xp):
    logits = xp.asarray([[1000.0, 0.0], [-1000.0, 0.0], [0.0, 1e4]])
    loss, cache = fused.cross_entropy_forward(logits, np.array([0, 0, 0]))
    (dlogits,) = fused.cross_entropy_backward(xp.asarray(3.0), cache)
    np.testing.assert_allclose(float(loss), 11000 / 3)
    assert_close(dlogits, np.array([[0.0, 0], [-1, 1], [-1, 1]]))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_leading_axes(xp, rng, shape):
    logits = xp.asarray(rng.standard_normal((*shape, 4)))
    x, weight = xp.asarray(rng.standard_normal((*shape, 2))), xp.asarray(rng.standard_normal((4, 2)))
    targets = xp.asarray(rng.integers(0, 4, shape))
    loss = F.cross_entropy(Tensor(logits), targets)
    assert_close(loss, np.asarray(formula(logits.reshape(-1, 4), to_numpy(targets).reshape(-1))))
    check_gradients(lambda logits: F.cross_entropy(logits, targets), logits)
    check_gradients(lambda x, weight: F.linear_cross_entropy(x, weight, targets), x, weight)


@pytest.mark.parametrize("wrap", [list, np.asarray, lambda t: Tensor(np.asarray(t)), lambda t: np.asarray(t, np.uint8)])
def test_targets_may_be_a_list_an_array_or_a_tensor(xp, rng, wrap):
    logits = xp.asarray(rng.standard_normal((4, 5)))
    assert_close(F.cross_entropy(Tensor(logits), wrap([1, 0, 4, 4])), np.asarray(formula(logits, [1, 0, 4, 4])))


@examples
@given(
    st.lists(st.integers(-1, 4), min_size=1, max_size=9).filter(lambda t: any(i >= 0 for i in t)), st.integers(1, 200)
)
def test_both_agree_for_any_targets(xp, targets, chunk_bytes):
    rng = np.random.default_rng(0)
    x, weight = (xp.asarray(rng.standard_normal(shape)) for shape in ((len(targets), 3), (5, 3)))
    targets = np.asarray(targets)
    whole = F.cross_entropy(Tensor(x) @ Tensor(weight).T, targets, ignore_index=-1)
    chunked, _ = fused.linear_cross_entropy_forward(x, weight, targets, -1, chunk_bytes=chunk_bytes)
    assert_close(chunked, whole)
    check_direction(lambda x, weight: F.linear_cross_entropy(x, weight, targets, -1), x, weight)


@pytest.mark.parametrize("wrong", [4, 99, -1, -99])
@pytest.mark.parametrize("which", ["cross_entropy", "linear_cross_entropy"])
def test_a_target_out_of_range_is_named(xp, which, wrong):
    inputs = [Tensor(xp.ones((3, 4)))] if which == "cross_entropy" else [Tensor(xp.ones((3, 2))), xp.ones((4, 2))]
    with pytest.raises(IndexError, match=rf"target {wrong} is out of range: there are 4, numbered 0 to 3"):
        getattr(F, which)(*inputs, np.array([-100, wrong, 0]))


@pytest.mark.parametrize("which", ["cross_entropy", "linear_cross_entropy"])
def test_targets_that_make_no_sense_are_refused(xp, which):
    inputs = [Tensor(xp.ones((3, 4)))] if which == "cross_entropy" else [Tensor(xp.ones((3, 2))), xp.ones((4, 2))]
    loss = getattr(F, which)
    with pytest.raises(ValueError, match=r"targets of shape \(2,\) do not fit rows of shape \(3,\)"):
        loss(*inputs, [0, 1])
    with pytest.raises(TypeError, match="targets must be integers, not float64"):
        loss(*inputs, [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="every target is -7, the value that is ignored"):
        loss(*inputs, [-7, -7, -7], -7)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_cross_entropy_like_torch(xp, rng, dtype, ignore_index):
    import torch

    targets = rng.integers(0, 50, (2, 9))
    targets[0, [0, 4, 5]] = ignore_index

    def ours(logits):
        return F.cross_entropy(logits, xp.asarray(targets), ignore_index)

    def theirs(logits):
        flat = logits.flatten(0, 1), torch.tensor(targets).flatten()
        return torch.nn.functional.cross_entropy(*flat, ignore_index=ignore_index)

    compare_with_torch(ours, theirs, [rng.standard_normal((2, 9, 50)) * 3], xp, dtype)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_cross_entropy_like_torch(xp, rng, dtype):
    import torch

    targets = rng.integers(0, 50, 18)
    targets[3:6] = -100
    compare_with_torch(
        lambda x, weight: F.linear_cross_entropy(x, weight, xp.asarray(targets)),
        lambda x, weight: torch.nn.functional.cross_entropy(x @ weight.T, torch.tensor(targets)),
        [rng.standard_normal((18, 16)), rng.standard_normal((50, 16))],
        xp,
        dtype,
    )
