"""The GPUs of this machine, as `torch.cuda` says it: `lora_np.cuda`."""

import multiprocessing

from .devices import load_cupy


def is_available():
    """Is there an NVIDIA GPU, and CuPy to use it?"""
    return device_count() > 0


def device_count():
    """How many GPUs can be used: 0 without CuPy."""
    try:
        return load_cupy().cuda.runtime.getDeviceCount()
    except RuntimeError:
        return 0


def is_bf16_supported(including_emulation=True):
    """Is there a GPU on which models can be in bfloat16? (Older ones compute with it, too, by other instructions.)"""
    return is_available()


def empty_cache():
    """Give memory that is kept for later arrays back to the GPU."""
    if is_available():
        load_cupy().get_default_memory_pool().free_all_blocks()


def synchronize():
    """Wait until the GPU has done all that it was given; without one there is nothing to wait for."""
    if is_available():
        load_cupy().cuda.Device().synchronize()


def connected(rank, size, port):
    """NCCL's group of `size` processes on this machine; this one, number `rank`, uses the GPU of that number from now.

    Waits for the others, which meet at the same port.
    """
    load_cupy().cuda.Device(rank).use()
    import cupyx.distributed

    before = multiprocessing.active_children()
    try:
        return cupyx.distributed.init_process_group(size, rank, host="127.0.0.1", port=port)
    finally:
        # CuPy's process at that port has done its work. It would stay until the group is forgotten, and Python, at its
        # end, waits for such a process: for ever, where the group is still known then.
        for server in set(multiprocessing.active_children()) - set(before):
            server.kill()
            server.join()
