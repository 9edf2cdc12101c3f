"""The numbers of a run: `metrics.jsonl`, a progress bar, and trackers."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from latentslots.files import read_json_lines, write_text

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Records numbers, on the main process only.

    Args:
        run_dir: The run folder.
        accelerator: Owns the trackers.
        max_train_steps: End of the progress bar.
        max_seconds: End of the progress bar if the run is limited by time; 0 for no limit.
        progress: Whether to show a progress bar on stderr.
    """

    def __init__(
        self,
        run_dir: Path,
        accelerator: Accelerator,
        *,
        max_train_steps: int,
        max_seconds: float = 0.0,
        progress: bool = True,
    ) -> None:
        self.run_dir, self.accelerator = run_dir, accelerator
        self.max_train_steps, self.max_seconds = max_train_steps, max_seconds
        self.progress = progress
        self.file: TextIO | None = None
        self.elapsed = 0.0
        self.started = time.monotonic()
        self.bar: tqdm | None = None
        self.bar_counts_seconds = max_seconds > 0

    def open(self, *, start_step: int = 0) -> None:
        """Open the files; until then nothing is written.

        Args:
            start_step: The current step of the run. Rows of later steps, left by a crash, are
                removed from `metrics.jsonl`.
        """
        self.started = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        path = self.run_dir / METRICS_FILE
        lines = [row for row in read_metrics(self.run_dir) if row["step"] <= start_step]
        text = "".join(json.dumps(row) + "\n" for row in lines)
        write_text(path, text)
        self.elapsed = max((row.get("seconds", 0.0) for row in lines), default=0.0)
        self.file = path.open("a", encoding="utf-8")
        self.bar = tqdm(
            total=round(self.max_seconds) or self.max_train_steps,
            initial=round(self.elapsed) if self.bar_counts_seconds else start_step,
            file=sys.stderr,
            disable=not self.progress,
            dynamic_ncols=True,
            unit="step",
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
            if self.bar_counts_seconds
            else None,
        )

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken so far, including the time before it was resumed."""
        return round(self.elapsed + time.monotonic() - self.started, 3)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record the numbers of a step, with the seconds that the run has taken so far."""
        if self.file is None or self.bar is None:
            return
        row = {"step": step, "seconds": self.seconds, **values}
        self._append(self.file, json.dumps(row) + "\n")
        self.accelerator.log(values, step=step)
        if "loss" in values:
            self.bar.set_postfix(step=step, loss=f"{values['loss']:.4f}", refresh=False)
            now = round(self.seconds) if self.bar_counts_seconds else step
            self.bar.update(min(now, self.bar.total) - self.bar.n)
        else:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            self.print(f"step {step}: {shown}")

    def _append(self, file: TextIO, line: str) -> None:
        """Write a line, or nothing of it."""
        path = self.run_dir / METRICS_FILE
        size = path.stat().st_size
        try:
            file.write(line)
            file.flush()
        except OSError:
            with suppress(OSError):
                os.truncate(path, size)
            raise

    def log_image(self, step: int, image: Image.Image) -> None:
        """Log a preview to the trackers that take images."""
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"preview": np.asarray(image)[None]}, step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"preview": [image]}, step)

    def print(self, line: str) -> None:
        """Print a line on stderr without breaking the progress bar."""
        if self.bar is not None and not self.bar.disable:
            self.bar.write(line, file=sys.stderr)
        elif self.accelerator.is_main_process:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the files and the trackers."""
        if self.file is not None and self.bar is not None:
            self.file.close()
            self.bar.close()
        self.accelerator.end_training()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Read the rows of a run's `metrics.jsonl`, except a last line that a crash truncated."""
    return read_json_lines(run_dir / METRICS_FILE)
