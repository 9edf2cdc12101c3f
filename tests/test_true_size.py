"""The recipes for photographs at full size, with shapes only, on torch's meta device."""

import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from latentslots.recipes import RECIPES, recipe
from tests.tiny import tiny_stable_lsd

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import memory

FULL_SIZE = [n for n in RECIPES if n.startswith("stable-lsd") and n != "stable-lsd-tiny"]
SIMILAR = ("stable-lsd-movi-e", "stable-lsd-voc")
"""They have the parts of `stable-lsd-coco-plus`; `test_recipes.py` builds them at tiny sizes."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SIMILAR else ()) for name in FULL_SIZE],
)
def test_it_builds_and_gradients_reach_all_trained_parameters(name: str) -> None:
    config = recipe(name)
    objective = memory.full_size(config)
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


def test_fake_tensors_take_the_memory_of_real_ones_with_and_without_checkpoints() -> None:
    objective = tiny_stable_lsd(
        tuned="cross-attention", guidance_weight=0.1, contrastive_weight=0.1
    ).train()

    def saved_bytes(checkpointing: bool) -> int:
        saved = memory.SavedTensors(objective.parameters())
        memory.renew_frozen_views(objective)
        if checkpointing:
            objective.unet.enable_gradient_checkpointing(saved.checkpoint)
        objective.train()  # stops recording attention
        objective.begin_step(0)
        batch = {
            "pixel_values": torch.zeros(2, 3, 32, 32),
            "latents": torch.zeros(2, 4, 16, 16),
            "slot_noise": torch.zeros(2, 4, 16),
        }
        with torch.autocast("cpu", torch.bfloat16):
            saved.during(lambda: objective(batch))
        return saved.num_bytes

    real = [saved_bytes(checkpointing) for checkpointing in (False, True)]
    assert real[1] < 0.8 * real[0]
    objective.unet.disable_gradient_checkpointing()
    with FakeTensorMode():
        memory.with_fake_tensors(objective)
        fake = [saved_bytes(checkpointing) for checkpointing in (False, True)]
    assert fake == pytest.approx(real, rel=0.02)


@pytest.mark.slow
def test_gradient_checkpoints_fit_more_images_into_a_gpu() -> None:
    config = recipe("stable-lsd-coco-plus")
    with_them, without = (memory.memory(config, checkpointing=c) for c in (True, False))
    assert with_them.per_image < without.per_image / 2
    assert with_them.images(24) > without.images(24) > 16


def test_a_tenth_of_the_memory_stays_free() -> None:
    assert memory.Memory(always=2**30, per_image=2**28).images(10) == 4 * (9 - 1)
    assert memory.Memory(always=2**30, per_image=2**28).images(1) == 0
