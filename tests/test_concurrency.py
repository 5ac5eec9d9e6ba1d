"""One model used by several threads while one trains, and by forked and spawned processes."""

import multiprocessing
import os
import random
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from concurrency_helpers import STEPS, in_shards, losses, same, shared_model, uses
from lora_helpers import peft_model, some_ids

from lora_np.autograd import Tensor, is_grad_enabled, threads

SECONDS = float(os.environ.get("LORA_NP_THREAD_SECONDS", "6"))  # for all of the cases of the long test together
READERS = 6
FORKS = "fork" in multiprocessing.get_all_start_methods()


@pytest.fixture
def busy_switching():
    """Python goes from one thread to the next as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def sharding(monkeypatch):
    """Batches that are never too small to be cut in two."""
    monkeypatch.setenv("LORA_NP_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "LEAST_TOKENS", 1)


@pytest.mark.usefixtures("busy_switching")
@pytest.mark.parametrize("shards", ["1", "2"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_every_thread_gets_what_it_would_get_alone(checkpointing, family, shards, sharding, monkeypatch):
    monkeypatch.setenv("LORA_NP_NUM_THREADS", shards)
    model = shared_model(family, checkpointing)
    training = losses(model)
    expected_losses = [next(training) for _ in range(STEPS)]
    expected = {name: use() for name, use in uses(model).items()}
    settings = [(name, part.training) for name, part in model.named_modules()]
    end, counts = time.monotonic() + SECONDS / 8, {}

    def read(number):
        chance, mine = random.Random(number), uses(model)
        while time.monotonic() < end:
            name = chance.choice(list(mine))
            assert same(mine[name](), expected[name]), name
            assert is_grad_enabled()
            counts[name] = counts.get(name, 0) + 1

    def train():
        step = 0
        while time.monotonic() < end or step < 2:
            assert next(training) == expected_losses[step % STEPS], step
            step += 1

    with ThreadPoolExecutor(READERS + 1) as pool:
        for outcome in [pool.submit(train), *(pool.submit(read, number) for number in range(READERS))]:
            outcome.result(SECONDS + 120)
    assert settings == [(name, part.training) for name, part in model.named_modules()]
    assert not model.base_model.is_disabled
    assert sum(counts.values()) >= READERS
    assert all(same(use(), expected[name]) for name, use in uses(model).items())


@pytest.mark.usefixtures("busy_switching", "sharding")
@pytest.mark.parametrize("shards", [1, 2])
def test_no_gradient_is_lost_where_several_threads_go_back_to_the_same_weights(shards):
    model = peft_model()
    ids = some_ids(model.config, batch=4)

    def work(_):
        with threads.limit_threads(shards):
            model(input_ids=ids, labels=ids).loss.backward()

    work(0)
    alone = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for _ in range(10):
        model.zero_grad()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(8)))
        for name, p in model.named_parameters():
            if name in alone:  # eight times the same array: exact, in any order
                expected = np.sum([alone[name]] * 8, axis=0, dtype=alone[name].dtype)
                np.testing.assert_allclose(p.grad, expected, rtol=1e-6, err_msg=name)


@pytest.mark.usefixtures("busy_switching")
def test_threads_that_meet_at_a_new_leaf_make_one_graph_entry():
    everybody = threading.Barrier(4)

    def work(leaf):
        everybody.wait()
        return leaf.node()

    with ThreadPoolExecutor(4) as pool:
        for _ in range(200):
            leaf = Tensor(np.ones(1), requires_grad=True)
            assert len(set(pool.map(work, [leaf] * 4))) == 1


@pytest.mark.usefixtures("sharding")
def test_shards_within_shards_do_not_wait_for_each_other():
    model = peft_model()
    ids = some_ids(model.config, batch=4)
    first, second = (model(input_ids=ids, labels=ids).loss for _ in range(2))
    trained = [p for p in model.parameters() if p.requires_grad]
    both = threads.weighted_sum([first, second], [0.5, 0.5])
    worker = threading.Thread(target=both.backward, daemon=True)
    worker.start()
    worker.join(60)
    assert not worker.is_alive()
    found = [p.grad for p in trained]
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    for p, g in zip(trained, found, strict=True):
        np.testing.assert_allclose(g, p.grad, rtol=1e-5)


def run(method, function, *arguments, seconds=90):
    """What a function returns in a new process; it fails, and the process is ended, if that takes too long."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments), daemon=True)
    process.start()
    try:
        assert ours.poll(seconds), f"the {method}ed process does not answer"
        return ours.recv()
    finally:
        process.kill()
        process.join()


def _answer(pipe, function, arguments):
    pipe.send(function(*arguments))


METHODS = [
    pytest.param("fork", marks=pytest.mark.skipif(not FORKS, reason="this system has no fork")),
    "spawn",
]


@pytest.mark.usefixtures("sharding")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("method", METHODS)
def test_a_process_begun_after_use_computes_the_same(method, checkpointing):
    model = shared_model("gpt2", checkpointing)
    expected = in_shards(model)
    assert same(run(method, in_shards, model), expected)
    assert same(in_shards(model), expected)


@pytest.mark.usefixtures("sharding")
@pytest.mark.parametrize("method", METHODS)
def test_a_pool_of_processes_begun_after_use(method):
    model = shared_model("llama")
    expected = in_shards(model)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        found = [outcome.result(90) for outcome in [pool.submit(in_shards, model) for _ in range(3)]]
    assert all(same(result, expected) for result in found)


@pytest.mark.skipif(not FORKS, reason="this system has no fork")
@pytest.mark.usefixtures("sharding", "busy_switching")
def test_a_fork_while_other_threads_compute():
    """Whatever the others hold at that moment, a lock or the cores, the child has it free."""
    model, end = shared_model("gpt2"), threading.Event()
    other = shared_model("gpt2")
    expected = in_shards(model)

    def work():
        while not end.is_set():
            in_shards(other)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(8):
            assert same(run("fork", in_shards, model), expected)
    finally:
        end.set()
        for worker in workers:
            worker.join(60)


@pytest.mark.skipif(not FORKS, reason="this system has no fork")
def test_a_fork_inside_a_shard_gives_the_products_their_cores_back():
    from threadpoolctl import ThreadpoolController

    def cores():
        return [lib["num_threads"] for lib in ThreadpoolController().select(user_api="blas").info()]

    before, inside, started = cores(), threading.Event(), threading.Event()

    def wait():
        started.set()
        inside.wait(60)

    worker = threading.Thread(target=threads.run_in_threads, args=([wait, wait],))
    worker.start()
    try:
        assert started.wait(60)
        assert run("fork", cores) == before
        assert run("fork", threads.run_in_threads, [cores, cores]) == [[1] * len(before)] * 2
    finally:
        inside.set()
        worker.join(60)
