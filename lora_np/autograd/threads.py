"""Several processor cores: the batch in shards, one thread for each.

NumPy's products use all cores by themselves, everything else uses one. With a thread for each shard all of the work
is shared out, and each product, on one core, is done on rows that are still in that core's cache. It is data
parallelism inside one process: every shard computes the gradient of its own rows, and the gradients are added up.
"""

import functools
import os
import sys
import threading
from contextlib import contextmanager, nullcontext
from contextvars import copy_context

from ..extras import MissingPackageError, require
from .random import generator, random_seed
from .temporarily import temporarily
from .tensor import collect_gradients, is_grad_enabled, no_grad, reachable, record

CAN_START = sys.platform not in ("emscripten", "wasi")  # in a browser there is one thread, and no other starts
LEAST_TOKENS = 64  # tokens in a shard: with fewer, handing the work over costs more than it saves


class _Process:
    """What belongs to the whole process: the threads for shards, and how many cores a product may use.

    one_at_a_time   a lock, as the number of cores is the same for all threads
    limiter         what gives the products their cores back, while shards are running; else None
    pools           {number of shards: the threads for all but one of them}
    """

    def __init__(self):
        self.one_at_a_time, self.limiter, self.pools = threading.Lock(), None, {}

    def begin_in_fork(self):
        """In a forked process only the thread that forked goes on: no other holds the lock or will give cores back."""
        if self.limiter is not None:
            self.limiter.restore_original_limits()
        self.__init__()

    def pool(self, shards):
        from concurrent.futures import ThreadPoolExecutor  # here: it brings logging and more, which nothing else needs

        if shards not in self.pools:
            self.pools[shards] = ThreadPoolExecutor(shards - 1, thread_name_prefix="lora_np")
        return self.pools[shards]


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.begin_in_fork)


class _Limit(threading.local):
    threads = None


_limit = _Limit()


def num_threads():
    """How many shards a batch may be cut into: as `limit_threads` says, else LORA_NP_NUM_THREADS, else one per core.

    Where no thread can be started it is 1.
    """
    if not CAN_START:
        return 1
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
    is raised once all have ended. Of several threads that call this at once, one is served after the other; where this
    thread may not have more (`limit_threads(1)`, as inside a shard), or none can start, the functions run one after the
    other too.
    """
    recording = is_grad_enabled()

    def run(function):
        with limit_threads(1), nullcontext() if recording else no_grad():
            return function()

    if _limit.threads == 1 or len(functions) == 1 or not CAN_START:
        results = [_outcome(functools.partial(run, function)) for function in functions]
    else:
        with _one_core_per_product():
            pool = _process.pool(len(functions))
            futures = [pool.submit(copy_context().run, run, function) for function in functions[1:]]
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


def weighted_sum(losses, weights):
    r"""L = Σ wᵢ Lᵢ, where each loss Lᵢ has a graph of its own, and backward runs these at the same time.

    losses: Tensors of one number; weights: Python numbers. p are the leaves of the graphs, whatever module has them.
    dp = Σ (wᵢ dL) dLᵢ/dp, added up in the order of the shards, so that the result is the same every time.
    """
    recorded = [loss for loss in losses if loss.requires_grad and is_grad_enabled()]
    leaves = (node.leaf() for loss in recorded for node in reachable(loss.node()) if node.leaf)
    parameters = list({id(leaf): leaf for leaf in leaves if leaf is not None}.values())

    def gradients_of(loss, weight, dy):
        found = collect_gradients(loss, dy * weight) if loss.requires_grad else {}
        return [found.get(id(p)) for p in parameters]

    def backward(dy):
        work = [functools.partial(gradients_of, loss, w, dy) for loss, w in zip(losses, weights, strict=True)]
        return tuple(_total(parts) for parts in zip(*run_in_threads(work), strict=True))

    total = sum(w * loss.data for loss, w in zip(losses, weights, strict=True))
    return record(total, tuple(parameters), backward)


def _total(parts):
    """The sum of the gradients that are there, None if none is."""
    found = [part for part in parts if part is not None]
    total = found[0] if found else None
    for part in found[1:]:
        total = total + part
    return total


@functools.cache
def _blas():
    """What can tell NumPy's linear algebra how many threads to use, or None if threadpoolctl is not installed."""
    try:
        return require("threadpoolctl", "a batch in shards", "threads").ThreadpoolController()
    except MissingPackageError:
        return None


@contextmanager
def _one_core_per_product():
    """Inside this block, a matrix product does not use threads of its own, if threadpoolctl is there to see to it.

    Only one thread at a time can be inside.
    """
    blas = _blas()
    with _process.one_at_a_time, nullcontext() if blas is None else blas.limit(limits=1, user_api="blas") as limiter:
        _process.limiter = limiter
        try:
            yield
        finally:
            _process.limiter = None
