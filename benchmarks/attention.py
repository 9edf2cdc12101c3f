"""Time attention in bf16 on a CPU, forward and backward: torch's fused and plain kernels.

    OMP_NUM_THREADS=1 python benchmarks/attention.py [--repeats 10]

Shapes are those of the denoisers of `lsd-scenes-64` and `lsd-movi-e`: queries are
`[B, heads, N, width]`, keys and values `[B, heads, S, width]`. Both kernels run in one process, in
turn.
"""

import argparse
import time

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = {
    "lsd-scenes-64, 8 x 8 tokens to themselves": (24, 4, 64, 64, 24),
    "lsd-scenes-64, 8 x 8 tokens to 7 slots": (24, 4, 64, 7, 24),
    "lsd-movi-e, 32 x 32 tokens to themselves": (2, 24, 1024, 1024, 8),
    "lsd-movi-e, 32 x 32 tokens to 24 slots": (2, 24, 1024, 24, 8),
    "lsd-movi-e, 16 x 16 tokens to themselves": (2, 24, 256, 256, 16),
}
KERNELS = {"fused": SDPBackend.FLASH_ATTENTION, "plain": SDPBackend.MATH}


def seconds(shape: tuple[int, ...], dtype: torch.dtype, kernel: SDPBackend) -> float:
    """Time one forward and backward pass."""
    batch, heads, tokens, sources, width = shape
    query, key, value = (
        torch.randn(batch, heads, n, width, dtype=dtype, requires_grad=True)
        for n in (tokens, sources, sources)
    )
    start = time.perf_counter()
    with sdpa_kernel(kernel):
        F.scaled_dot_product_attention(query, key, value).sum().backward()
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    print(f"{'milliseconds':44}  bf16 fused  bf16 plain  fp32 fused  fp32 plain  bf16 fused/plain")
    for name, shape in SHAPES.items():
        times = {}
        for dtype in (torch.bfloat16, torch.float32):
            for kernel in KERNELS.values():
                runs = [seconds(shape, dtype, kernel) for _ in range(options.repeats + 1)]
                times[dtype, kernel] = 1000 * min(runs)
        fused, plain = (times[torch.bfloat16, kernel] for kernel in KERNELS.values())
        shown = "".join(f"{t:12.2f}" for t in times.values())
        print(f"{name:44}{shown}{fused / plain:18.2f}")


if __name__ == "__main__":
    main()
