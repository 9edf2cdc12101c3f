"""Attention guidance and the contrastive loss: values against definitions, and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from latentslots.models.cross_attention import record_cross_attention
from latentslots.objectives.auxiliary import ContrastLoss, GuidanceLoss
from latentslots.objectives.auxiliary.contrast import choose_half, share_noise, swap_slots
from latentslots.objectives.auxiliary.guidance import attention_distance
from tests.tiny import squares, tiny_stable_lsd


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draws(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    images = torch.from_numpy(squares(5, seed=1)[0]).permute(0, 3, 1, 2)
    return {
        "pixel_values": images.float() / 127.5 - 1,
        "posterior_noise": draws(5, 4, 16, 16),
        "noise": draws(5, 4, 16, 16),
        "timesteps": torch.tensor([10, 300, 600, 990, 500]),
        "slot_noise": draws(5, 4, 16),
    }


def chosen(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


class TestContrastive:
    def test_slots_are_exchanged_within_pairs(self) -> None:
        slots = torch.arange(5 * 3).view(5, 3, 1).float()
        found = swap_slots(slots, chosen([1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 1]))
        assert found[..., 0].tolist() == [[6, 1, 2], [3, 10, 11], [0, 7, 8], [9, 4, 5]]

    def test_half_of_a_pairs_slots_are_chosen_and_the_same_in_both(self) -> None:
        torch.manual_seed(0)
        flags = choose_half(torch.zeros(9, 5, 2))
        assert flags.shape == (8, 5)
        assert flags.sum(dim=1).tolist() == [2] * 8
        assert torch.equal(flags[:4], flags[4:])
        assert len({tuple(row) for row in flags[:4].tolist()}) > 1  # each pair has its own

    def test_noise_is_shared_within_pairs(self) -> None:
        noise = share_noise(torch.arange(5.0).view(5, 1, 1))
        assert noise.flatten().tolist() == [0, 1, 0, 1, 4]

    def test_it_is_the_error_with_slots_of_the_other_image(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_stable_lsd(contrastive_weight=0.25)
        plain, _ = objective(batch)
        objective.begin_step(0)
        flags = chosen([1, 1, 0, 0], [0, 1, 0, 1]).repeat(2, 1)
        loss, logs = objective({**batch, "swapped": flags})
        features = objective.encoder(batch["pixel_values"])
        slots = objective.slot_encoder(features, noise=batch["slot_noise"]).slots
        mixed = torch.where(flags[..., None], slots[[2, 3, 0, 1]], slots[:4])
        latents = objective.latents(batch)
        noisy = objective.noise_schedule.add_noise(latents, batch["noise"], batch["timesteps"])
        target = objective.noise_schedule.get_velocity(latents, batch["noise"], batch["timesteps"])
        states = objective.slot_encoder.project(mixed)
        answer = objective.unet(noisy[:4], batch["timesteps"][:4], states).sample
        error = F.mse_loss(answer, target[:4])
        torch.testing.assert_close(logs["contrastive_loss"], error)
        torch.testing.assert_close(logs["denoising_loss"], plain)
        torch.testing.assert_close(loss, plain - 0.25 * error)

    def test_slots_learn_from_it_and_the_denoiser_does_not(self, batch: dict[str, Tensor]) -> None:
        def gradients(weight: float) -> dict[str, Tensor]:
            objective = tiny_stable_lsd(tuned="cross-attention", contrastive_weight=weight)
            objective.begin_step(0)
            objective(batch | {"swapped": chosen([1, 1, 0, 0]).repeat(4, 1)})[0].backward()
            named = objective.named_parameters()
            return {name: p.grad for name, p in named if p.grad is not None}

        without, with_it = gradients(0.0), gradients(0.5)
        assert set(without) == set(with_it)
        same = {
            name: torch.allclose(without[name], with_it[name], rtol=1e-4, atol=1e-9)
            for name in without
        }
        assert all(alike for name, alike in same.items() if name.startswith("unet."))
        assert not any(same[f"slot_encoder.{name}.weight"] for name in ("linear_out", "mlp_in.0"))

    def test_registers_belong_to_the_denoiser(self, batch: dict[str, Tensor]) -> None:
        gradients = []
        for weight in (0.0, 0.5):
            objective = tiny_stable_lsd(
                registers="learned", num_registers=2, contrastive_weight=weight
            )
            objective.begin_step(0)
            objective(batch | {"swapped": chosen([1, 1, 0, 0]).repeat(4, 1)})[0].backward()
            gradients.append(objective.slot_encoder.registers.grad)
        torch.testing.assert_close(gradients[1], gradients[0])

    def test_it_begins_at_its_first_step(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_stable_lsd(contrastive_weight=0.1, contrastive_start=7)
        for step, begun in ((0, False), (6, False), (7, True), (100, True)):
            objective.begin_step(step)
            assert ("contrastive_loss" in objective(batch)[1]) == begun

    def test_a_batch_of_one_image_has_no_contrastive_loss(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_stable_lsd(contrastive_weight=0.1)
        objective.begin_step(0)
        alone = {name: values[:1] for name, values in batch.items()}
        assert "contrastive_loss" not in objective(alone)[1]

    def test_pairs_share_slot_noise_once_it_has_begun(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_stable_lsd(contrastive_weight=0.1)
        del batch["slot_noise"]
        assert objective.slot_noise(batch) is None
        objective.begin_step(0)
        noise = objective.slot_noise(batch)
        assert torch.equal(noise[:2], noise[2:4])
        assert not torch.equal(noise[0], noise[1])


class TestGuidance:
    def test_it_is_lowest_where_both_attentions_agree(self) -> None:
        masks = torch.tensor([[[0.9, 0.2], [0.5, 0.7]], [[0.1, 0.8], [0.5, 0.3]]])[None]
        same = masks.flatten(2).transpose(1, 2)
        registers = torch.full((1, 4, 3), 2.0)  # what is looked at beside the slots
        layers = [torch.cat([same * share, registers], dim=2) for share in (0.3, 0.01)]
        entropy = -(masks * masks.log() + (1 - masks) * (1 - masks).log()).mean()
        found = attention_distance(layers, masks, {4: (2, 2)}, torch.ones(1))
        torch.testing.assert_close(found, entropy)
        other = attention_distance([same.flip(2)], masks, {4: (2, 2)}, torch.ones(1))
        assert other > entropy

    def test_slot_attention_is_a_fixed_target(self) -> None:
        """One slot for everything would else be the nearest that both can come to each other."""
        logits = torch.randn(1, 3, 4, requires_grad=True)
        layer = torch.randn(1, 4, 3, requires_grad=True)
        masks = logits.softmax(dim=1).unflatten(2, (2, 2))
        attention_distance([layer.softmax(dim=2)], masks, {4: (2, 2)}, torch.ones(1)).backward()
        assert logits.grad is None
        assert layer.grad.abs().max() > 0

    def test_layers_of_all_sizes_count(self) -> None:
        masks = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        masks = masks / masks.sum(dim=1, keepdim=True)
        layers = [
            F.interpolate(masks, size, mode=mode).flatten(2).transpose(1, 2)
            for size, mode in ((2, "area"), (8, "bilinear"))
        ]
        grids, weights = {4: (2, 2), 64: (8, 8)}, torch.tensor([1.0, 3.0])
        found = attention_distance(layers, masks, grids, weights)
        each = [attention_distance([layer], masks, grids, weights) for layer in layers]
        torch.testing.assert_close(found, (each[0] + each[1]) / 2)
        apart = [
            attention_distance([layer[i : i + 1] for layer in layers], masks[i : i + 1], grids, one)
            for i, one in enumerate(torch.ones(2, 1))
        ]
        torch.testing.assert_close(found, apart[0] / 4 + 3 * apart[1] / 4)

    def test_images_without_their_slots_do_not_count(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_stable_lsd(guidance_weight=0.5, condition_dropout=0.5)
        some = {**batch, "dropped": torch.tensor([True, False, False, True, True])}
        alone = {name: values[1:3] for name, values in some.items()}
        torch.testing.assert_close(
            objective(some)[1]["guidance_loss"], objective(alone)[1]["guidance_loss"]
        )
        objective({**batch, "dropped": torch.ones(5, dtype=torch.bool)})[0].backward()
        gradient = objective.slot_encoder.slot_attention.to_key.weight.grad
        assert gradient.abs().max() == 0

    @pytest.mark.parametrize("registers", ["none", "empty-prompt"])
    def test_it_uses_the_blocks_of_the_option(
        self, batch: dict[str, Tensor], registers: str
    ) -> None:
        objective = tiny_stable_lsd(guidance_weight=0.5, registers=registers)
        loss, logs = objective(batch)
        features = objective.encoder(batch["pixel_values"])
        out = objective.slot_encoder(features, noise=batch["slot_noise"])
        latents = objective.latents(batch)
        noisy = objective.noise_schedule.add_noise(latents, batch["noise"], batch["timesteps"])
        states, mask = objective.slot_encoder.condition(out.slots)
        with record_cross_attention(objective.unet, ("up_blocks.1",)) as layers:
            objective.unet(noisy, batch["timesteps"], states, mask)
        assert len(layers) == 2  # as many as that block has
        masks = out.attention.unflatten(2, features.shape[-2:])
        expected = attention_distance(layers, masks, {256: (16, 16)}, torch.ones(5))
        torch.testing.assert_close(logs["guidance_loss"], expected)
        torch.testing.assert_close(loss, logs["denoising_loss"] + 0.5 * expected)

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_checkpoints_change_no_gradient(
        self, batch: dict[str, Tensor], checkpointing: bool
    ) -> None:
        """The backward pass computes the denoiser again, which must record again, too."""

        def gradients(*, checkpoint: bool) -> list[Tensor]:
            objective = tiny_stable_lsd(
                tuned="cross-attention", guidance_weight=0.5, contrastive_weight=0.1
            ).train()
            if checkpoint:
                objective.unet.enable_gradient_checkpointing()
            objective.begin_step(0)
            objective(batch | {"swapped": chosen([1, 1, 0, 0]).repeat(4, 1)})[0].backward()
            return [p.grad for p in objective.trained_parameters()]

        torch.testing.assert_close(gradients(checkpoint=checkpointing), gradients(checkpoint=False))

    def test_nothing_is_recorded_outside_training(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_stable_lsd(guidance_weight=0.5).train()
        objective.unet.enable_gradient_checkpointing()
        objective(batch)[0].backward()
        assert recorders(objective)
        assert not any(one.recorded for one in recorders(objective)), "nothing is kept alive"
        objective.eval()
        assert not recorders(objective)

    def test_nothing_is_recorded_after_a_failed_step(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_stable_lsd(guidance_weight=0.5).train()

        def fail(*_: Any) -> None:
            assert recorders(objective)
            raise RuntimeError("out of memory")

        objective.unet.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            objective(batch)
        assert not recorders(objective)

    def test_a_missing_block_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"no block up_blocks\.7 .*up_blocks\.1"):
            tiny_stable_lsd(guidance_weight=0.5, guidance_blocks=("up_blocks.7",))


def recorders(objective: Any) -> list[Any]:
    modules = objective.unet.model.modules()
    processors = [getattr(module, "processor", None) for module in modules]
    return [one for one in processors if getattr(one, "recorded", None) is not None]


def test_weights_and_starts_are_not_negative() -> None:
    objective = tiny_stable_lsd()
    unet, slots = objective.unet, objective.slot_encoder
    with pytest.raises(ValueError, match="contrastive_weight must be above 0, got -1"):
        ContrastLoss(unet, slots, weight=-1.0)
    with pytest.raises(ValueError, match="contrastive_start must be 0 or above, got -1"):
        ContrastLoss(unet, slots, weight=1.0, start=-1)
    with pytest.raises(ValueError, match="guidance_weight must be above 0, got -1"):
        GuidanceLoss(unet, weight=-1.0)
