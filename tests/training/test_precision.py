"""`mixed_precision="auto"`: a trial chooses, the run records the choice, and resuming keeps it."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentslots.config import TrainConfig
from latentslots.config.io import load_config
from latentslots.recipes import recipe
from latentslots.training import precision
from latentslots.training.precision import choose_precision
from tests.training.runs import losses, run


@pytest.fixture
def auto(config: TrainConfig) -> TrainConfig:
    return replace(config, mixed_precision="auto", max_train_steps=2)


def pretend(monkeypatch: pytest.MonkeyPatch, *, fp32: float, bf16: float) -> None:
    """Make the trial take these seconds."""
    monkeypatch.setattr(precision, "_seconds", lambda _, autocast: bf16 if autocast else fp32)


@pytest.mark.parametrize(("bf16", "choice"), [(0.5, "bf16"), (0.95, "no"), (2.0, "no")])
def test_bf16_must_be_clearly_faster(
    auto: TrainConfig,
    bf16: float,
    choice: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pretend(monkeypatch, fp32=1.0, bf16=bf16)
    with caplog.at_level(logging.WARNING):
        assert choose_precision(auto).mixed_precision == choice
    assert f"mixed_precision='auto': {choice}, as a matrix product takes" in caplog.text


def test_the_trial_measures_both() -> None:
    times = [precision._seconds(torch.device("cpu"), autocast) for autocast in (False, True)]
    assert all(0 < seconds < 60 for seconds in times)


@pytest.mark.parametrize("named", ["no", "bf16"])
def test_a_named_precision_is_used_without_a_trial(auto: TrainConfig, named: str) -> None:
    config = replace(auto, mixed_precision=named)
    assert choose_precision(config, saved="no") is config


def test_the_run_records_the_choice_and_resuming_keeps_it(
    auto: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, fp32=1.0, bf16=0.5)
    run(auto, tmp_path / "run")
    assert load_config(tmp_path / "run" / "train_config.json").mixed_precision == "bf16"
    pretend(monkeypatch, fp32=1.0, bf16=2.0)
    run(replace(auto, max_train_steps=3), tmp_path / "run", resume=True)
    assert load_config(tmp_path / "run" / "train_config.json").mixed_precision == "bf16"
    assert len(losses(tmp_path / "run")) == 3


@pytest.mark.parametrize(
    "name", ["lsd-scenes-64", "lsd-scenes-textured-64", "lsd-nlvr-64", "autoencoder-small"]
)
def test_recipes_for_cpus_leave_it_to_the_trial(name: str) -> None:
    assert recipe(name).mixed_precision == "auto"
