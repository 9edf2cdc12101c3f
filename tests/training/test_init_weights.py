"""Training that starts from the weights of another model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentslots.config import TrainConfig
from latentslots.models.autoencoder import load_vae
from latentslots.pipelines import load_pipeline
from latentslots.recipes import recipe
from latentslots.training.run import train
from tests.training.runs import rows, run, with_changes

PARTS = ("encoder", "slot_encoder", "unet")
STILL = {"optim.learning_rate": 0.0, "optim.adam_weight_decay": 0.0, "max_train_steps": 1}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    pipe = load_pipeline(run_dir)
    return {
        f"{part}.{key}": value
        for part in PARTS
        for key, value in pipe.components[part].state_dict().items()
    }


def test_weights_are_those_of_the_other_model(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    fresh = with_changes(config, {**STILL, "seed": 5})
    run(fresh, tmp_path / "fresh")
    run(with_changes(fresh, {"init_from": str(finished)}), tmp_path / "out")
    before, without, after = (
        weights(finished),
        weights(tmp_path / "fresh"),
        weights(tmp_path / "out"),
    )
    assert not all(torch.equal(before[key], without[key]) for key in before)
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)


def test_a_resumed_run_continues_with_its_own_weights(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    longer = with_changes(config, {"init_from": str(finished), "max_train_steps": 4})
    run(longer, tmp_path / "whole")
    shorter = with_changes(longer, {"max_train_steps": 2})
    run(shorter, tmp_path / "parts")
    run(longer, tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert [row["loss"] for row in rows(tmp_path / "whole") if "loss" in row][-1] == [
        row["loss"] for row in rows(tmp_path / "parts") if "loss" in row
    ][-1]


def test_latents_are_whitened_as_those_of_the_other_model(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    white = with_changes(config, {"method.whiten_latents": True, "max_train_steps": 1})
    run(white, tmp_path / "first")
    few = with_changes(white, {**STILL, "init_from": str(tmp_path / "first")})
    run(few, tmp_path / "second")
    first, second = (load_vae(str(tmp_path / name)).config for name in ("first", "second"))
    assert first.latents_mean == second.latents_mean
    assert first.latents_std == second.latents_std
    assert first.scaling_factor == second.scaling_factor == 1
    with pytest.raises(ValueError, match=r"not whitened: set method\.whiten_latents to false"):
        run(with_changes(few, {"init_from": str(finished)}), tmp_path / "third")


def test_an_autoencoder_starts_from_another_one(
    squares_store: Path, tiny_vae_dir: Path, config: TrainConfig, tmp_path: Path
) -> None:
    small = replace(
        recipe("autoencoder-small"),
        data=replace(config.data, path=str(squares_store), validation_split="validation"),
        train_batch_size=4,
        mixed_precision="no",
        init_from="bundled",
    )
    small = with_changes(small, {**STILL, "optim.lr_warmup_steps": 0, "data.resolution": 32})
    run(small, tmp_path / "out")
    before, after = load_vae("bundled").state_dict(), load_vae(str(tmp_path / "out")).state_dict()
    for key, value in before.items():
        torch.testing.assert_close(after[key].float(), value.float())
    with pytest.raises(ValueError, match=r"init_from: the vae of .* is different"):
        train(with_changes(small, {"init_from": str(tiny_vae_dir)}), tmp_path / "r", progress=False)


def test_a_missing_model(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing-here"):
        train(with_changes(config, {"init_from": str(tmp_path / "nothing-here")}), tmp_path / "r")


def test_a_model_of_another_width(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    wider = with_changes(config, {"init_from": str(finished), "method.slot_dim": 48})
    with pytest.raises(ValueError, match=r"init_from: the \w+ of .* there and .* here"):
        train(wider, tmp_path / "r", progress=False)


def test_a_model_without_a_part(config: TrainConfig, tmp_path: Path) -> None:
    alone = {
        "method.patch_decoder_weight": 0.0,
        "method.mask_distillation_weight": 0.0,
        "method.patch_plain_steps": 0,
        "method.unet.map_channels": 0,
        "max_train_steps": 1,
    }
    run(with_changes(config, alone), tmp_path / "bare")
    wanted = with_changes(config, {**alone, "method.patch_decoder_weight": 1.0})
    with pytest.raises(ValueError, match="bare has no patch_decoder to start from"):
        train(
            with_changes(wanted, {"init_from": str(tmp_path / "bare")}),
            tmp_path / "r",
            progress=False,
        )
