"""Small real runs, and what they leave on disk."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

from latentslots.build.data import build_split
from latentslots.build.methods import build_objective
from latentslots.config import LSDConfig, TrainConfig
from latentslots.config.io import from_dict, to_dict
from latentslots.data.loading.loader import ImageDataset, Request, Sample
from latentslots.objectives import Objective
from latentslots.training.preview import Previewer
from latentslots.training.run import train
from latentslots.training.run_log import RunLog, read_metrics
from latentslots.training.trainer import Trainer
from latentslots.training.validation import Validator

ROOT = Path(__file__).parents[2]


def with_changes(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """A config with some knobs, named by their paths (`data.num_workers`), set to other values."""
    values = to_dict(config)
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        owner = values
        for parent in parents:
            owner = owner[parent]
        owner[leaf] = value
    return from_dict(values)


def run(config: TrainConfig, run_dir: Path, *, resume: bool = False) -> str:
    """Train without a progress bar; returns what it said on stderr."""
    with redirect_stderr(StringIO()) as said:
        train(config, run_dir, resume=resume, progress=False)
    return said.getvalue()


def rewind(run_dir: Path, step: int, to: Path) -> Path:
    """A copy of a run as it was after a step at which it was saved, killed some time later."""
    shutil.copytree(run_dir, to)
    for later in (to / "state").iterdir():
        if later.name > step_name(step):
            shutil.rmtree(later)
    shutil.rmtree(to / "pipeline")
    return to


def step_name(step: int) -> str:
    return f"step_{step:07d}"


def saved(run_dir: Path, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint, as `<file>/<name>`.

    Python's random state is left out: beartype draws from it, to check a random item of a list.
    """
    state = {
        f"{file.stem}/{name}": tensor
        for file in sorted((run_dir / "state" / step_name(step)).glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
    return {name: tensor for name, tensor in state.items() if not name.endswith("/python")}


def weights(run_dir: Path, step: int) -> dict[str, Tensor]:
    return {k: v for k, v in saved(run_dir, step).items() if k.startswith("model/")}


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` without the times."""
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in read_metrics(run_dir)
    ]


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in rows(run_dir) if "loss" in row]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal bit for bit."""
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different, f"{len(different)} of {len(expected)}: {different[:5]}"


def assert_same_run(found: Path, expected: Path, step: int) -> None:
    """Two runs left the same state, numbers, and model."""
    assert_same(saved(found, step), saved(expected, step))
    assert rows(found) == rows(expected)
    files = sorted(p.relative_to(expected) for p in expected.glob("pipeline/**/*") if p.is_file())
    assert files
    for file in files:
        assert (found / file).read_bytes() == (expected / file).read_bytes()


class GivenDraws(ImageDataset):
    """Rows that contain all random draws, so that a batch's loss depends on its rows alone."""

    def __getitem__(self, request: Request | int) -> Sample:
        sample = super().__getitem__(request)
        draws = torch.Generator().manual_seed(int(sample["index"]))
        latent = (4, 16, 16)
        return {
            **sample,
            "posterior_noise": torch.randn(latent, generator=draws),
            "noise": torch.randn(latent, generator=draws),
            "timesteps": torch.randint(1000, (), generator=draws),
            "slot_noise": torch.randn((4, 16), generator=draws),
            "dropped": torch.rand((), generator=draws) < 0.5,
        }


def build_trainer(
    config: TrainConfig, run_dir: Path, *, dataset: ImageDataset, objective: Objective | None = None
) -> Trainer:
    """A trainer with parts of one's own; it draws from the global generator as it stands."""
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=True,
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    run_log = RunLog(run_dir, accelerator, max_train_steps=config.max_train_steps, progress=False)
    run_log.open()
    if objective is None:
        torch.manual_seed(config.seed)
        objective = build_objective(config)
    return Trainer(
        config,
        objective,
        dataset,
        accelerator=accelerator,
        run_dir=run_dir,
        run_log=run_log,
        validator=Validator(None, resolution=32, num_images=0),
        previewer=Previewer(None, resolution=32, folder=run_dir / "previews"),
    )


def training_rows(
    config: TrainConfig, kind: Callable[..., ImageDataset] = GivenDraws
) -> ImageDataset:
    """The training images of a config."""
    return kind(build_split(config.data, "train"), config.data.resolution)


def tiny(config: TrainConfig) -> TrainConfig:
    """Networks as small as they get; what a run does around them stays."""
    method = config.method
    assert isinstance(method, LSDConfig)
    encoder = replace(method.encoder, channels=8)
    unet = replace(method.unet, block_out_channels=(8, 16))
    return replace(config, method=replace(method, encoder=encoder, unet=unet))


def start(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.Popen:
    """Start `latentslots` as the leader of a group of processes, with its output piped."""
    return subprocess.Popen(
        [sys.executable, "-m", "latentslots", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], Any], process: subprocess.Popen, timeout: float = 120) -> None:
    """Wait until something is so, or fail with what the process said before it ended."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()[1]}")
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"timed out: {process.communicate()[1]}")
        time.sleep(0.005)


def num_rows(run_dir: Path) -> int:
    """Lines of `metrics.jsonl` so far."""
    file = run_dir / "metrics.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
