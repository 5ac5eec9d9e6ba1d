"""Where NumPy's large arrays get their memory from: blocks that were freed before, instead of new ones."""

import ctypes


def keep_freed_memory():
    """Ask glibc to keep freed blocks for reuse instead of returning them to the system; True if it agrees.

    A training step frees and asks for the same large arrays over and over. Each time they come as new pages, which
    the system must clear first. The process then holds its peak memory until it ends. Without glibc, nothing happens.
    """
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    largest_map = any(mallopt(M_MMAP_THRESHOLD, size) for size in (2**30, 2**25))  # older versions allow 32 MiB
    return largest_map and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
