"""What differs between devices: memory, double precision, random states."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NO_DOUBLES = ("mps",)
"""Kinds of devices without double precision."""

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


def in_double(tensor: "Tensor") -> "Tensor":
    """Return a tensor in double precision, on the CPU if its device has none (MPS)."""
    return (tensor.cpu() if tensor.device.type in NO_DOUBLES else tensor).double()


@contextmanager
def forked_random(device: "torch.device") -> Iterator[None]:
    """Restore the random state of the CPU and of a device after the `with` block."""
    import torch

    on_mps = device.type == "mps"
    before = torch.mps.get_rng_state() if on_mps else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            if before is not None:
                torch.mps.set_rng_state(before)


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
