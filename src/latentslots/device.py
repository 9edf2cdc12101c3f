"""Where a model runs, and what it asks of the operating system's memory there."""

import ctypes
import sys
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

# From glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Keep freed memory in the process instead of handing it back to the kernel.

    A training step on a CPU frees and asks again for gigabytes of activations, and so do batches
    of images that are encoded; every page that comes back from the kernel costs a fault
    (benchmarks/train_step.py, painting.py, probes.py). Memory in use does not grow.

    Returns:
        Whether the C library could be told: glibc can, others cannot.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


@runtime_checkable
class _Movable(Protocol):
    def to(self, *args: Any, **kwargs: Any) -> Any: ...


AnyMovable = TypeVar("AnyMovable", bound=_Movable)


def to_device(model: AnyMovable) -> AnyMovable:
    """Move a pipeline to the GPU; where there is none, let the process keep its freed memory."""
    if torch.cuda.is_available():
        model.to("cuda")
    else:
        keep_freed_memory()
    return model
