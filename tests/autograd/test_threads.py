"""Shards in threads: the same numbers as one thread, errors that come through, chance that follows from the seed."""

import sys
import threading

import numpy as np
import pytest
from helpers import assert_close
from lora_helpers import peft_model, relative, some_ids, tiny_model

from lora_np import manual_seed, nn, no_grad
from lora_np.autograd import Tensor, is_grad_enabled, threads
from lora_np.autograd.random import generator


@pytest.fixture
def two_threads(monkeypatch):
    """A machine with two cores, and batches that are never too small for them."""
    monkeypatch.setenv("LORA_NP_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "LEAST_TOKENS", 1)


def loss_and_gradients(model, **batch):
    model.zero_grad()
    out = model(**batch)
    out.loss.backward()
    return out.loss.item(), {name: p.grad for name, p in model.named_parameters()}


def assert_same_as_one_thread(model, **batch):
    """Loss and every gradient, with shards and without; returns how many threads took part."""
    seen = set()
    forward = type(model).forward

    def watched(self, *args, **kwargs):
        seen.add(threading.get_ident())
        return forward(self, *args, **kwargs)

    type(model).forward = watched
    try:
        found_loss, found = loss_and_gradients(model, **batch)
        with threads.limit_threads(1):
            loss, gradients = loss_and_gradients(model, **batch)
    finally:
        type(model).forward = forward
    assert abs(found_loss - loss) < 1e-6
    for name, gradient in gradients.items():
        assert (gradient is None) == (found[name] is None), name
        if gradient is not None:
            assert relative(found[name], gradient) < 1e-5, name
    return len(seen)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch", [2, 3, 5])
def test_a_model_in_shards_is_the_model(batch):
    model = tiny_model()
    ids = some_ids(model.config, batch=batch)
    assert assert_same_as_one_thread(model, input_ids=ids, labels=ids) == 2


@pytest.mark.usefixtures("two_threads")
def test_shards_with_different_numbers_of_targets_are_weighed():
    model = tiny_model()
    ids = some_ids(model.config, batch=4)
    labels = ids.copy()
    labels[0], labels[1, :7], labels[2, 4:] = -100, -100, -100
    assert_same_as_one_thread(model, input_ids=ids, labels=labels)


@pytest.mark.usefixtures("two_threads")
def test_a_shard_without_a_target_is_no_shard():
    model = tiny_model()
    ids = some_ids(model.config, batch=2)
    labels = ids.copy()
    labels[1] = -100
    assert assert_same_as_one_thread(model, input_ids=ids, labels=labels) == 1


@pytest.mark.usefixtures("two_threads")
def test_masks_and_positions_go_with_their_rows():
    model = tiny_model()
    ids = some_ids(model.config, batch=4)
    mask = np.ones(ids.shape, int)
    mask[1, :3], mask[3, :5] = 0, 0
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    labels = np.where(mask == 1, ids, -100)
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask, "position_ids": positions}
    assert assert_same_as_one_thread(model, **batch) == 2
    assert assert_same_as_one_thread(model, **{**batch, "position_ids": np.arange(ids.shape[1])}) == 2


@pytest.mark.usefixtures("two_threads")
def test_only_what_is_trained_gets_a_gradient():
    model = peft_model()
    ids = some_ids(model.config, batch=4)
    _, gradients = loss_and_gradients(model, input_ids=ids, labels=ids)
    assert {name for name, g in gradients.items() if g is not None} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    with threads.limit_threads(1):
        _, expected = loss_and_gradients(model, input_ids=ids, labels=ids)
    assert all(relative(gradients[name], g) < 1e-5 for name, g in expected.items() if g is not None)


@pytest.mark.usefixtures("two_threads")
def test_adapters_named_row_by_row_are_not_mixed_up():
    model = peft_model()
    ids = some_ids(model.config, batch=4)
    names = ["default", "__base__", "__base__", "default"]
    found = model(input_ids=ids, labels=ids, adapter_names=names).loss.item()
    alone = []
    for row, name in zip(ids, names, strict=True):
        with threads.limit_threads(1):
            alone.append(model(input_ids=row[None], labels=row[None], adapter_names=[name]).loss.item())
    assert abs(found - np.mean(alone)) < 1e-6


@pytest.mark.usefixtures("two_threads")
def test_logits_are_there_in_order_and_have_gradients():
    model = tiny_model()
    ids = some_ids(model.config, batch=3)
    logits = model(input_ids=ids, labels=ids).logits
    assert_close(logits, model(input_ids=ids).logits.data, rtol=1e-4, atol=1e-5)
    logits.sum().backward()
    found = model.transformer.wte.weight.grad
    model.zero_grad()
    model(input_ids=ids).logits.sum().backward()
    assert relative(found, model.transformer.wte.weight.grad) < 1e-4


@pytest.mark.usefixtures("two_threads")
def test_dropout_in_shards_follows_from_the_seed():
    model = tiny_model(resid_pdrop=0.3, embd_pdrop=0.2, attn_pdrop=0.1).train()
    ids = some_ids(model.config, batch=4)
    runs = []
    for seed in (1, 1, 2):
        manual_seed(seed)
        runs.append([loss_and_gradients(model, input_ids=ids, labels=ids)[0] for _ in range(2)])
    assert runs[0] == runs[1]
    assert len({*runs[0], *runs[2]}) == 4


