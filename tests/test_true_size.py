"""The recipes for photographs at their true size: shapes alone, on torch's meta device."""

import sys
from pathlib import Path

import pytest
import torch
from latentslots.objectives.auxiliary.alignment import FixedTwin
from torch._subclasses.fake_tensor import FakeTensorMode

from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.recipes import RECIPES, recipe
from tests.tiny import tiny_stable_lsd

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import memory

NAMES = [name for name in RECIPES if name.startswith("stable-lsd") and name != "stable-lsd-tiny"]


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_and_all_that_learns_is_reached(name: str) -> None:
    config = recipe(name)
    objective = memory.true_size(config)
    sizes = {k: sum(p.numel() for p in part.parameters()) for k, part in objective.named_children()}
    assert sizes["unet"] == 865_910_724  # Stable Diffusion 2.1
    assert sizes["encoder"] == 86_580_480  # DINOv2-B
    assert sizes["vae"] == 83_653_863
    layers = config.method.encoder.num_layers
    objective.noise_schedule.alphas_cumprod = torch.empty(1000, device="meta")
    objective.begin_step(config.max_train_steps)
    with torch.device("meta"):
        images = torch.empty(2, 3, 256, 256)
        assert objective.encoder(images).shape == (2, 768 * layers, 32, 32)
        batch = {
            "pixel_values": images,
            "latents": torch.empty(2, 4, 32, 32),
            "noise": torch.empty(2, 4, 32, 32),
            "timesteps": torch.zeros(2, dtype=torch.long),
            "slot_noise": torch.empty(2, config.method.num_slots, 768),
        }
        loss, logs = objective(batch)
    loss.backward()
    assert all(p.grad is not None for p in objective.trained_parameters())
    assert ("contrastive_loss" in logs) == (config.method.contrastive_weight > 0)
    assert ("guidance_loss" in logs) == (config.method.guidance_weight > 0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_is_that_of_real_tensors(checkpointing: bool) -> None:
    """Where shapes are all that is known, as much is kept as where there are numbers."""

    def kept(objective: LatentSlotDiffusionObjective) -> int:
        counted = memory.Kept(objective.parameters())
        if checkpointing:
            objective.unet.enable_gradient_checkpointing(counted.checkpoint)
        objective.begin_step(0)
        batch = {
            "pixel_values": torch.zeros(2, 3, 32, 32),
            "latents": torch.zeros(2, 4, 16, 16),
            "slot_noise": torch.zeros(2, 4, 16),
        }
        with torch.autocast("cpu", torch.bfloat16):
            counted.during(lambda: objective(batch))
        return counted.num_bytes

    objective = tiny_stable_lsd(
        tuned="cross-attention", guidance_weight=0.1, contrastive_weight=0.1
    ).train()
    real = kept(objective)
    objective.train()  # ends what it recorded
    objective.fixed_unet = FixedTwin()
    with FakeTensorMode():
        found = kept(memory.without_numbers(objective))
    assert found == pytest.approx(real, rel=0.02)


def test_checkpoints_save_memory() -> None:
    config = recipe("stable-lsd-coco-plus")
    with_them, without = (memory.memory(config, checkpointing=c) for c in (True, False))
    assert with_them.per_image < without.per_image / 2
    assert with_them.images(24) > without.images(24) > 16
