"""Training steps at 256 px: a plain implementation against ours, in one run.

    python benchmarks/train_step.py [--recipe NAME] [--steps 4] [--compile] [--json FILE]

`plain` does what the official code does on a CPU: the autoencoder encodes every image at every
step, in fp32, with contiguous tensors and the unfused AdamW. `ours` does what `latentslots train`
does: cached latents, bf16 autocast, channels_last, fused AdamW, freed memory kept. `live` is ours
with the autoencoder at every step. All have the same model (349 M parameters, unless another recipe
is named), an autoencoder of the size of Stable Diffusion's, and batches of 8 images. Each variant
runs in its own process, one after the other, so that its peak memory is measured. Run it alone on
the machine.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn

from latentslots.build.methods import build_lsd_around
from latentslots.device import keep_freed_memory
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.recipes import recipe
from latentslots.training.optim import build_optimizer

BATCH_SIZE, RESOLUTION = 8, 256
WARMUP_STEPS = 2  # Creates the optimizer's state, selects kernels, allocates memory.


def stable_diffusion_vae() -> AutoencoderKL:
    """Build Stable Diffusion's autoencoder with random weights: only its cost matters here."""
    levels = 4
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


class Stopwatch:
    """Measures the seconds spent in the forward pass of named modules."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.seconds = dict.fromkeys(modules, 0.0)
        for name, module in modules.items():
            module.register_forward_pre_hook(lambda *_, name=name: self._start(name))
            module.register_forward_hook(lambda *_, name=name: self._stop(name))

    def _start(self, name: str) -> None:
        self.seconds[name] -= time.perf_counter()

    def _stop(self, name: str) -> None:
        self.seconds[name] += time.perf_counter()


def build(
    way: str, name: str, *, compiled: bool
) -> tuple[LatentSlotDiffusionObjective, torch.optim.Optimizer]:
    """Build the objective of a recipe, and its optimizer."""
    torch.manual_seed(0)
    config = recipe(name)
    objective = build_lsd_around(config.method, RESOLUTION, stable_diffusion_vae())
    if way == "plain":
        parameters = objective.trained_parameters()
        return objective, torch.optim.AdamW(parameters, lr=1e-4, fused=False, foreach=False)
    objective.to(memory_format=torch.channels_last)
    if compiled:
        for part in objective.trained().values():
            part.compile()
    return objective, build_optimizer(objective, config.optim)


def measure(way: str, name: str, steps: int, *, compiled: bool) -> dict[str, object]:
    """Time the steps of one variant, after warm-up steps."""
    if way != "plain":
        keep_freed_memory()
    objective, optimizer = build(way, name, compiled=compiled)
    pixels = torch.rand(BATCH_SIZE, 3, RESOLUTION, RESOLUTION) * 2 - 1
    batch = {"pixel_values": pixels}
    if way != "plain":
        batch["pixel_values"] = pixels.contiguous(memory_format=torch.channels_last)
    if way == "ours":
        batch["latent_mean"] = torch.randn(BATCH_SIZE, 4, RESOLUTION // 8, RESOLUTION // 8)
        batch["latent_std"] = torch.rand_like(batch["latent_mean"])
    parts = {} if compiled else {"vae": objective.vae.encoder, **objective.trained()}
    watch = Stopwatch(parts)
    seconds = {"forward": 0.0, "backward": 0.0, "clip + optimizer": 0.0}
    for step in range(WARMUP_STEPS + steps):
        if step == WARMUP_STEPS:
            seconds = dict.fromkeys(seconds, 0.0)
            watch.seconds = dict.fromkeys(watch.seconds, 0.0)
        marks = [time.perf_counter()]
        with torch.autocast("cpu", torch.bfloat16, enabled=way != "plain"):
            loss, _ = objective(batch)
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(objective.trained_parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        for name, start, end in zip(seconds, marks, marks[1:], strict=False):
            seconds[name] += end - start
    total = sum(seconds.values())
    return {
        "way": way + (" + compile" if compiled else ""),
        "images_per_second": BATCH_SIZE * steps / total,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "seconds_per_step": {k: v / steps for k, v in seconds.items()},
        "of_forward": {k: v / steps for k, v in watch.seconds.items()},
        "loss": loss.item(),
        "threads": torch.get_num_threads(),
    }


def in_own_process(way: str, name: str, steps: int, *, compiled: bool = False) -> dict[str, object]:
    """Measure one variant in a new process."""
    command = [sys.executable, __file__, "--way", way, "--recipe", name, "--steps", str(steps)]
    command += ["--compile"] if compiled else []
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="lsd-movi-e", help="any of `lsd-...`")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=["plain", "live", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(
            json.dumps(
                measure(options.way, options.recipe, options.steps, compiled=options.compile)
            )
        )
        return
    rows = [in_own_process(way, options.recipe, options.steps) for way in ("plain", "live", "ours")]
    if options.compile:
        rows.append(in_own_process("ours", options.recipe, options.steps, compiled=True))
    plain = rows[0]["images_per_second"]
    print(f"{'':16} {'images/s':>9} {'ratio':>6} {'peak GiB':>9}  seconds per step")
    for row in rows:
        times = {**row["seconds_per_step"], **{f"({k})": v for k, v in row["of_forward"].items()}}
        shown = "  ".join(f"{name} {value:.2f}" for name, value in times.items() if value)
        rate = row["images_per_second"]
        print(f"{row['way']:16} {rate:9.2f} {rate / plain:6.2f} {row['peak_gib']:9.1f}  {shown}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
