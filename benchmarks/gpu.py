"""Training steps and painting on a GPU: fp32 and bf16, eager and compiled, in one run.

    python benchmarks/gpu.py [--recipes NAME ...] [--json FILE]

A step is that of `latentslots train` with cached latents: forward, backward, clipping, fused AdamW.
Painting is 25 steps of the default sampler, without decoding the latents. FLOP are torch's count of
the matrix products, convolutions and attention of a step; calls are all torch operations of an
eager step, whose launches may take the CPU longer than their execution takes the GPU. The rate of
the machine is that of a product of two matrices of 8192 x 8192, in fp32 (without TF32) and in bf16.
Run it alone on the machine.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from latentslots.build.methods import build_lsd_around
from latentslots.config import LSDConfig, TrainConfig
from latentslots.models.autoencoder import load_vae
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.recipes import recipe
from latentslots.training.optim import build_optimizer
from train_step import stable_diffusion_vae

WARMUP_STEPS = 3
WAYS = (("fp32", False), ("bf16", False), ("bf16", True))
RECIPES = ("lsd-scenes-64", "lsd-scenes-128", "lsd-movi-e")
NUM_PAINTED, SAMPLER_STEPS = 64, 25


class Calls(TorchDispatchMode):
    """Count torch operations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the operation and execute it."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def build(config: TrainConfig) -> LatentSlotDiffusionObjective:
    """Build a recipe's objective, with random weights for Stable Diffusion's autoencoder."""
    method = config.method
    assert isinstance(method, LSDConfig)
    torch.manual_seed(0)
    vae = load_vae(method.vae) if method.vae == "bundled" else stable_diffusion_vae()
    return build_lsd_around(method, config.data.resolution, vae)


def train_steps(
    config: TrainConfig, device: str, precision: str, *, compiled: bool, steps: int
) -> dict[str, float]:
    """Measure the seconds, counts and memory of one training step."""
    objective = build(config).to(device).train()
    objective.to(memory_format=torch.channels_last)
    size, resolution = config.train_batch_size, config.data.resolution
    pixels = torch.rand(size, 3, resolution, resolution, device=device) * 2 - 1
    with torch.no_grad():
        mean = objective.vae.encode(pixels[:1]).latent_dist.mean
    batch = {
        "pixel_values": pixels.contiguous(memory_format=torch.channels_last),
        "latent_mean": torch.randn(size, *mean.shape[1:], device=device),
        "latent_std": torch.rand(size, *mean.shape[1:], device=device),
    }
    optimizer = build_optimizer(objective, config.optim)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = objective(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.trained_parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step()
    with Calls() as calls:
        step()
    if compiled:
        for part in objective.compiled():
            part.compile()
    measured = timed(step, device, steps)
    counts = {"flop": float(counter.get_total_flops()), "calls": calls.count}
    return {**measured, **counts, "items": size}


def paint(
    config: TrainConfig, device: str, precision: str, *, compiled: bool, steps: int
) -> dict[str, float]:
    """Measure the seconds and memory of painting a batch of latents."""
    pipe = build(config).eval().to_pipeline().to(device)
    pipe.set_progress_bar_config(disable=True)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pipe.to(dtype)
    method = config.method
    slots = torch.randn(NUM_PAINTED, method.num_slots, method.slot_dim, device=device, dtype=dtype)
    if compiled:
        pipe.unet.compile()

    def step() -> None:
        pipe(slots, num_inference_steps=SAMPLER_STEPS, output_type="latent")

    return {**timed(step, device, steps), "items": NUM_PAINTED}


def timed(step: Callable[[], object], device: str, steps: int) -> dict[str, float]:
    """Measure the seconds of a step and of the first one (with compilation), and peak memory."""
    start = now(device)
    step()
    first = now(device) - start
    for _ in range(WARMUP_STEPS - 1):
        step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = now(device)
    for _ in range(steps):
        step()
    seconds = (now(device) - start) / steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return {"seconds": seconds, "first": first, "gib": peak}


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Measure the FLOP per second of a product of two random square matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    measured = timed(lambda: torch.mm(left, right), device, 10)
    return 2 * size**3 / measured["seconds"]


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="any of `lsd-...`")
    parser.add_argument("--steps", type=int, default=20, help="steps of each variant")
    parser.add_argument("--size", type=int, default=8192, help="rows and columns of the matrices")
    parser.add_argument("--no-compile", action="store_true", help="only eager")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    options = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()  # It warns of every cast of a component.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {
        "fp32": matrix_rate(device, torch.float32, options.size),
        "bf16": matrix_rate(device, torch.bfloat16, options.size),
    }
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}: {', '.join(f'{k} {v / 1e12:.1f} TFLOP/s' for k, v in rates.items())}")
    head = ["what", "way", "images/s", "ratio", "TFLOP/s", "of the matrix product", "calls"]
    head += ["GiB", "first step s"]
    print(f"| {' | '.join(head)} |")
    print("|---" * len(head) + "|")
    rows = []
    for recipe_name in options.recipes:
        config = recipe(recipe_name)
        for what, measure in (("train", train_steps), ("paint", paint)):
            baseline = 0.0
            for precision, compiled in WAYS:
                if compiled and options.no_compile:
                    continue
                torch.compiler.reset()
                steps = options.steps if what == "train" else max(options.steps // 5, 1)
                row = measure(config, device, precision, compiled=compiled, steps=steps)
                way = precision + (", compiled" if compiled else "")
                rate = row["items"] / row["seconds"]
                baseline = baseline or rate
                speed = f"{rate:.1f} | {rate / baseline:.2f}"
                flops = row.get("flop", 0) / row["seconds"]
                rows.append({"recipe": recipe_name, "what": what, "way": way, **row})
                share = f"{flops / 1e12:.1f} | {flops / rates[precision]:.1%}" if flops else " | "
                calls = f"{row['calls']:,}" if "calls" in row and not compiled else ""
                print(
                    f"| {what} {recipe_name} | {way} | {speed} | {share} "
                    f"| {calls} | {row['gib']:.1f} | {row['first']:.1f} |",
                    flush=True,
                )
    if options.json:
        content = {"device": name, "rates": rates, "rows": rows}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
