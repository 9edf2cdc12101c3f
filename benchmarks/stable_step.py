"""Throughput of Stable-LSD at full size, with frozen parts live and cached.

    python benchmarks/stable_step.py [--images 2] [--steps 3]

`stable-lsd-coco` with random weights (Stable Diffusion 2.1, DINOv2-B at 448 px), images of 256 px,
bf16 autocast. Live, autoencoder and transformer encode every image at every step; cached, their
outputs are inputs. It uses a GPU if there is one, and then prints peak memory, too. Run it alone on
the machine.
"""

import argparse
import time

import torch

from latentslots.build.stable_lsd import build_between
from latentslots.device import keep_freed_memory
from latentslots.recipes import recipe
from latentslots.training.optim import build_optimizer
from memory import full_size_parts

WARMUP_STEPS = 1
WAYS = {
    "live": (),
    "latents cached": ("latent_mean", "latent_std"),
    "latents and features cached": ("latent_mean", "latent_std", "features"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2, help="images per step")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each way")
    options = parser.parse_args()
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = recipe("stable-lsd-coco")
    torch.manual_seed(0)
    parts = full_size_parts(config.method)
    objective = build_between(config.method, 256, parts).to(device).train()
    optimizer = build_optimizer(objective, config.optim)
    images, grid = options.images, objective.encoder.grid_size
    cached = {
        "latent_mean": torch.randn(images, 4, 32, 32, device=device),
        "latent_std": torch.rand(images, 4, 32, 32, device=device),
        "features": torch.randn(images, objective.encoder.out_channels, grid, grid, device=device),
    }
    pixels = torch.rand(images, 3, 256, 256, device=device) * 2 - 1
    live = 0.0
    print("| frozen parts | images/s | ratio |\n|---|---|---|")
    for way, names in WAYS.items():
        batch = {"pixel_values": pixels, **{name: cached[name] for name in names}}
        start = 0.0
        for step in range(WARMUP_STEPS + options.steps):
            if step == WARMUP_STEPS:
                start = now(device)
            with torch.autocast(device, torch.bfloat16):
                loss, _ = objective(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        rate = images * options.steps / (now(device) - start)
        live = live or rate
        print(f"| {way} | {rate:.3f} | {rate / live:.2f} |", flush=True)
    if device == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
