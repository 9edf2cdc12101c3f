"""Memory and open files of a long training and of many edits in one process (Linux).

    python benchmarks/long_runs.py

Trains the recipe `lsd-smoke` with validation and previews every 10 steps, and removes slot 1 from
2,000 images with the model. From outside, /proc/<id>/status gives the resident memory and
/proc/<id>/fd the open files. What a process needs at once, caches of kernels and of compiled
functions among it, is there after 500 steps; from then on memory must stay.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from latentslots.data import load_dataset
from latentslots.files import read_json_lines

INTERVAL = 0.25
WARM_UP = 500


@dataclass(frozen=True)
class Sample:
    """A process at one moment.

    Attributes:
        done: Steps or images so far.
        megabytes: Resident memory.
        files: Open file descriptors.
    """

    done: int
    megabytes: float
    files: int


def watch(command: list[str], progress: Callable[[], int], log: Path) -> list[Sample]:
    """Run a command and sample its process until it ends.

    Raises:
        RuntimeError: If it fails.
    """
    samples = []
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        while process.poll() is None:
            time.sleep(INTERVAL)
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                files = len(os.listdir(f"/proc/{process.pid}/fd"))
            except (FileNotFoundError, ProcessLookupError):
                break
            lines = dict(line.split(":", 1) for line in status.splitlines())
            if "VmRSS" in lines:  # not of a process that has just ended
                samples.append(Sample(progress(), int(lines["VmRSS"].split()[0]) / 1024, files))
        if process.wait():
            raise RuntimeError(log.read_text()[-2000:])
    return samples


def train(folder: Path, steps: int) -> list[Sample]:
    """Train on the bundled images."""
    scenes = folder / "photos"
    scenes.mkdir()
    for number, row in enumerate(load_dataset("bundled", split="validation")):
        row["image"].resize((32, 32)).save(scenes / f"{number:03d}.png")
    command = [sys.executable, "-m", "latentslots", "train", "lsd-smoke"]
    command += ["--output-dir", str(folder / "run"), "--data.path", str(scenes)]
    command += ["--data.validation-split", "train", "--max-train-steps", str(steps)]

    def step() -> int:
        rows = read_json_lines(folder / "run" / "metrics.jsonl")
        return int(rows[-1]["step"]) if rows else 0

    return watch(command, step, folder / "train.log")


def edit(folder: Path, count: int) -> list[Sample]:
    """Edit images of different sizes with the trained model."""
    images, draws = folder / "many", np.random.default_rng(0)
    images.mkdir()
    for number in range(count):
        width, height = (int(side) for side in draws.integers(32, 97, 2))
        pixels = draws.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number:04d}.png")
    command = [sys.executable, "-m", "latentslots", "edit", str(folder / "run"), str(images)]
    command += ["--remove", "1", "--num-inference-steps", "2", "--output-dir", str(folder / "out")]

    def done() -> int:
        out = folder / "out"
        return len(os.listdir(out)) if out.is_dir() else 0

    return watch(command, done, folder / "edit.log")


def summarize(name: str, samples: list[Sample], total: int) -> str:
    """A sentence on memory after the first 500 steps, and open files."""
    late = [sample for sample in samples if sample.done >= WARM_UP]
    tenth = max(1, (total - WARM_UP) // 10)
    first = [one for one in late if one.done < WARM_UP + tenth]
    last = [one for one in late if one.done >= total - tenth]
    before, after = (median(one.megabytes for one in part) for part in (first, last))
    opened = [median(one.files for one in part) for part in (first, last)]
    return (
        f"{name}: {before:.1f} MB after {WARM_UP}, {after:.1f} MB at the end of {total} "
        f"({after / before - 1:+.2%}); open files {opened[0]:g} and {opened[1]:g}"
    )


def curve(samples: list[Sample], total: int, points: int = 11) -> str:
    """Memory by progress, as rows of a table."""
    rows = []
    for number in range(points):
        mark = total * number // (points - 1)
        nearest = min(samples, key=lambda one: abs(one.done - mark))
        rows.append(f"| {nearest.done:,} | {nearest.megabytes:.1f} | {nearest.files} |")
    return "\n".join(["| done | MB | open files |", "|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--edits", type=int, default=2000)
    options = parser.parse_args()
    if min(options.steps, options.edits) < 2 * WARM_UP:
        parser.error(f"--steps and --edits must be at least {2 * WARM_UP}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, run, total in (
            ("training", train, options.steps),
            ("editing", edit, options.edits),
        ):
            samples = run(folder, total)
            print(summarize(what, samples, total))
            print(curve(samples, total), flush=True)


if __name__ == "__main__":
    main()