@pytest.mark.usefixtures("two_threads")
def test_inside_no_grad_nothing_is_recorded():
    model = tiny_model()
    ids = some_ids(model.config, batch=4)
    with no_grad():
        loss = model(input_ids=ids, labels=ids).loss
    assert not loss.requires_grad
    with threads.limit_threads(1):
        assert abs(loss.item() - model(input_ids=ids, labels=ids).loss.item()) < 1e-6


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_shard_comes_through():
    def wrong():
        raise KeyError("in the second")

    with pytest.raises(KeyError, match="in the second"):
        threads.run_in_threads([lambda: 1, wrong])
    with pytest.raises(KeyError, match="in the second"):
        threads.run_in_threads([wrong, lambda: 1])
    assert threads.run_in_threads([lambda: 1, lambda: 2]) == [1, 2]


def test_threads_take_over_whether_gradients_are_recorded():
    assert threads.run_in_threads([is_grad_enabled] * 3) == [True] * 3
    with no_grad():
        assert threads.run_in_threads([is_grad_enabled] * 3) == [False] * 3
    assert threads.run_in_threads([is_grad_enabled] * 3) == [True] * 3


def test_products_use_one_core_inside_and_all_of_them_after():
    from threadpoolctl import ThreadpoolController

    def used():
        return [lib["num_threads"] for lib in ThreadpoolController().select(user_api="blas").info()]

    before = used()
    assert threads.run_in_threads([used, used]) == [[1] * len(before)] * 2
    assert used() == before


def test_seeds_come_from_the_calling_threads_generator():
    def draw():
        return generator().random()

    manual_seed(5)
    first = threads.run_in_threads(threads.seeded([draw, draw]))
    manual_seed(5)
    assert threads.run_in_threads(threads.seeded([draw, draw])) == first
    assert first[0] != first[1]


def test_a_weighted_sum_of_losses():
    x, y = Tensor(np.array([2.0, 3.0]), requires_grad=True), Tensor(np.array([5.0]), requires_grad=True)
    loss = threads.weighted_sum([(x * x).sum(), (x * y).sum()], [0.5, 2.0])
    assert loss.item() == 0.5 * 13 + 2 * 25
    loss.backward(np.array(3.0))
    assert_close(x.grad, 3 * (0.5 * 2 * np.array([2.0, 3.0]) + 2 * 5))
    assert_close(y.grad, 3 * 2 * np.array([5.0]))


@pytest.mark.parametrize(
    ("batch", "length", "cores", "shards"), [(4, 64, 2, 2), (1, 999, 2, 1), (4, 31, 2, 1), (4, 64, 8, 1), (9, 64, 8, 8)]
)
def test_how_many_shards(monkeypatch, batch, length, cores, shards):
    monkeypatch.setenv("LORA_NP_NUM_THREADS", str(cores))
    assert threads.shard_count(batch, length) == shards


@pytest.fixture
def no_threadpoolctl(monkeypatch):
    """A machine on which nothing can keep a product to one core."""
    threads._blas.cache_clear()
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    yield
    threads._blas.cache_clear()


@pytest.mark.usefixtures("two_threads", "no_threadpoolctl")
def test_without_threadpoolctl_a_batch_is_not_cut_and_nothing_fails():
    assert threads.shard_count(4, 64) == 1
    model = tiny_model()
    ids = some_ids(model.config, batch=4)
    assert assert_same_as_one_thread(model, input_ids=ids, labels=ids) == 1
    assert threads.run_in_threads([lambda: 1, lambda: 2]) == [1, 2]


@pytest.mark.usefixtures("two_threads")
def test_where_no_thread_starts_the_batch_stays_whole_and_work_is_done_in_turn(monkeypatch):
    """As in a browser: `threading` is there, and starts nothing."""

    def refuse(*_args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "_start_new_thread", refuse)
    monkeypatch.setattr(threading, "_start_joinable_thread", refuse, raising=False)  # Python 3.13
    monkeypatch.setattr(threads, "CAN_START", False)
    monkeypatch.setattr(threads._process, "pools", {})
    assert threads.num_threads() == threads.shard_count(4, 64) == 1
    assert threads.run_in_threads([threading.get_ident] * 3) == [threading.get_ident()] * 3
    model = tiny_model()
    ids = some_ids(model.config, batch=4)
    assert assert_same_as_one_thread(model, input_ids=ids, labels=ids) == 1


@pytest.mark.parametrize("value", ["0", "-1", "two", ""])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("LORA_NP_NUM_THREADS", value)
    with pytest.raises(ValueError, match=f"LORA_NP_NUM_THREADS must be a positive integer, got {value!r}"):
        threads.num_threads()


def test_the_limit_holds_in_its_block_only(monkeypatch):
    monkeypatch.setenv("LORA_NP_NUM_THREADS", "6")
    with threads.limit_threads(3):
        assert threads.num_threads() == 3
    assert threads.num_threads() == 6


@pytest.mark.usefixtures("two_threads")
def test_a_parameter_that_the_forward_pass_does_not_use_gets_no_gradient():
    model = tiny_model()
    model.unused = nn.Parameter(np.ones(3, np.float32))
    ids = some_ids(model.config, batch=4)
    assert assert_same_as_one_thread(model, input_ids=ids, labels=ids) == 2
    assert model.unused.grad is None
    assert model.lm_head.weight.grad is not None
