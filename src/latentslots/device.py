"""Move models to a device, and keep freed memory on CPUs."""

import ctypes
import sys
from typing import Any, Protocol, TypeVar, runtime_checkable

# From glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Keep freed memory in the process instead of returning it to the kernel.

    A training step on a CPU frees and allocates gigabytes of activations, and so does encoding
    batches of images; every page that the kernel provides again costs a page fault
    (benchmarks/train_step.py, painting.py, probes.py). Peak memory does not grow.

    Returns:
        Whether the C library supports it: only glibc does.
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
    """Move a model to the GPU; without a GPU, keep the freed memory of the process."""
    import torch  # here, so that keeping memory does not require it

    if torch.cuda.is_available():
        model.to("cuda")
    else:
        keep_freed_memory()
    return model
