"""The contract of every objective."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from scipy.fft import dctn
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.models.autoencoder import encode_latents, scale_latents
from latentslots.models.stable_diffusion import StableDiffusionUNet
from latentslots.objectives import (
    AutoencoderObjective,
    DinosaurObjective,
    LatentSlotDiffusionObjective,
    Objective,
    SlateObjective,
    SlotAttentionObjective,
)
from latentslots.objectives.autoencoder import cosine_filters
from latentslots.objectives.auxiliary.patch import mask_cross_entropy
from latentslots.objectives.base import FixedDraws, collapse_metrics
from latentslots.pipelines import LatentSlotDiffusionPipeline
from tests.tiny import (
    squares,
    tiny_autoencoder,
    tiny_dinosaur,
    tiny_lsd,
    tiny_slate,
    tiny_slot_attention,
    tiny_stable_lsd,
)

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "lsd": tiny_lsd,
    "lsd-everything": lambda: tiny_lsd(
        prediction_type="v_prediction", snr_gamma=5.0, condition_dropout=0.3, num_registers=2
    ),
    "lsd-null": lambda: tiny_lsd(condition_dropout=0.3, slot_init="learned", bi_level=True),
    "lsd-patch-decoder": lambda: tiny_lsd(patch_decoder_weight=2.0),
    "lsd-map": lambda: tiny_lsd(
        patch_decoder_weight=2.0, map_channels=3, condition_dropout=0.3, num_registers=1
    ),
    "lsd-mask-distillation": lambda: tiny_lsd(
        patch_decoder_weight=2.0, mask_distillation_weight=1.0
    ),
    "lsd-frames": lambda: tiny_lsd(
        patch_decoder_weight=2.0,
        mask_distillation_weight=1.0,
        map_channels=3,
        condition_dropout=0.3,
        frames=True,
    ),
    "stable-lsd": tiny_stable_lsd,
    "stable-lsd-plus": lambda: tiny_stable_lsd(
        tuned="cross-attention",
        registers="empty-prompt",
        condition_dropout=0.3,
        contrastive_weight=0.05,
        guidance_weight=0.1,
    ),
    "stable-lsd-lora": lambda: tiny_stable_lsd(tuned="lora", registers="learned", num_registers=3),
    "slot-attention": tiny_slot_attention,
    "slate": tiny_slate,
    "dinosaur": tiny_dinosaur,
    "dinosaur-transformer": lambda: tiny_dinosaur(autoregressive=True),
    "autoencoder": lambda: AutoencoderObjective(tiny_autoencoder()),
    "autoencoder-perceptual": lambda: AutoencoderObjective(
        tiny_autoencoder(), perceptual=Perceptual(), perceptual_weight=0.5
    ),
    "autoencoder-cosine": lambda: AutoencoderObjective(tiny_autoencoder(), cosine_weight=0.5),
}


class Perceptual(nn.Module):
    """A distance with weights of its own, which must not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        difference = self.features(one) - self.features(other)
        return self.dropout(difference).square().mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> Objective:
    return OBJECTIVES[request.param]().train()


@pytest.fixture
def pixel_values() -> Tensor:
    images = torch.from_numpy(squares(4, seed=1)[0]).permute(0, 3, 1, 2)
    return images.float() / 127.5 - 1


@pytest.fixture
def batch(pixel_values: Tensor) -> dict[str, Tensor]:
    """With every draw of Latent Slot Diffusion, so that the loss is a function of the weights."""
    return {
        "pixel_values": pixel_values,
        "posterior_noise": torch.randn(4, 4, 16, 16),
        "noise": torch.randn(4, 4, 16, 16),
        "timesteps": torch.tensor([10, 300, 600, 990]),
        "slot_noise": torch.randn(4, 4, 16),
    }


