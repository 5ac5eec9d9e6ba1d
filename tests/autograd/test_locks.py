"""A lock that a forked process finds open."""

import multiprocessing
import sys
import threading

import pytest

from lora_np.autograd.locks import forkable_lock


def test_a_thread_may_take_it_twice_and_another_one_not():
    lock, taken = forkable_lock(), []
    with lock, lock:
        other = threading.Thread(target=lambda: taken.append(lock.acquire(blocking=False)))
        other.start()
        other.join()
    assert taken == [False]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.parametrize("holder", ["another thread", "this thread"])
def test_a_fork_finds_it_open(holder):
    lock, held, go_on = forkable_lock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            go_on.wait(0.3)

    thread = threading.Thread(target=hold)
    if holder == "another thread":
        thread.start()
        held.wait(30)
    else:
        lock.acquire()

    def work():  # by the thread that forked, and so by the one that has the lock if that is this one
        with lock:
            sys.exit(7)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 7
    if holder == "another thread":
        thread.join()
    else:
        lock.release()
    assert lock.acquire(timeout=30)
    lock.release()
