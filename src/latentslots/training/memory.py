"""What training asks of the operating system's memory."""

import ctypes
import sys

# From glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Keep freed memory in the process instead of handing it back to the kernel.

    A step on a CPU frees and asks again for gigabytes of activations, and every page that comes
    back from the kernel costs a fault (benchmarks/train_step.py). Memory in use does not grow.

    Returns:
        Whether the C library could be told: glibc can, others cannot.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
