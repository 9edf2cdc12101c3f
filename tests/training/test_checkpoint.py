"""A checkpoint is complete or absent, and no failure removes the last complete one."""

import random
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from latentslots.config import TrainConfig
from latentslots.training import checkpoint
from latentslots.training.checkpoint import CheckpointError
from tests.tiny import tiny_autoencoder
from tests.training.runs import (
    assert_same,
    assert_same_run,
    rewind,
    run,
    saved,
    start,
    step_name,
    wait_for,
    with_changes,
)


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "state").iterdir())


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_it_holds_tensors_and_numbers_only(finished: Path) -> None:
    files = {path.name for path in (finished / "state" / step_name(4)).iterdir()}
    assert files == {
        "model.safetensors",
        "optimizer.safetensors",
        "ema.safetensors",
        "random_0000.safetensors",
        "state.json",
    }
    everything = {path.suffix for path in finished.rglob("*") if path.is_file()}
    assert everything == {".safetensors", ".json", ".jsonl"}


def test_files_have_the_permissions_of_the_umask(finished: Path) -> None:
    modes = {path.stat().st_mode for path in finished.rglob("*") if path.is_file()}
    assert modes == {(finished / "train_config.json").stat().st_mode}


@pytest.mark.parametrize("limit", [1, 3])
def test_the_oldest_are_removed(config: TrainConfig, tmp_path: Path, limit: int) -> None:
    changes = {"checkpointing_steps": 1, "checkpoints_total_limit": limit, "max_train_steps": 5}
    run(with_changes(config, changes), tmp_path / "run")
    assert names(tmp_path / "run") == [step_name(step) for step in range(6 - limit, 6)]


def test_the_last_step_is_saved_whatever_the_interval(config: TrainConfig, tmp_path: Path) -> None:
    run(with_changes(config, {"checkpointing_steps": 0}), tmp_path / "run")
    assert names(tmp_path / "run") == [step_name(4)]


@pytest.mark.parametrize("num_bytes", [10_000, 400_000])
def test_a_full_disk_keeps_the_earlier_checkpoint(
    config: TrainConfig, finished: Path, tmp_path: Path, num_bytes: int
) -> None:
    """Full in the first file, or in the largest."""
    config = with_changes(config, {"checkpoints_total_limit": 1})
    resumed = rewind(finished, 2, tmp_path / "run")
    sizes = [path.stat().st_size for path in (resumed / "state" / step_name(2)).iterdir()]
    assert max(sizes) > 400_000
    before = saved(resumed, 2)
    with full_disk(num_bytes), pytest.raises(CheckpointError) as raised:
        run(config, resumed, resume=True)
    message = str(raised.value)
    assert "cannot write a checkpoint" in message
    assert f"the newest complete one is {resumed / 'state' / step_name(2)}" in message
    assert "\n" not in message
    assert names(resumed) == [step_name(2)]
    assert_same(saved(resumed, 2), before)
    assert not list(resumed.glob(".*"))
    run(config, resumed, resume=True)
    assert_same_run(resumed, finished, step=4)


def test_a_disk_that_is_full_from_the_start_leaves_the_run_unchanged(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    resumed = rewind(finished, 2, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in resumed.glob("*.json*")}
    assert len(before) == 3
    with full_disk(100), pytest.raises(OSError, match="File too large"):
        run(config, resumed, resume=True)
    assert {path.name: path.read_bytes() for path in resumed.glob("*.json*")} == before
    assert not list(resumed.glob(".*"))


def test_a_pipeline_that_cannot_be_written_leaves_no_checkpoint(
    config: TrainConfig, tmp_path: Path
) -> None:
    """The disk is full at the autoencoder, which is larger than all that learns, and saved last."""
    tiny_autoencoder(block_out_channels=(48, 48)).save_pretrained(tmp_path / "vae")
    config = with_changes(config, {"method.vae": str(tmp_path / "vae")})
    config = with_changes(config, {"data.cache_latents": False})
    whole = tmp_path / "whole"
    run(config, whole)
    state = max(path.stat().st_size for path in (whole / "state" / step_name(4)).iterdir())
    vae = (whole / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert vae > state
    resumed = rewind(whole, 2, tmp_path / "run")
    with full_disk((vae + state) // 2), pytest.raises(CheckpointError, match=step_name(2)):
        run(config, resumed, resume=True)
    assert names(resumed) == [step_name(2)]
    assert not list(resumed.glob(".*"))
    run(config, resumed, resume=True)
    assert_same_run(resumed, whole, step=4)


def test_incomplete_files_of_a_killed_run_are_ignored(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    resumed = rewind(finished, 2, tmp_path / "run")
    for step in (3, 4):
        partial = shutil.copytree(finished / "state" / step_name(4), tmp_path / f"partial_{step}")
        (partial / "optimizer.safetensors").write_bytes(b"half")
        partial.rename(resumed / "state" / f".partial_{step:07d}")
    shutil.copytree(finished / "pipeline" / "unet", resumed / ".pipeline_new" / "unet")
    for name in (".pipeline_old", ".pipeline.old"):  # release 0.1 called it so, and we do now
        shutil.copytree(finished / "pipeline", resumed / name)
    run(config, resumed, resume=True)
    assert_same_run(resumed, finished, step=4)
    assert names(resumed) == [step_name(2), step_name(4)]
    assert not list(resumed.glob(".pipeline*"))


@pytest.mark.parametrize("file", ["model.safetensors", "random_0000.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_named(
    config: TrainConfig, finished: Path, tmp_path: Path, file: str, damage: str
) -> None:
    resumed = rewind(finished, 2, tmp_path / "run")
    path = resumed / "state" / step_name(2) / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=rf"{step_name(2)} is damaged"):
        run(config, resumed, resume=True)


def test_random_states_are_restored() -> None:
    def draw() -> list[object]:
        legacy = np.random.standard_normal(3).tolist()
        return [
            torch.randn(3).tolist(),
            legacy,
            np.random.random(),
            random.gauss(),
            random.random(),
        ]

    np.random.standard_normal()  # leaves the second of a pair behind
    state = checkpoint.random_tensors()
    expected = draw()
    assert draw() != expected
    checkpoint.load_random_tensors(state)
    assert draw() == expected


@pytest.mark.slow
def test_kill_while_saving(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    """SIGKILL at the very moment at which something half-written is on the disk, three times."""
    changes = {"max_train_steps": 100_000, "checkpointing_steps": 1, "checkpoints_total_limit": 1}
    config = with_changes(config, changes)
    run_dir = tmp_path / "run"
    run(with_changes(config, {"max_train_steps": 1}), run_dir)
    command = ["train", "--config", run_dir / "train_config.json", "--resume"]
    for _ in range(3):
        process = start(*command, "--max-train-steps", "100000")
        first = names(run_dir)
        wait_for(lambda first=first: names(run_dir)[-1:] > first, process)
        wait_for(lambda: any(run_dir.glob("state/.partial_*")), process)
        process.kill()
        process.communicate()
        complete = [name for name in names(run_dir) if name.startswith("step_")]
        assert complete
        assert saved(run_dir, int(complete[-1].removeprefix("step_")))
    step = int(complete[-1].removeprefix("step_"))
    config = with_changes(config, {"max_train_steps": step + 1})
    run(config, run_dir, resume=True)
    assert names(run_dir) == [step_name(step + 1)]