class TestEveryObjective:
    def test_the_loss_is_finite_and_gradients_reach_every_trained_parameter(
        self, objective: Objective, pixel_values: Tensor
    ) -> None:
        loss, logs = objective({"pixel_values": pixel_values.repeat(4, 1, 1, 1)})
        assert loss.shape == ()
        assert loss.isfinite()
        assert all(value.isfinite() and not value.requires_grad for value in logs.values())
        loss.backward()
        untouched = [
            name
            for part in objective.trained().values()
            for name, p in part.named_parameters()
            if p.requires_grad and p.grad is None
        ]
        assert untouched == []

    def test_frozen_parameters_do_not_change(
        self, objective: Objective, pixel_values: Tensor
    ) -> None:
        trained = set(objective.trained_parameters())
        frozen = {name: p for name, p in objective.named_parameters() if p not in trained}
        assert all(p.requires_grad for p in trained)
        assert not any(p.requires_grad for p in frozen.values())
        before = {name: p.clone() for name, p in frozen.items()}
        optimizer = torch.optim.AdamW(objective.parameters(), lr=0.01)
        loss, _ = objective.train()({"pixel_values": pixel_values})
        loss.backward()
        optimizer.step()
        for name, parameter in frozen.items():
            assert torch.equal(parameter, before[name]), name

    def test_frozen_parts_stay_in_evaluation_mode(self, objective: Objective) -> None:
        trained = {id(part) for part in objective.trained().values()}
        for part in objective.train().children():
            assert part.training == (id(part) in trained)
        objective.eval()
        assert not any(part.training for part in objective.modules())

    def test_the_loss_falls_on_one_batch(
        self, objective: Objective, batch: dict[str, Tensor]
    ) -> None:
        if getattr(objective, "condition_dropout", 0):
            batch["dropped"] = torch.tensor([False, False, False, True])
        slot_encoder = getattr(objective, "slot_encoder", None)
        if slot_encoder is not None and slot_encoder.config.slot_init == "learned":
            del batch["slot_noise"]
        rate, steps = 1e-2, 12
        if isinstance(objective, SlotAttentionObjective | DinosaurObjective):
            # To say where a thing is takes a decoder longer than to denoise around it.
            rate, steps = 3e-3, 70
        elif isinstance(objective, SlateObjective):
            objective.eval()  # Words are the likeliest then, and not drawn.
            steps = 40
        optimizer = torch.optim.AdamW(objective.trained_parameters(), lr=rate)
        losses = []
        for _ in range(steps):
            loss, _ = objective(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        # Slots alone can do little about a denoiser that was never trained.
        enough = 0.95 if isinstance(getattr(objective, "unet", None), StableDiffusionUNet) else 0.8
        assert losses[-1] < enough * losses[0]

    def test_the_trained_state_can_be_loaded(
        self, objective: Objective, batch: dict[str, Tensor]
    ) -> None:
        state = {name: tensor.clone() for name, tensor in objective.trained_state().items()}
        frozen = {id(p) for p in objective.parameters() if not p.requires_grad}
        kept = [
            f"{name}.{key}"
            for name, part in objective.trained().items()
            for key, tensor in part.state_dict(keep_vars=True).items()
            if id(tensor) not in frozen
        ]
        assert list(state) == kept
        with torch.no_grad():
            for parameter in objective.trained_parameters():
                parameter.zero_()
        objective.load_trained_state(state)
        torch.testing.assert_close(objective.trained_state(), state, atol=0, rtol=0)

    def test_a_trained_state_that_does_not_fit_is_refused(self, objective: Objective) -> None:
        state = objective.trained_state()
        name = next(iter(state))
        with pytest.raises(RuntimeError, match=r"Missing key"):
            objective.load_trained_state({k: v for k, v in state.items() if k != name})
        with pytest.raises(ValueError, match=r"no part for the tensor stranger\.weight"):
            objective.load_trained_state({**state, "stranger.weight": torch.zeros(1)})
        with pytest.raises(RuntimeError, match="size mismatch"):
            objective.load_trained_state({**state, name: state[name][:-1]})


class TestLatentSlotDiffusion:
    def test_is_the_mean_squared_error_of_the_noise(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_lsd()
        loss, _ = objective(batch)
        latents = objective.latents(batch)
        prediction = predict(objective, batch, latents)
        torch.testing.assert_close(loss, F.mse_loss(prediction, batch["noise"]))

    def test_latents_are_a_scaled_sample_of_the_posterior(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_lsd()
        posterior = objective.vae.encode(batch["pixel_values"]).latent_dist
        sample = posterior.mean + posterior.std * batch["posterior_noise"]
        torch.testing.assert_close(objective.latents(batch), 0.8 * sample)

    def test_the_shift_of_the_vae_is_subtracted_and_added_again(
        self, batch: dict[str, Tensor]
    ) -> None:
        objective = tiny_lsd()
        plain = objective.latents(batch)
        objective.vae.register_to_config(shift_factor=0.5)
        torch.testing.assert_close(objective.latents(batch), plain - 0.8 * 0.5)
        painted = objective.to_pipeline()._decode(plain - 0.4, "pt")
        objective.vae.register_to_config(shift_factor=None)
        torch.testing.assert_close(painted, objective.to_pipeline()._decode(plain, "pt"))

    @pytest.mark.parametrize("cached", [("mean", "std"), ("latents",)])
    def test_cached_latents_give_the_loss_of_live_ones(
        self,
        batch: dict[str, Tensor],
        cached: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        objective = tiny_lsd()
        live, _ = objective(batch)
        with torch.no_grad():
            posterior = objective.vae.encode(batch["pixel_values"]).latent_dist
        if cached == ("latents",):
            batch["latents"] = objective.latents(batch)
            del batch["posterior_noise"]
        else:
            batch["latent_mean"], batch["latent_std"] = posterior.mean, posterior.std
            monkeypatch.setattr(objective.vae, "encode", None)  # it must not be needed
        torch.testing.assert_close(objective(batch)[0], live)

    def test_the_loss_from_the_average_slot_differs_unless_there_is_one_slot(
        self, pixel_values: Tensor
    ) -> None:
        def losses(num_slots: int) -> dict[str, Tensor]:
            objective = tiny_lsd(num_slots=num_slots).eval()
            draws = FixedDraws(torch.Generator().manual_seed(0), torch.tensor([2, 0, 3, 1]), 4)
            with torch.no_grad():
                return objective.validation_losses({"pixel_values": pixel_values}, draws)

        apart, alone = losses(4), losses(1)
        assert not torch.allclose(apart["loss"], apart["loss_average_slot"], rtol=1e-4)
        torch.testing.assert_close(alone["loss"], alone["loss_average_slot"])

    def test_validation_spreads_timesteps_evenly_over_the_images(
        self, pixel_values: Tensor
    ) -> None:
        objective = tiny_lsd(condition_dropout=0.5).eval()
        draws = FixedDraws(torch.Generator().manual_seed(0), torch.tensor([1, 0, 3, 2]), 4)
        found = objective.validation_losses({"pixel_values": pixel_values}, draws)
        generator = torch.Generator().manual_seed(0)
        latents = objective.latents({"pixel_values": pixel_values}, generator=generator)
        batch = {
            "pixel_values": pixel_values,
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=generator),
            "slot_noise": objective.slot_encoder.draw_noise(4, generator=generator),
            "timesteps": torch.tensor([333, 0, 999, 666]),
        }
        for name, dropped in (("loss", False), ("loss_no_slots", True)):
            expected, _ = objective({**batch, "dropped": torch.full((4,), dropped)})
            torch.testing.assert_close(found[name].mean(), expected)

    def test_a_missing_vae_is_named_if_there_are_no_latents(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_lsd()
        objective.vae = None
        with pytest.raises(ValueError, match="needs a VAE"):
            objective(batch)

    def test_velocity_is_the_target_of_v_prediction(self, batch: dict[str, Tensor]) -> None:
        """Salimans and Ho (2022): v = alpha eps - sigma x."""
        objective = tiny_lsd(prediction_type="v_prediction")
        latents = objective.latents(batch)
        alpha, sigma = (c[:, None, None, None] for c in schedule(batch["timesteps"]))
        velocity = alpha * batch["noise"] - sigma * latents
        prediction = predict(objective, batch, latents)
        torch.testing.assert_close(objective(batch)[0], F.mse_loss(prediction, velocity))

    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
    def test_min_snr_weights(self, batch: dict[str, Tensor], prediction_type: str) -> None:
        """Hang et al. (2023): a weight of min(SNR, gamma) on the error of the clean latents."""
        objective = tiny_lsd(prediction_type=prediction_type, snr_gamma=5.0)
        latents = objective.latents(batch)
        prediction = predict(objective, batch, latents)
        alpha, sigma = (c[:, None, None, None] for c in schedule(batch["timesteps"]))
        noisy = alpha * latents + sigma * batch["noise"]
        if prediction_type == "epsilon":
            clean = (noisy - sigma * prediction) / alpha
        else:
            clean = alpha * noisy - sigma * prediction
        weight = ((alpha / sigma) ** 2).clamp(max=5.0)
        expected = (weight * (clean - latents).square()).mean()
        torch.testing.assert_close(objective(batch)[0], expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("num_registers", [0, 2])
    def test_the_loss_of_a_dropped_image_does_not_depend_on_its_slots(
        self, batch: dict[str, Tensor], num_registers: int
    ) -> None:
        objective = tiny_lsd(condition_dropout=0.5, num_registers=num_registers)
        other = {**batch, "latents": objective.latents(batch)}
        other["pixel_values"] = batch["pixel_values"].flip(0)
        batch["latents"] = other["latents"]
        for dropped, blind in ((True, True), (False, False)):
            flags = torch.full((4,), dropped)
            losses = [objective({**b, "dropped": flags})[0] for b in (batch, other)]
            assert torch.allclose(*losses, rtol=1e-6) == blind

    @pytest.mark.parametrize("num_registers", [0, 2])
    def test_gradients_reach_exactly_the_images_that_are_not_dropped(
        self, batch: dict[str, Tensor], num_registers: int
    ) -> None:
        objective = tiny_lsd(condition_dropout=0.5, num_registers=num_registers)
        pixel_values = batch["pixel_values"].clone().requires_grad_()
        batch["latents"] = objective.latents(batch)
        dropped = torch.tensor([True, False, True, False])
        loss, _ = objective({**batch, "pixel_values": pixel_values, "dropped": dropped})
        loss.backward()
        assert pixel_values.grad.flatten(1).any(dim=1).tolist() == [False, True, False, True]

    def test_the_share_of_dropped_images_is_the_condition_dropout(
        self, pixel_values: Tensor
    ) -> None:
        objective = tiny_lsd(condition_dropout=0.25)
        batch = {"pixel_values": pixel_values.repeat(500, 1, 1, 1)}
        share = objective.drop(batch).float().mean().item()
        assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))
        assert tiny_lsd().drop(batch) is None

    def test_condition_dropout_out_of_range_is_refused(self) -> None:
        for share in (-0.1, 1.0):
            with pytest.raises(ValueError, match=rf"in \[0, 1\), got {share}"):
                tiny_lsd(condition_dropout=share)

    def test_condition_dropout_requires_an_unconditional_branch(
        self, batch: dict[str, Tensor]
    ) -> None:
        objective = tiny_lsd()
        objective.condition_dropout = 0.5
        with pytest.raises(ValueError, match="needs registers or null_condition=True"):
            objective(batch)

    @pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
    def test_timesteps_are_drawn_toward_noise(self, shift: float) -> None:
        """Esser et al. (2024), Eq. 23: t' = s t / (1 + (s - 1) t), whose inverse is even."""
        objective = tiny_lsd()
        objective.timestep_shift = shift
        timesteps = objective.draw_timesteps(torch.zeros(20_000, 1, 1, 1))
        assert timesteps.dtype == torch.int64
        assert timesteps.min() >= 0
        assert timesteps.max() <= 999
        drawn = (timesteps + 0.5) / 1000
        even = (drawn / (shift - (shift - 1) * drawn)).sort().values
        expected = (torch.arange(20_000) + 0.5) / 20_000
        assert (even - expected).abs().max() < 0.02  # Kolmogorov and Smirnov: 0.012 at 1 %

    def test_timesteps_that_are_drawn_are_used(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_lsd()
        given = batch.pop("timesteps")
        objective.draw_timesteps = lambda latents: given
        drawn, _ = objective(batch)
        torch.testing.assert_close(drawn, objective({**batch, "timesteps": given})[0])

    def test_a_timestep_shift_must_be_positive(self) -> None:
        objective = tiny_lsd()
        parts = {name: getattr(objective, name) for name in ("encoder", "slot_encoder", "unet")}
        with pytest.raises(ValueError, match="timestep_shift must be more than 0, got 0"):
            LatentSlotDiffusionObjective(
                **parts,
                noise_schedule=objective.noise_schedule,
                vae=None,
                resolution=32,
                timestep_shift=0.0,
            )

    def test_a_patch_decoder_adds_its_reconstruction_error(self, batch: dict[str, Tensor]) -> None:
        plain, _ = tiny_lsd()(batch)
        objective = tiny_lsd(patch_decoder_weight=2.0)
        cells = torch.tensor([3, 200, 77, 31])
        loss, logs = objective({**batch, "cells": cells})
        torch.testing.assert_close(logs["denoising_loss"], plain.detach())
        torch.testing.assert_close(loss.detach(), plain + 2 * logs["patch_loss"])

        features = objective.encoder(batch["pixel_values"])
        slots = objective.slot_encoder(features, noise=batch["slot_noise"]).slots
        blocks = batch["pixel_values"].unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean(dim=(3, 5))
        mixture = objective.patch_decoder(slots, height=16, width=16).mixture()
        error = mixture - blocks.flatten(2).transpose(1, 2)
        expected = error[:, cells].square().mean() / 0.3**2
        torch.testing.assert_close(logs["patch_loss"], expected.detach())

    def test_pixels_are_decoded_once_for_the_denoiser_and_the_patch_decoders_loss(
        self, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objective = tiny_lsd(
            frames=True, map_channels=3, patch_decoder_weight=2.0, patch_size=1, slot_dim=16
        )
        sizes = []
        decode = type(objective.patch_decoder).forward

        def count(self: Any, slots: Tensor, **options: Any) -> Any:
            sizes.append(options["height"])
            return decode(self, slots, **options)

        monkeypatch.setattr(type(objective.patch_decoder), "forward", count)
        batch["cells"] = torch.tensor([3, 200, 777, 1023])
        _, logs = objective(batch)
        assert sizes == [32]

        features = objective.encoder(batch["pixel_values"])
        slots = objective.slot_encoder(
            features, pixel_values=batch["pixel_values"], noise=batch["slot_noise"]
        ).slots
        scene = decode(objective.patch_decoder, slots, height=32, width=32, cells=batch["cells"])
        target = batch["pixel_values"].flatten(2)[:, :, batch["cells"]].transpose(1, 2)
        error = (scene.mixture() - target).square().mean() / 0.3**2
        torch.testing.assert_close(logs["patch_loss"], error.detach())

    def test_the_mean_color_is_measured(self, pixel_values: Tensor) -> None:
        objective = tiny_lsd(patch_decoder_weight=2.0)
        objective.measure(pixel_values)
        mean = objective.trained_state()["patch_decoder.color_mean"]
        torch.testing.assert_close(mean, pixel_values.mean(dim=(0, 2, 3)))
        tiny_lsd().measure(pixel_values)  # nothing to measure

    def test_whitened_latents_are_measured(self, pixel_values: Tensor, tmp_path: Path) -> None:
        objective = tiny_lsd(whiten_latents=True)
        assert objective.has_statistics
        objective.measure(pixel_values)
        latents = encode_latents(objective.vae, pixel_values)
        torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
        objective.save_pipeline(tmp_path)
        again = tiny_lsd(whiten_latents=True)
        again.load_trained_state(objective.trained_state())
        saved = AutoencoderKL.from_pretrained(tmp_path / "vae").config
        assert again.frozen_hashes() == objective.frozen_hashes()
        for name in ("latents_mean", "latents_std"):
            assert again.vae.config[name] == objective.vae.config[name] == saved[name]
        assert not tiny_lsd().has_statistics

    def test_colors_become_free_after_the_plain_steps(self) -> None:
        objective = tiny_lsd(patch_decoder_weight=1.0, patch_plain_steps=100)
        freedom = []
        for step in (0, 100, 150, 200, 5_000):
            objective.begin_step(step)
            freedom.append(objective.patch_decoder.freedom.item())
        assert freedom == [0, 0, 0.5, 1, 1]
        assert "patch_decoder.freedom" in objective.trained_state()
        free = tiny_lsd(patch_decoder_weight=1.0)
        free.begin_step(0)
        assert free.patch_decoder.freedom == 1
        tiny_lsd().begin_step(0)
        with pytest.raises(ValueError, match="patch_plain_steps must be 0 or more, got -1"):
            tiny_lsd(patch_decoder_weight=1.0, patch_plain_steps=-1)

    def test_the_denoiser_gets_the_layout_of_the_patch_decoder(
        self, batch: dict[str, Tensor]
    ) -> None:
        objective = tiny_lsd(patch_decoder_weight=1.0, map_channels=3)
        batch["latents"] = torch.randn(4, 4, 16, 16)
        _, logs = objective(batch)
        slots = objective.slot_encoder(
            objective.encoder(batch["pixel_values"]), noise=batch["slot_noise"]
        ).slots
        places = objective.patch_decoder(slots, height=16, width=16).masks.unflatten(2, (16, 16))
        alpha, sigma = (c[:, None, None, None] for c in schedule(batch["timesteps"]))
        noisy = alpha * batch["latents"] + sigma * batch["noise"]
        states = objective.slot_encoder.project(slots)
        said = objective.unet(noisy, batch["timesteps"], states, None, places).sample
        expected = F.mse_loss(said, batch["noise"])
        torch.testing.assert_close(logs["denoising_loss"], expected.detach())

    def test_a_denoiser_with_a_layout_needs_a_patch_decoder(self) -> None:
        with pytest.raises(ValueError, match="map_channels needs a patch decoder: set"):
            tiny_lsd(map_channels=3)

    def test_other_cells_are_decoded_at_every_step(self, pixel_values: Tensor) -> None:
        objective = tiny_lsd(patch_decoder_weight=2.0, patch_size=1)  # 1,024 cells, 256 a step
        painted = []
        decode = objective.patch_decoder.forward
        objective.patch_decoder.forward = lambda *args, cells, **kwargs: (
            painted.append(cells.tolist()),
            decode(*args, cells=cells, **kwargs),
        )[1]
        for _ in range(2):
            objective({"pixel_values": pixel_values})
        assert [len(set(cells)) for cells in painted] == [256, 256]
        assert set(painted[0]) != set(painted[1])
        assert max(painted[0]) > 900

    def test_a_patch_decoder_trains_the_slots_and_segments_in_the_pipeline(
        self, batch: dict[str, Tensor]
    ) -> None:
        gradients = []
        for objective in (tiny_lsd(), tiny_lsd(patch_decoder_weight=2.0)):
            loss, logs = objective(batch)
            gradients.append(torch.autograd.grad(loss, objective.slot_encoder.slot_mean)[0])
            assert ("patch_loss" in logs) == (objective.patch_decoder is not None)
        assert not torch.allclose(*gradients)
        assert objective.to_pipeline().patch_decoder is objective.patch_decoder

    def test_responsibilities_supervise_the_attention(self, batch: dict[str, Tensor]) -> None:
        plain, _ = tiny_lsd(patch_decoder_weight=2.0)(batch)
        objective = tiny_lsd(patch_decoder_weight=2.0, mask_distillation_weight=3.0)
        loss, logs = objective(batch)
        torch.testing.assert_close(loss, plain + 3 * logs["distillation_loss"])

        features = objective.encoder(batch["pixel_values"])
        out = objective.slot_encoder(features, noise=batch["slot_noise"])
        patches = F.avg_pool2d(batch["pixel_values"], 2).flatten(2).transpose(1, 2)
        painted = objective.patch_decoder(out.slots, height=16, width=16)
        teacher = painted.responsibilities(patches)
        assert out.attention.shape == teacher.shape == (4, 4, 256)  # 256 cells: all of them
        sureness = 1 + (teacher * teacher.log()).sum(dim=1) / math.log(4)
        cross_entropy = -(teacher * out.attention.log()).sum(dim=1)
        expected = (sureness * cross_entropy).mean().detach()
        torch.testing.assert_close(logs["distillation_loss"], expected)

    @pytest.mark.parametrize(("patch_size", "mode"), [(1, "bilinear"), (4, "area")])
    def test_attention_on_another_grid_is_resized_to_the_patches(
        self, patch_size: int, mode: str, batch: dict[str, Tensor]
    ) -> None:
        objective = tiny_lsd(
            patch_decoder_weight=2.0, mask_distillation_weight=3.0, patch_size=patch_size
        )
        side, cells = 32 // patch_size, torch.tensor([5, 40, 63])
        _, logs = objective({**batch, "cells": cells})
        features = objective.encoder(batch["pixel_values"])
        out = objective.slot_encoder(features, noise=batch["slot_noise"])
        masks = F.interpolate(out.attention.unflatten(2, (16, 16)), (side, side), mode=mode)
        patches = F.avg_pool2d(batch["pixel_values"], patch_size).flatten(2)[:, :, cells]
        painted = objective.patch_decoder(out.slots, height=side, width=side, cells=cells)
        teacher = painted.responsibilities(patches.transpose(1, 2))
        expected = mask_cross_entropy(masks.flatten(2)[:, :, cells], teacher)
        torch.testing.assert_close(logs["distillation_loss"], expected.detach())

    def test_uncertain_responsibilities_have_no_weight(self) -> None:
        target = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]])  # two slots, two cells
        masks = torch.tensor([[[0.7, 0.2], [0.3, 0.8]]])
        found = mask_cross_entropy(masks, target)
        assert found.item() == pytest.approx(-math.log(0.7) / 2, rel=1e-5)

    @pytest.mark.parametrize("patch_size", [0, 3, 64])
    def test_a_patch_size_that_does_not_divide_the_image_is_refused(self, patch_size: int) -> None:
        with pytest.raises(ValueError, match=f"must divide the resolution of 32 .* {patch_size}$"):
            tiny_lsd(patch_decoder_weight=1.0, patch_size=patch_size)

    def test_mask_distillation_has_no_gradient_in_the_patch_decoder(
        self, batch: dict[str, Tensor]
    ) -> None:
        gradients = []
        for weight in (0.0, 3.0):
            objective = tiny_lsd(patch_decoder_weight=2.0, mask_distillation_weight=weight)
            loss, _ = objective(batch)
            parameters = [*objective.patch_decoder.parameters(), objective.slot_encoder.slot_mean]
            gradients.append(torch.autograd.grad(loss, parameters))
        for without, taught in list(zip(*gradients, strict=True))[:-1]:
            torch.testing.assert_close(without, taught)
        assert not torch.allclose(gradients[0][-1], gradients[1][-1])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"patch_decoder_weight": -1.0}, "patch_decoder_weight must be above 0, got -1"),
            (
                {"patch_decoder_weight": 1.0, "mask_distillation_weight": -1.0},
                "mask_distillation_weight must be 0 or above, got -1",
            ),
        ],
    )
    def test_negative_loss_weights_are_refused(
        self, changes: dict[str, float], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            tiny_lsd(**changes)

    @pytest.mark.parametrize("autocast", [False, True])
    def test_the_loss_is_fp32(self, batch: dict[str, Tensor], autocast: bool) -> None:
        objective = tiny_lsd()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss, _ = objective(batch)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(objective(batch)[0].item(), rel=0.02)

    def test_its_pipeline_shares_its_weights(self) -> None:
        objective = tiny_lsd(prediction_type="v_prediction")
        pipe = objective.to_pipeline()
        assert isinstance(pipe, LatentSlotDiffusionPipeline)
        assert pipe.encoder is objective.encoder
        assert pipe.slot_encoder is objective.slot_encoder
        assert pipe.unet is objective.unet
        assert pipe.vae is objective.vae
        assert pipe.resolution == 32
        assert pipe.scheduler.config.prediction_type == "v_prediction"

    def test_its_saved_pipeline_segments_as_it_does(
        self, pixel_values: Tensor, tmp_path: Path
    ) -> None:
        objective = tiny_lsd().train()
        objective.save_pipeline(tmp_path)
        pipe = LatentSlotDiffusionPipeline.from_pretrained(tmp_path)
        images = (pixel_values + 1) / 2
        expected, masks = (
            p.encode(images, generator=torch.Generator().manual_seed(0)).masks
            for p in (objective.to_pipeline(), pipe)
        )
        torch.testing.assert_close(masks, expected, atol=1e-5, rtol=0)


class TestAutoencoder:
    def test_is_l1_and_kl(self, batch: dict[str, Tensor]) -> None:
        vae = tiny_autoencoder()
        loss, logs = AutoencoderObjective(vae, kl_weight=0.1)(batch)
        posterior = vae.encode(batch["pixel_values"]).latent_dist
        mean, variance = posterior.mean, posterior.std.square()
        sample = mean + posterior.std * batch["posterior_noise"]
        l1 = (vae.decode(sample).sample - batch["pixel_values"]).abs().mean()
        kl = 0.5 * (mean.square() + variance - 1 - variance.log()).mean()
        torch.testing.assert_close(logs["l1"], l1.detach())
        torch.testing.assert_close(logs["kl"], kl.detach())
        torch.testing.assert_close(loss, l1 + 0.1 * kl)

    def test_the_squared_error_is_added(self, batch: dict[str, Tensor]) -> None:
        vae = tiny_autoencoder()
        plain, _ = AutoencoderObjective(vae)(batch)
        loss, logs = AutoencoderObjective(vae, mse_weight=2.0)(batch)
        posterior = vae.encode(batch["pixel_values"]).latent_dist
        sample = posterior.mean + posterior.std * batch["posterior_noise"]
        mse = (vae.decode(sample).sample - batch["pixel_values"]).square().mean()
        torch.testing.assert_close(logs["mse"], mse.detach())
        torch.testing.assert_close(loss, plain + 2 * mse)

    def test_the_perceptual_distance_is_added(self, batch: dict[str, Tensor]) -> None:
        vae = tiny_autoencoder()
        plain, _ = AutoencoderObjective(vae)(batch)
        loss, logs = AutoencoderObjective(vae, perceptual=Perceptual(), perceptual_weight=2.0)(
            batch
        )
        torch.testing.assert_close(loss, plain + 2 * logs["perceptual"])

    def test_the_local_term_is_the_distance_to_the_cosine_transform_of_patches(
        self, batch: dict[str, Tensor]
    ) -> None:
        vae = tiny_autoencoder()
        plain, _ = AutoencoderObjective(vae)(batch)
        loss, logs = AutoencoderObjective(vae, cosine_weight=2.0)(batch)
        torch.testing.assert_close(loss, plain + 2 * logs["cosine"])
        latents = vae.encode(batch["pixel_values"]).latent_dist.mean
        axes = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
        patch = batch["pixel_values"].shape[-1] // latents.shape[-1]
        images = np.einsum("ac,bchw->bahw", axes, batch["pixel_values"].numpy())
        blocks = images.reshape(*images.shape[:2], latents.shape[2], patch, -1, patch)
        coefficients = dctn(blocks, axes=(3, 5), norm="ortho")
        lowest = [coefficients[:, axis, :, 0, :, 0] for axis in range(3)]
        lowest.append(coefficients[:, 0, :, 0, :, 1])
        target = np.stack(lowest, axis=1)
        target -= target.mean(axis=(0, 2, 3), keepdims=True)
        target /= target.std(ddof=1)
        assert latents.shape[1] == 4
        expected = np.square(latents.detach().numpy() - target).mean()
        assert logs["cosine"].item() == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize(
        "name", ["mse_weight", "kl_weight", "cosine_weight", "perceptual_weight"]
    )
    def test_negative_weights_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=rf"{name} must be 0 or above, got -1"):
            AutoencoderObjective(tiny_autoencoder(), **{name: -1.0})

    def test_images_of_one_color_have_a_finite_local_term(self) -> None:
        batch = {"pixel_values": torch.full((2, 3, 16, 16), 0.5)}
        loss, _ = AutoencoderObjective(tiny_autoencoder(), cosine_weight=1.0)(batch)
        assert loss.isfinite()

    def test_it_measures_the_latents_so_that_every_channel_has_a_deviation_of_one(
        self, pixel_values: Tensor, tmp_path: Path
    ) -> None:
        objective = AutoencoderObjective(tiny_autoencoder())
        parts = [pixel_values[:1], pixel_values[1:]]
        draws = FixedDraws(torch.Generator(), torch.tensor([0]), 4)
        objective.on_save([({"pixel_values": one}, draws) for one in parts])
        objective.save_pipeline(tmp_path)
        vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
        with torch.no_grad():
            posterior = vae.encode(pixel_values).latent_dist
            mean = scale_latents(vae, posterior.mean)
            variance = (posterior.std / torch.tensor(vae.config.latents_std)[:, None, None]) ** 2
        pixels = (0, 2, 3)
        torch.testing.assert_close(mean.mean(pixels), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            (mean**2 + variance).mean(pixels), torch.ones(4), rtol=1e-3, atol=0
        )


