"""The run folder: its content, and when it is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from latentslots.config import TrainConfig
from latentslots.config.io import load_config
from latentslots.data import load_dataset
from latentslots.models.autoencoder import load_vae
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.training import RunError
from latentslots.training.checkpoint import CheckpointError
from latentslots.training.run_log import read_metrics
from tests.training.runs import (
    assert_same,
    assert_same_run,
    losses,
    read_json,
    rewind,
    rows,
    run,
    saved,
    with_changes,
)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_its_config_replays_the_run(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    replayed = load_config(finished / "train_config.json")
    assert replayed == config
    run(replayed, tmp_path / "again")
    assert_same_run(tmp_path / "again", finished, step=4)


def test_it_records_its_environment(finished: Path) -> None:
    environment = read_json(finished / "environment.json")
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["num_threads"] == torch.get_num_threads()
    assert environment.keys() >= {"python", "platform", "command", "device"}


def test_it_has_one_row_of_metrics_per_step(finished: Path) -> None:
    found = read_metrics(finished)
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    seconds = [row["seconds"] for row in found]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_an_existing_run_is_refused(config: TrainConfig, finished: Path) -> None:
    before = snapshot(finished)
    with pytest.raises(RunError, match=r"already contains a run: add --resume"):
        run(config, finished)
    assert snapshot(finished) == before


def test_a_folder_with_other_content_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="is not an empty folder"):
        run(config, tmp_path)
    assert snapshot(tmp_path) == {"thesis.tex": b""}


def test_a_file_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is not an empty folder"):
        run(config, tmp_path / "run")


def test_an_empty_folder_is_accepted(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    run(config, tmp_path)
    assert_same_run(tmp_path, finished, step=4)


def test_there_must_be_a_run_to_resume(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run to resume: train_config\.json is missing"):
        run(config, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_without_a_checkpoint_resuming_starts_from_the_beginning(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    """Nothing was learned, so that everything may be changed."""
    begun = rewind(finished, 0, tmp_path / "begun")
    run(with_changes(config, {"method.num_slots": 3}), begun, resume=True)
    assert [row["step"] for row in rows(begun)] == [1, 2, 3, 4]
    assert losses(begun) != losses(finished)


@pytest.mark.parametrize(
    ("knob", "value", "said"),
    [
        ("method.slot_dim", 8, "method.slot_dim: 16 -> 8"),
        ("method.unet.block_out_channels", [8, 8], r"block_out_channels: \[8, 16\] -> \[8, 8\]"),
        ("method.prediction_type", "epsilon", "'v_prediction' -> 'epsilon'"),
        ("data.resolution", 64, "data.resolution: 32 -> 64"),
        ("data.random_flip", True, "data.random_flip: False -> True"),
        ("train_batch_size", 2, "train_batch_size: 4 -> 2"),
        ("seed", 1, "seed: 0 -> 1"),
    ],
)
def test_a_run_is_not_resumed_with_another_model_or_batch_size(
    config: TrainConfig, finished: Path, knob: str, value: Any, said: str
) -> None:
    before = snapshot(finished)
    with pytest.raises(RunError, match=f"another configuration: .*{said}"):
        run(with_changes(config, {knob: value}), finished, resume=True)
    assert snapshot(finished) == before


def test_every_change_is_named(config: TrainConfig, finished: Path) -> None:
    changed = with_changes(config, {"seed": 1, "method.num_heads": 2})
    with pytest.raises(RunError, match=r"method\.num_heads: 1 -> 2; seed: 0 -> 1"):
        run(changed, finished, resume=True)


def test_tensors_that_do_not_fit_an_edited_config_are_refused(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    """Someone edited the config in the run folder: the tensors do not fit."""
    edited = with_changes(config, {"method.slot_mlp_dim": 32})
    resumed = rewind(finished, 2, tmp_path / "run")
    values = read_json(resumed / "train_config.json")
    values["method"]["slot_mlp_dim"] = 32
    (resumed / "train_config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"step_0000002 does not fit this model") as raised:
        run(edited, resumed, resume=True)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpointing_steps": 3, "checkpoints_total_limit": 1},
        {"data.num_workers": 1, "data.on_bad_sample": "skip"},
        {"gradient_checkpointing": True},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_options_without_effect_on_training_may_change(
    config: TrainConfig, finished: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = with_changes(config, changes)
    resumed = rewind(finished, 2, tmp_path / "run")
    run(config, resumed, resume=True)
    assert_same(saved(resumed, 4), saved(finished, 4))
    assert load_config(resumed / "train_config.json") == config


def test_precision_and_learning_rate_may_change(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    resumed = rewind(finished, 2, tmp_path / "run")
    changes = {"mixed_precision": "bf16", "optim.learning_rate": 1e-4}
    run(with_changes(config, changes), resumed, resume=True)
    assert losses(resumed)[:2] == losses(finished)[:2]
    assert rows(resumed)[2]["lr"] == pytest.approx(1e-4)


def test_inference_settings_may_change(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    resumed = rewind(finished, 2, tmp_path / "run")
    changes = {"method.num_inference_slots": 6, "method.merge_overlap": 0.5}
    run(with_changes(config, changes), resumed, resume=True)
    assert_same(saved(resumed, 4), saved(finished, 4))
    pipe = LatentSlotDiffusionPipeline.from_pretrained(resumed)
    assert (pipe.num_slots, pipe.inference.merge_overlap) == (6, 0.5)


def test_the_mean_color_is_that_of_the_images(
    config: TrainConfig, finished: Path, squares_store: Path
) -> None:
    pipe = LatentSlotDiffusionPipeline.from_pretrained(finished)
    images = load_dataset(squares_store, split="train")["image"]
    mean = pipe.preprocess(list(images)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(pipe.patch_decoder.color_mean, mean)
    assert mean.abs().max() > 0.01


def test_a_run_is_resumed_after_its_data_moved(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(config.data.path, tmp_path / "moved")
    resumed = rewind(finished, 2, tmp_path / "run")
    run(with_changes(config, {"data.path": str(moved)}), resumed, resume=True)
    assert_same_run(resumed, finished, step=4)


def test_a_run_is_not_resumed_with_other_images_or_another_autoencoder(
    config: TrainConfig, finished: Path, scenes_store: Path, tmp_path: Path
) -> None:
    """And what is refused leaves the run as it was."""
    vae = load_vae(config.method.vae)
    with torch.no_grad():
        vae.encoder.conv_in.bias.add_(1e-3)
    vae.save_pretrained(tmp_path / "vae")
    resumed = rewind(finished, 2, tmp_path / "run")
    before = snapshot(resumed)
    for changes, said in (
        ({"data.path": str(scenes_store)}, "was trained on other images than"),
        ({"method.vae": str(tmp_path / "vae")}, "was trained with another vae"),
    ):
        with pytest.raises(CheckpointError, match=said):
            run(with_changes(config, changes), resumed, resume=True)
        kept = {name: text for name, text in snapshot(resumed).items() if "latents" not in name}
        assert kept == before


def test_metrics_after_the_checkpoint_are_removed(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    """Of a run that was killed in step 3, while it wrote a line: steps 1 and 2 are in the state."""
    resumed = rewind(finished, 2, tmp_path / "run")
    lines = (resumed / "metrics.jsonl").read_text().splitlines(keepends=True)
    (resumed / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    run(config, resumed, resume=True)
    assert_same_run(resumed, finished, step=4)


def test_the_time_of_earlier_runs_is_added(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    resumed = rewind(finished, 2, tmp_path / "run")
    found = read_metrics(resumed)[:2]
    found[1]["seconds"] = 1000.0
    text = "".join(json.dumps(row) + "\n" for row in found)
    (resumed / "metrics.jsonl").write_text(text)
    run(config, resumed, resume=True)
    assert all(1000 < row["seconds"] < 1100 for row in read_metrics(resumed)[2:])


def test_one_process_trains_with_two_precisions_in_turn(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    """Accelerate keeps its state for a whole process; a notebook trains more than once."""
    short = with_changes(config, {"max_train_steps": 1})
    run(with_changes(short, {"mixed_precision": "bf16"}), tmp_path / "bf16")
    run(short, tmp_path / "no")
    assert losses(tmp_path / "no") == losses(finished)[:1]
    assert losses(tmp_path / "bf16") != losses(finished)[:1]


def test_a_run_is_resumed_after_its_batch_size_is_corrected(
    config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="12 rows, which do not fill one batch of 13"):
        run(with_changes(config, {"train_batch_size": 13}), tmp_path / "run")
    run(with_changes(config, {"max_train_steps": 1}), tmp_path / "run", resume=True)
    assert len(losses(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("train_batch_size", 0, "at least 1, got 0"),
        ("gradient_accumulation_steps", 0, "at least 1, got 0"),
        ("max_train_steps", 0, "at least 1, got 0"),
        ("num_validation_images", 0, "at least 1, got 0"),
        ("checkpoints_total_limit", 0, "at least 1, got 0"),
        ("max_train_minutes", -1.0, "at least 0, got -1.0"),
        ("optim.max_grad_norm", -1.0, "at least 0, got -1.0"),
        ("optim.learning_rate", float("nan"), "at least 0, got nan"),
        ("optim.lr_decay_fraction", 30.0, "from 0 to 1, got 30.0"),
        ("optim.ema_decay", 1.0, "at least 0 and below 1, got 1.0"),
        ("method.snr_gamma", -1.0, "at least 0, got -1.0"),
        ("method.slot_dim", 0, "at least 1, got 0"),
        ("method.encoder.norm_num_groups", 0, "at least 1, got 0"),
        ("method.unet.block_out_channels", (8, -16), "at least 1, got -16"),
    ],
)
def test_numbers_out_of_range_are_refused(
    config: TrainConfig, tmp_path: Path, name: str, value: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=f"{name} must be {said}"):
        run(with_changes(config, {name: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_maximum_norm_gradients_are_not_clipped(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    runs = {}
    for norm in (0.0, 1e9):
        changes = {"optim.max_grad_norm": norm, "max_train_steps": 2}
        run(with_changes(config, changes), tmp_path / str(norm))
        runs[norm] = saved(tmp_path / str(norm), 2)
    assert_same(runs[0.0], runs[1e9])


def test_missing_data_leaves_no_folder(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no data set at"):
        run(with_changes(config, {"data.path": str(tmp_path / "none")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_time_limit_ends_a_run(config: TrainConfig, tmp_path: Path) -> None:
    """The first step after the limit is the last: validated, drawn and saved."""
    changes = {"max_train_minutes": 0.5 / 60, "max_train_steps": 100_000}
    run(with_changes(config, changes), tmp_path / "run")
    found = read_metrics(tmp_path / "run")
    assert len(found) < 10_000
    assert found[-1]["seconds"] >= 0.5
    assert saved(tmp_path / "run", found[-1]["step"])
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()
    before = snapshot(tmp_path / "run" / "state")
    run(with_changes(config, changes), tmp_path / "run", resume=True)
    assert snapshot(tmp_path / "run" / "state") == before, "its time is over"
