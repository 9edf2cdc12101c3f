"""Probes: the official protocol with all heads as one computation against one head after another.

    OMP_NUM_THREADS=2 python benchmarks/probes.py [--objects 2500] [--steps 4000]

Random slots of 64 channels and the attributes of `data make scenes`; the same heads with the same
initial weights both ways, and plain modules in a loop. The time of scores and intervals, which
plain modules do not have, is given separately. Also: the linear heads of all attributes of MOVi on
5,000 slots of 192 channels.
"""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional as F

from latentslots.device import keep_freed_memory
from latentslots.metrics.probes.probe import ProbeScore, probe, probe_lsd
from latentslots.metrics.probes.targets import Attribute

SCENES = {"classes": (5, 5, 3, 2, 8), "numbers": (3, 1, 3, 4, 24, 2, 4, 1, 1, 1, 1)}
MOVI = {"classes": (17, 2), "numbers": (1, 1, 1, 1, 3, 4, 3, 3, 24, 2, 4, 1)}


def attributes(
    slots: torch.Tensor, sizes: dict[str, tuple[int, ...]], generator: torch.Generator
) -> list[Attribute]:
    """Attributes that are linear in the slots, with noise."""
    known = torch.ones(len(slots), dtype=torch.bool)
    found = []
    for kind, numbers in sizes.items():
        for i, size in enumerate(numbers):
            values = slots @ torch.randn(slots.shape[1], size, generator=generator)
            values = values + torch.randn(values.shape, generator=generator)
            if kind == "classes":
                labels = values.argmax(dim=1)
                found.append(
                    Attribute(name=f"class {i}", values=labels, known=known, num_classes=size)
                )
            else:
                found.append(Attribute(name=f"number {i}", values=values, known=known))
    return found


def plain_heads(slots: torch.Tensor, targets: list[Attribute], num_steps: int) -> list[float]:
    """The last loss of each head, trained one after the other as PyTorch's examples do."""
    order = torch.randperm(len(slots), generator=torch.Generator().manual_seed(666))
    seen = order[: int(0.83 * len(slots))]
    losses = []
    for target in targets:
        values = target.values[seen]
        if target.num_classes:
            head: nn.Module = nn.Linear(slots.shape[1], target.num_classes)
        else:
            low, high = target.values.amin(dim=0), target.values.amax(dim=0)
            values = (values - low) / (high - low)
            layers = nn.Linear(slots.shape[1], 64), nn.ReLU(), nn.Linear(64, values.shape[1])
            head = nn.Sequential(*layers)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
        measure = F.cross_entropy if target.num_classes else F.mse_loss
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss = measure(head(slots[seen]), values)
            (loss / len(seen)).backward()
            optimizer.step()
        losses.append(loss.item())
    return losses


def timed(
    slots: torch.Tensor, groups: list[list[Attribute]], num_steps: int
) -> tuple[list[ProbeScore], float, float]:
    """Scores, and seconds for training and for the rest, one group of attributes after another."""
    start = time.perf_counter()
    for group in groups:
        probe_lsd(slots, group, num_steps=0)
    middle = time.perf_counter()
    scores = [score for group in groups for score in probe_lsd(slots, group, num_steps=num_steps)]
    scoring = middle - start
    return scores, time.perf_counter() - middle - scoring, scoring


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=2_500)
    parser.add_argument("--steps", type=int, default=4_000)
    options = parser.parse_args()
    keep_freed_memory()  # as `latentslots evaluate` does
    generator = torch.Generator().manual_seed(0)
    slots = torch.randn(options.objects, 64, generator=generator)
    targets = attributes(slots, SCENES, generator)

    together, *at_once = timed(slots, [targets], options.steps)
    alone, *one_by_one = timed(slots, [[one] for one in targets], options.steps)
    start = time.perf_counter()
    plain_heads(slots, targets, options.steps)
    plain = time.perf_counter() - start
    worst = max(
        abs(one.scores[name].mean - other.scores[name].mean)
        for one, other in zip(together, alone, strict=True)
        for name in one.scores
    )
    print(
        f"lsd, {options.objects} objects, {len(targets)} heads, {options.steps} steps, training "
        f"and scores: together {at_once[0]:.1f} + {at_once[1]:.1f} s; one by one "
        f"{one_by_one[0]:.1f} + {one_by_one[1]:.1f} s; ratio "
        f"{sum(one_by_one) / sum(at_once):.2f}, of training {one_by_one[0] / at_once[0]:.2f}; "
        f"largest difference of a score {worst:.1e}; "
        f"training of plain heads {plain:.1f} s, ratio {plain / at_once[0]:.2f}"
    )

    slots = torch.randn(5_000, 192, generator=generator)
    targets = attributes(slots, MOVI, generator)
    start = time.perf_counter()
    probe(slots, targets, torch.arange(5_000) // 24, heads=["linear"])
    print(
        f"by video, 5000 slots of 192 channels, {len(targets)} attributes of MOVi, linear heads, "
        f"three seeds: {time.perf_counter() - start:.1f} s"
    )


if __name__ == "__main__":
    main()