class TestCosineFilters:
    def test_are_orthonormal(self) -> None:
        filters = cosine_filters(27, 3).flatten(1)
        torch.testing.assert_close(filters @ filters.T, torch.eye(27), atol=1e-6, rtol=0)

    def test_the_first_three_depend_on_the_mean_color_only(self) -> None:
        image = torch.rand(1, 3, 4, 4)
        flat = image.mean(dim=(2, 3), keepdim=True).expand_as(image)
        first = cosine_filters(3, 4)
        torch.testing.assert_close(F.conv2d(image, first), F.conv2d(flat, first))

    def test_more_filters_than_a_patch_has_frequencies_are_refused(self) -> None:
        with pytest.raises(ValueError, match="12 frequencies, fewer than the 16"):
            cosine_filters(16, 2)


class TestCollapseMetrics:
    def test_slots_that_are_all_alike(self) -> None:
        slots = torch.randn(2, 1, 8).expand(2, 5, 8)
        logs = collapse_metrics(slots, torch.full((2, 5, 9), 0.2))
        assert logs["slot_cosine"].item() == pytest.approx(1)
        assert logs["effective_slots"].item() == pytest.approx(5)

    def test_slots_that_are_all_different(self) -> None:
        logs = collapse_metrics(torch.eye(5)[None], torch.full((1, 5, 9), 0.2))
        assert logs["slot_cosine"].item() == pytest.approx(0, abs=1e-6)

    def test_is_the_mean_over_pairs(self) -> None:
        slots = torch.randn(3, 4, 8)
        pairs = [
            F.cosine_similarity(scene[i], scene[j], dim=0)
            for scene in slots
            for i in range(4)
            for j in range(4)
            if i != j
        ]
        logs = collapse_metrics(slots, torch.full((3, 4, 9), 0.25))
        torch.testing.assert_close(logs["slot_cosine"], torch.stack(pairs).mean())

    def test_one_slot_that_takes_everything(self) -> None:
        attention = torch.zeros(1, 5, 9)
        attention[:, 2] = 1
        logs = collapse_metrics(torch.randn(1, 5, 8), attention)
        assert logs["effective_slots"].item() == pytest.approx(1)

    def test_one_slot_has_no_pair(self) -> None:
        logs = collapse_metrics(torch.randn(1, 1, 8), torch.ones(1, 1, 9))
        assert logs["slot_cosine"].isfinite()


def predict(
    objective: LatentSlotDiffusionObjective, batch: dict[str, Any], latents: Tensor
) -> Tensor:
    """The denoiser's output, step by step and by plain formulas."""
    alpha, sigma = (c[:, None, None, None] for c in schedule(batch["timesteps"]))
    noisy = alpha * latents + sigma * batch["noise"]
    slots = objective.slot_encoder(
        objective.encoder(batch["pixel_values"]), noise=batch["slot_noise"]
    ).slots
    return objective.unet(noisy, batch["timesteps"], objective.slot_encoder.project(slots)).sample


def schedule(timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma of Ho et al. (2020) with the official, linear betas."""
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)[timesteps]
    return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
