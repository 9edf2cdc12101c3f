"""Two processes that share a batch do what one does that has all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from latentslots.config import TrainConfig
from latentslots.config.io import dumps
from latentslots.training.checkpoint import CheckpointError
from tests.training.runs import (
    ROOT,
    assert_same_run,
    build_trainer,
    losses,
    read_json,
    rewind,
    rows,
    run,
    saved,
    training_rows,
    with_changes,
)
from tests.training.two_processes import NUM_WORLDS


@pytest.fixture(scope="module")
def shared(config: TrainConfig) -> TrainConfig:
    """Two images for each of two processes."""
    return with_changes(config, {"train_batch_size": 2, "method.condition_dropout": 0.5})


@pytest.fixture(scope="module")
def two(shared: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes did all that `two_processes.py` says."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "config.json").write_text(dumps(shared))
    # Held open here, so that nobody else can take a port between two meetings.
    stores = [
        TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(NUM_WORLDS)
    ]
    ports = [str(store.port) for store in stores]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.two_processes", str(folder), *ports],
            cwd=ROOT,
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return folder


@pytest.fixture(scope="module")
def one(shared: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `given` of one process, with all four images."""
    config = with_changes(shared, {"train_batch_size": 4, "max_train_steps": 2})
    config = with_changes(config, {"checkpointing_steps": 1})
    folder = tmp_path_factory.mktemp("one") / "given"
    trainer = build_trainer(config, folder, dataset=training_rows(config))
    trainer.fit()
    trainer.run_log.close()
    return folder


@pytest.mark.parametrize("step", [1, 2])
def test_gradients_are_those_of_one_process(one: Path, two: Path, step: int) -> None:
    expected, found = saved(one, step), saved(two / "given", step)
    moments = [name for name in expected if name.endswith(".exp_avg")]
    assert len(moments) > 100
    scale = max(expected[name].abs().max() for name in moments)
    for name in moments:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["loss", "grad_norm", "slot_cosine", "effective_slots"])
def test_the_log_is_that_of_one_process(one: Path, two: Path, name: str) -> None:
    found = [row[name] for row in rows(two / "given")]
    assert found == pytest.approx([row[name] for row in rows(one)], rel=1e-5)


def test_the_learning_rate_is_that_of_one_process(
    shared: TrainConfig, two: Path, tmp_path: Path
) -> None:
    run(shared, tmp_path / "one")
    expected = [row["lr"] for row in rows(tmp_path / "one")]
    assert len(set(expected)) > 2  # it does change
    assert [row["lr"] for row in rows(two / "whole")] == expected


def test_validation_is_that_of_one_process(shared: TrainConfig, two: Path, tmp_path: Path) -> None:
    changes = {"optim.learning_rate": 0.0, "data.validation_split": "validation"}
    run(with_changes(shared, {**changes, "max_train_steps": 1}), tmp_path / "one")
    (expected,) = [row for row in rows(tmp_path / "one") if "validation/loss" in row]
    (found,) = [row for row in rows(two / "idle") if "validation/loss" in row]
    assert found == pytest.approx(expected, rel=1e-6)


def test_processes_draw_different_noise(two: Path) -> None:
    state = saved(two / "whole", 4)
    assert not torch.equal(state["random_0000/torch"], state["random_0001/torch"])


def test_resume_is_exact_with_two_processes(two: Path) -> None:
    assert_same_run(two / "resumed", two / "whole", step=4)
    assert_same_run(two / "streamed_on", two / "streamed", step=4)
    assert losses(two / "streamed") != losses(two / "whole")


def test_a_run_of_two_processes_is_not_resumed_by_one(
    shared: TrainConfig, two: Path, tmp_path: Path
) -> None:
    drawn = with_changes(shared, {"data.num_workers": 1, "data.random_flip": True})
    resumed = rewind(two / "whole", 2, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"written by 2 processes, .* not by 1"):
        run(drawn, resumed, resume=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_both(two: Path, rank: int) -> None:
    answer = read_json(two / f"stop_{rank}.json")
    steps = len(losses(two / "stopped"))
    assert answer["signum"] == 15
    assert f"at step {steps}, state saved" in answer["message"]
    assert {"random_0000/torch", "random_0001/torch"} <= saved(two / "stopped", steps).keys()
