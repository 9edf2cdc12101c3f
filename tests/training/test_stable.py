"""Runs of Stable-LSD: resuming, cached features, uploads, and starting from another model."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from examples.tiny_pretrained import write_stable_diffusion

from latentslots.build.methods import build_objective
from latentslots.config import TrainConfig
from latentslots.pipelines import load_pipeline
from latentslots.recipes import recipe
from latentslots.training import train
from latentslots.training.checkpoint import CheckpointError
from latentslots.training.hub import push_to_hub
from tests.training.runs import run
from tests.training.test_recipes_run import shrink


@pytest.fixture
def diffusion(tmp_path: Path) -> Path:
    return write_stable_diffusion(tmp_path / "diffusion")


@pytest.fixture
def config(squares_store: Path, tiny_vit_dir: Path, diffusion: Path) -> TrainConfig:
    nowhere = Path("nowhere")
    return shrink(recipe("stable-lsd-voc"), squares_store, nowhere, tiny_vit_dir, diffusion)


def longer(config: TrainConfig, **method: Any) -> TrainConfig:
    changed = dataclasses.replace(config.method, **method)
    return dataclasses.replace(config, method=changed, max_train_steps=3)


def test_it_is_resumed_after_its_parts_moved_but_not_with_other_parts(
    config: TrainConfig, diffusion: Path, tmp_path: Path
) -> None:
    run(config, tmp_path / "run")
    moved = diffusion.rename(tmp_path / "moved")
    unet = dataclasses.replace(config.method.unet, name=str(moved))
    train(longer(config, unet=unet), tmp_path / "run", resume=True, progress=False)
    other = UNet2DConditionModel.from_pretrained(moved / "unet")
    with torch.no_grad():
        other.conv_in.bias.add_(1e-3)
    other.save_pretrained(moved / "unet")
    with pytest.raises(CheckpointError, match=r"was trained with another unet \(its hash is"):
        train(longer(config, unet=unet), tmp_path / "run", resume=True, progress=False)


def test_the_whole_empty_prompt_is_shown_on_request(config: TrainConfig, tmp_path: Path) -> None:
    changes = {"pad_unconditional": True, "condition_dropout": 0.5, "registers": "none"}
    run(longer(config, **changes), tmp_path / "run")
    pipe = load_pipeline(tmp_path / "run")
    assert pipe.slot_encoder.config.pad_null
    slots = pipe.encode(torch.rand(1, 3, 32, 32)).slots
    images = pipe(slots, guidance_scale=2.0, num_inference_steps=2, output_type="pt").images
    assert images.isfinite().all()
    with pytest.raises(ValueError, match=r"applies to a model without registers, got .*'empty"):
        run(longer(config, pad_unconditional=True), tmp_path / "never")


def test_a_run_folder_with_caches_alone_is_accepted(config: TrainConfig, tmp_path: Path) -> None:
    for name in ("latents", "features"):
        (tmp_path / "run" / name).mkdir(parents=True)
    run(config, tmp_path / "run")
    (tmp_path / "other" / "things").mkdir(parents=True)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        run(config, tmp_path / "other")


def test_a_folder_of_features_requires_cache_features(config: TrainConfig, tmp_path: Path) -> None:
    data = dataclasses.replace(config.data, features=str(tmp_path / "kept"))
    with pytest.raises(ValueError, match=r"folder of data\.cache_features: set both"):
        run(dataclasses.replace(config, data=data), tmp_path / "run")


def test_what_others_cannot_load_is_not_uploaded(config: TrainConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "run")
    with pytest.raises(ValueError, match=r"names /.*, a folder on this machine; save it"):
        push_to_hub(tmp_path / "run", "someone/model", endpoint="http://127.0.0.1:9")


def test_frozen_parts_are_compiled_too(config: TrainConfig) -> None:
    unet = dataclasses.replace(config.method.unet, tuned="nothing")
    objective = build_objective(longer(config, unet=unet))
    assert set(objective.trained()) == {"slot_encoder"}
    parts = [objective.slot_encoder, objective.encoder, objective.unet]
    assert {id(part) for part in objective.compiled()} == {id(part) for part in parts}


def test_a_model_with_other_frozen_weights_is_refused_as_a_start(
    config: TrainConfig, diffusion: Path, tmp_path: Path
) -> None:
    tuned = dataclasses.replace(config.method.unet, tuned="cross-attention")
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, unet=tuned))
    run(config, tmp_path / "first")
    start = dataclasses.replace(config, init_from=str(tmp_path / "first"))
    run(start, tmp_path / "second")
    other = UNet2DConditionModel.from_pretrained(diffusion / "unet")
    with torch.no_grad():
        other.conv_in.bias.add_(1e-3)
    moved = Path(shutil.copytree(diffusion, tmp_path / "other"))
    other.save_pretrained(moved / "unet")
    unet = dataclasses.replace(tuned, name=str(moved))
    start = dataclasses.replace(start, method=dataclasses.replace(start.method, unet=unet))
    with pytest.raises(ValueError, match=r"the unet of .* was trained around other frozen weights"):
        run(start, tmp_path / "third")
