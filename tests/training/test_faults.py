"""Faults during training: the last checkpoint and the model are whole, and the run goes on."""

import errno
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from latentslots.config import TrainConfig
from latentslots.pipelines import load_pipeline
from latentslots.training import checkpoint
from latentslots.training.run_log import METRICS_FILE, RunLog
from latentslots.training.trainer import Trainer
from tests.faults import faults, sweep
from tests.training.runs import assert_same, rewind, run, saved, with_changes


def whole_rows(run_dir: Path) -> list[int]:
    """Steps of the rows of the log, none of which is torn."""
    lines = (run_dir / METRICS_FILE).read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.parametrize(
    "stride", [pytest.param(3, marks=pytest.mark.slow), 47], ids=["most", "some"]
)
@pytest.mark.parametrize(
    ("lasting", "code"), [(False, errno.EIO), (True, errno.ENOSPC)], ids=["once", "full disk"]
)
def test_a_resumed_run(
    config: TrainConfig, finished: Path, tmp_path: Path, stride: int, lasting: bool, code: int
) -> None:
    before = rewind(finished, 2, tmp_path / "before")
    run(with_changes(config, {"max_train_steps": 3}), before, resume=True)
    expected = saved(finished, 4)
    root = tmp_path / "run"

    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(before, root)

    def check(completed: bool) -> None:
        newest = checkpoint.list_checkpoints(root / "state")[-1]
        step = checkpoint.load(newest, 0, 1).values["step"]
        assert step == 4 if completed else step in (3, 4)
        load_pipeline(root)
        whole_rows(root)
        run(config, root, resume=True)
        assert whole_rows(root) == [1, 2, 3, 4], "each step once"
        assert_same(saved(root, 4), expected)

    runs = sweep(
        root,
        lambda: run(config, root, resume=True),
        check,
        prepare=prepare,
        lasting=lasting,
        code=code,
        stride=stride,
    )
    assert runs >= 2


@pytest.mark.parametrize("number", range(1, 10))
def test_no_line_of_the_log_is_torn(tmp_path: Path, number: int) -> None:
    accelerator = Accelerator(cpu=True)
    log = RunLog(tmp_path, accelerator, max_train_steps=9, progress=False)
    with faults(tmp_path) as layer:
        log.open()
        layer.number = layer.count + number
        failed = 0
        for step in range(1, 10):
            try:
                log.log(step, {"loss": 1.5})
            except OSError:
                failed = step
        log.close()
    assert layer.failed
    assert failed == number
    assert whole_rows(tmp_path) == [step for step in range(1, 10) if step != failed]


class BrokenError(Exception):
    """An error that no code expects."""


def breaking(call: Any, number: int) -> Any:
    """A function whose call of some number raises."""
    calls = iter(range(1, 10_000))

    def broken(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            raise BrokenError("a bug")
        return call(*args, **kwargs)

    return broken


PHASES = {
    "reading data": (Trainer, "batches", 1),
    "the forward pass": ("latentslots.objectives.lsd.LatentSlotDiffusionObjective", "forward", 4),
    "the backward pass": ("accelerate.Accelerator", "backward", 4),
    "clipping gradients": ("latentslots.training.trainer", "clip_gradients", 4),
    "the optimizer's step": ("accelerate.optimizer.AcceleratedOptimizer", "step", 4),
    "averaging weights": ("diffusers.training_utils.EMAModel", "step", 4),
    "logging": (RunLog, "log", 4),
    "saving": (Trainer, "_write", 2),
    "validation": (Trainer, "validate", 2),
    "drawing a preview": (Trainer, "preview", 2),
}


@pytest.fixture(params=PHASES)
def phase(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    owner, name, number = PHASES[request.param]
    if isinstance(owner, str):
        module, _, attribute = owner.rpartition(".")
        owner = __import__(module, fromlist=[attribute])
        owner = getattr(owner, attribute)
    call = getattr(owner, name)
    if request.param == "reading data":

        def three_batches(self: Trainer) -> Iterator[Any]:
            yield from itertools.islice(call(self), 3)
            raise BrokenError("a bug")

        monkeypatch.setattr(owner, name, three_batches)
    else:
        monkeypatch.setattr(owner, name, breaking(call, number))
    return str(request.param)


def test_an_error_names_its_phase_and_keeps_the_last_checkpoint(
    config: TrainConfig, tmp_path: Path, phase: str
) -> None:
    changes = {
        "validation_steps": 2,
        "preview_steps": 2,
        "data.validation_split": "validation",
        "data.num_workers": 0,
        "checkpointing_steps": 2,
    }
    with pytest.raises(BrokenError, match="a bug") as caught:
        run(with_changes(config, changes), tmp_path / "run")
    assert any(f"in {phase}" in note for note in caught.value.__notes__)
    (newest, *_) = reversed(checkpoint.list_checkpoints(tmp_path / "run" / "state"))
    assert checkpoint.load(newest, 0, 1).values["step"] in (2, 4)
    load_pipeline(tmp_path / "run")
    assert whole_rows(tmp_path / "run")[-1] in (2, 3, 4)
