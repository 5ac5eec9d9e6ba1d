"""Several processor cores: the batch in shards, one thread for each.

NumPy's products use all cores by themselves, everything else uses one. With a thread for each shard all of the work
is shared out, and each product, on one core, is done on rows that are still in that core's cache. It is data
parallelism inside one process: every shard computes the gradient of its own rows, and the gradients are added up.
"""

import functools
import os
import threading
from contextlib import nullcontext
from contextvars import copy_context

from ..extras import MissingPackageError, require
from .random import generator, random_seed
from .temporarily import temporarily
from .tensor import Tensor, collect_gradients, is_grad_enabled, no_grad, record

LEAST_TOKENS = 64  # tokens in a shard: with fewer, handing the work over costs more than it saves


_one_at_a_time = threading.Lock()  # the number of cores for products is the whole process's


class _Limit(threading.local):
    threads = None


_limit = _Limit()


def num_threads():
    """How many shards a batch may be cut into: as `limit_threads` says, else LORA_NP_NUM_THREADS, else one per core."""
    if _limit.threads is not None:
        return _limit.threads
    asked = os.environ.get("LORA_NP_NUM_THREADS")
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"LORA_NP_NUM_THREADS must be a positive integer, got {asked!r}")
    return int(asked)


def limit_threads(threads):
    """Inside this block, this thread's batches are cut into at most so many shards; 1 turns sharding off."""
    return temporarily(_limit, threads=threads)


def shard_count(batch, length):
    """How many shards a batch (B, T) is worth: one for each core, or 1, which means none.

    With fewer sequences than cores a shard would leave cores without work; then the products' own threads do better.
    Without threadpoolctl there are no shards: the products of all of them would fight for the cores.
    """
    threads = num_threads()
    worth_it = batch >= threads and (batch // threads) * length >= LEAST_TOKENS
    return threads if worth_it and _blas() is not None else 1


def run_in_threads(functions):
    """The results of these functions, each run in a thread of its own, with its products on one core.

    The threads take over whether gradients are recorded, and the context variables of this one. If one fails, its error
    is raised once all have ended.
    """
    recording = is_grad_enabled()

    def run(function):
        with limit_threads(1), nullcontext() if recording else no_grad():
            return function()

    with _one_at_a_time, _one_core_per_product():
        futures = [_pool(len(functions)).submit(copy_context().run, run, function) for function in functions[1:]]
        results = [_outcome(functools.partial(run, functions[0])), *(_outcome(future.result) for future in futures)]
    for _, error in results:
        if error is not None:
            raise error
    return [result for result, _ in results]


def _outcome(call):
    try:
        return call(), None
    except Exception as error:
        return None, error


def seeded(functions):
    """These functions, each drawing its random numbers from a seed of its own that this thread's generator gives."""
    seeds = generator().integers(2**63, size=len(functions)).tolist()

    def with_seed(seed, function):
        def run():
            with random_seed(seed):
                return function()

        return run

    return [with_seed(seed, function) for seed, function in zip(seeds, functions, strict=True)]


def weighted_sum(losses, weights, parameters):
    r"""L = Σ wᵢ Lᵢ, where each loss Lᵢ has a graph of its own, and backward runs these at the same time.

    losses: Tensors of one number; weights: Python numbers; parameters: the leaves that want a gradient.
    dp = Σ (wᵢ dL) dLᵢ/dp, added up in the order of the shards, so that the result is the same every time.
    """
    parameters = [p for p in parameters if p.requires_grad]

    def gradients_of(loss, weight, dy):
        found = collect_gradients(loss, dy * weight) if loss.requires_grad else {}
        return [found.get(id(p)) for p in parameters]

    def backward(dy):
        work = [functools.partial(gradients_of, loss, w, dy) for loss, w in zip(losses, weights, strict=True)]
        return tuple(_total(parts) for parts in zip(*run_in_threads(work), strict=True))

    total = sum(w * loss.data for loss, w in zip(losses, weights, strict=True))
    return record(total, tuple(parameters), backward) if is_grad_enabled() else Tensor(total)


def _total(parts):
    """The sum of the gradients that are there, None if none is."""
    found = [part for part in parts if part is not None]
    total = found[0] if found else None
    for part in found[1:]:
        total = total + part
    return total


@functools.cache
def _pool(threads):
    from concurrent.futures import ThreadPoolExecutor  # here, as it brings logging and more, which nothing else needs

    return ThreadPoolExecutor(threads - 1, thread_name_prefix="lora_np")


@functools.cache
def _blas():
    """What can tell NumPy's linear algebra how many threads to use, or None if threadpoolctl is not installed."""
    try:
        return require("threadpoolctl", "a batch in shards", "threads").ThreadpoolController()
    except MissingPackageError:
        return None


def _one_core_per_product():
    """Inside this block, a matrix product does not use threads of its own, if threadpoolctl is there to see to it."""
    blas = _blas()
    return nullcontext() if blas is None else blas.limit(limits=1, user_api="blas")
