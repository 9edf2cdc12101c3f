"""SIGINT and SIGTERM save, stop, and name the command that resumes."""

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from latentslots.cli.main import main
from latentslots.config import TrainConfig
from latentslots.config.io import dumps
from latentslots.training.signals import SignalWatch
from tests.training.runs import (
    assert_same_run,
    build_trainer,
    losses,
    num_rows,
    read_json,
    run,
    start,
    step_name,
    training_rows,
    wait_for,
    with_changes,
)

NUM_STEPS = 40
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(scope="module")
def long(config: TrainConfig) -> TrainConfig:
    """Long enough to be interrupted, with a process that loads images."""
    changes = {"max_train_steps": NUM_STEPS, "checkpointing_steps": NUM_STEPS}
    return with_changes(config, {**changes, "data.num_workers": 1, "data.random_flip": True})


@pytest.fixture(scope="module")
def uninterrupted(long: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(long, run_dir)
    return run_dir


@pytest.fixture(
    scope="module", params=[signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def interrupted(
    long: TrainConfig, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, signal.Signals, int, str]:
    """A run whose processes all got a signal, as from a terminal: folder, signal, code, stderr."""
    folder = tmp_path_factory.mktemp("interrupted")
    config_file = folder / "config.json"
    config_file.write_text(dumps(long))
    run_dir = folder / "my run"
    process = start("train", "--config", config_file, "--output-dir", run_dir)
    wait_for(lambda: num_rows(run_dir) >= 2, process)
    os.killpg(process.pid, request.param)
    _, said = process.communicate(timeout=60)
    return run_dir, request.param, process.returncode, said


def test_the_exit_code_names_the_signal(
    interrupted: tuple[Path, signal.Signals, int, str],
) -> None:
    _, signum, returncode, _ = interrupted
    assert returncode == 128 + signum


def test_each_message_is_printed_once(interrupted: tuple[Path, signal.Signals, int, str]) -> None:
    run_dir, signum, _, said = interrupted
    assert said.count(f"{signum.name}: saving, then stopping") == 1
    assert said.count(f"stopped by {signum.name} at step {len(losses(run_dir))}, state saved") == 1
    assert "Traceback" not in said


def test_the_state_is_that_of_the_last_step_in_the_log(
    interrupted: tuple[Path, signal.Signals, int, str],
) -> None:
    run_dir, _, _, _ = interrupted
    steps = len(losses(run_dir))
    assert 2 <= steps < NUM_STEPS
    (folder,) = (run_dir / "state").iterdir()
    assert folder.name == step_name(steps)
    assert read_json(folder / "state.json")["step"] == steps


def test_the_command_it_names_finishes_the_run(
    interrupted: tuple[Path, signal.Signals, int, str],
    uninterrupted: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As if it had not been interrupted."""
    run_dir, _, _, said = interrupted
    command = shlex.split(said.partition("resume with: ")[2].splitlines()[0])
    assert command[0] == "latentslots"
    assert main(command[1:]) == 0
    assert capsys.readouterr().out.strip() == str(run_dir)
    assert_same_run(run_dir, uninterrupted, step=NUM_STEPS)


@pytest.fixture
def heeded() -> Iterator[None]:
    """SIGINT as a terminal has it; jobs in the background of a script are born deaf to it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("heeded")
def test_the_second_signal_acts_at_once() -> None:
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    said: list[str] = []
    watch = SignalWatch(said.append)
    with watch:
        os.kill(os.getpid(), signal.SIGINT)
        assert watch.signum == signal.SIGINT
        assert said == ["SIGINT: saving, then stopping"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert {signum: signal.getsignal(signum) for signum in SIGNALS} == before


def test_a_signal_in_the_last_step_leaves_a_finished_run(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    """There is nothing left to resume."""
    trainer = build_trainer(config, tmp_path / "run", dataset=training_rows(config))
    trainer.model.register_forward_pre_hook(
        lambda *_: os.kill(os.getpid(), signal.SIGTERM) if trainer.step == 3 else None
    )
    trainer.fit()
    trainer.run_log.close()
    assert trainer.signals.signum == signal.SIGTERM
    assert trainer.step == 4


def test_training_in_a_thread_watches_no_signals(config: TrainConfig, tmp_path: Path) -> None:
    thread = Thread(target=run, args=(config, tmp_path / "run"))
    thread.start()
    thread.join()
    assert len(losses(tmp_path / "run")) == 4
