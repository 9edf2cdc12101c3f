"""Parts that are united in training, with slots that paint their region in its mean color."""

from typing import Any

import pytest
import torch
from torch import Tensor

from latentslots.models.frames import split_frames, touching
from latentslots.objectives.unions import unite_pairs
from tests.regions import (
    BLUE,
    FAR,
    LEFT,
    OTHER,
    RED,
    RIGHT,
    MeanColors,
    PaintedRegions,
    encode,
    regions,
    scene,
)
from tests.tiny import tiny_lsd


def unite(image: Tensor, masks: Tensor, pair: tuple[int, int], **options: Any) -> Any:
    """Prefer one pair of slots, by their numbers."""
    draws = torch.rand(1, len(masks) ** 2) / 2
    draws[0, pair[0] * len(masks) + pair[1]] = 0.9
    return unite_pairs(
        options.pop("slots", encode(image[None], masks[None])),
        masks[None],
        image[None],
        image[None],
        slot_encoder=MeanColors(),
        decoder=PaintedRegions(),
        max_error=options.pop("max_error", 0.01),
        draws=draws,
    )


def test_the_slot_of_both_takes_the_place_of_the_larger_part() -> None:
    image, masks = scene((LEFT, RED), (OTHER, BLUE), (RIGHT, RED))
    assert RIGHT.sum() > LEFT.sum()
    slots, exist = unite(image, masks, (1, 3))
    assert exist.tolist() == [[True, False, True, True]]
    torch.testing.assert_close(regions(slots)[0, 3], LEFT + RIGHT)
    before = encode(image[None], masks[None])
    assert torch.equal(slots[0, [0, 2]], before[0, [0, 2]])


def test_different_objects_stay_apart() -> None:
    image, masks = scene((LEFT, RED), (RIGHT, BLUE))
    slots, exist = unite(image, masks, (1, 2))
    assert exist.all()
    assert torch.equal(slots, encode(image[None], masks[None]))
    assert not unite(image, masks, (1, 2), max_error=1e3)[1].all()


def test_neither_the_background_nor_what_does_not_touch_is_united() -> None:
    image, masks = scene((LEFT, RED), (FAR, RED))
    for pair in ((0, 1), (0, 2), (1, 2)):
        _, exist = unite(image, masks, pair, max_error=1e3)
        assert exist.all()


def test_gradients_reach_the_union() -> None:
    image, masks = scene((LEFT, RED), (RIGHT, RED))
    image.requires_grad_()
    slots, exist = unite(image, masks, (1, 2), slots=encode(image.detach()[None], masks[None]))
    assert exist.sum() == 2
    slots[0, 2, :3].sum().backward()
    assert image.grad is not None
    assert (image.grad[:, LEFT > 0] > 0).all()


def test_touching_agrees_with_loops() -> None:
    frames = torch.rand(2, 5, 4) * torch.tensor([2.0, 2.0, 0.3, 0.3])
    near = touching(frames)
    for i in range(2):
        for one in range(5):
            for other in range(5):
                (y, x, height, width), (v, u, tall, wide) = frames[i, [one, other]].tolist()
                expected = abs(y - v) < 2 * (height + tall) and abs(x - u) < 2 * (width + wide)
                assert bool(near[i, one, other]) == expected


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {
        "pixel_values": torch.rand(4, 3, 32, 32) * 2 - 1,
        "posterior_noise": torch.randn(4, 4, 16, 16),
        "noise": torch.randn(4, 4, 16, 16),
        "timesteps": torch.tensor([10, 300, 600, 990]),
        "slot_noise": torch.randn(4, 4, 16),
    }


class TestObjective:
    def test_united_slots_are_absent_for_all_losses(
        self, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"frames": True, "patch_decoder_weight": 1.0, "mask_distillation_weight": 1.0}
        objective = tiny_lsd(**options, map_channels=3, condition_dropout=0.2, unite_error=1e9)
        seen = []
        condition = objective.slot_encoder.condition

        def record(slots: Tensor, slots_mask: Any = None, **others: Any) -> Any:
            seen.append((slots, slots_mask))
            return condition(slots, slots_mask, **others)

        monkeypatch.setattr(objective.slot_encoder, "condition", record)
        torch.manual_seed(0)
        loss, logs = objective(batch)
        ((slots, exist),) = seen
        assert logs["united"] == (~exist).any(dim=1).float().mean() > 0
        assert ((~exist).sum(dim=1) <= 1).all()
        loss.backward()
        features = objective.encoder(batch["pixel_values"])
        before = objective.slot_encoder(
            features, pixel_values=batch["pixel_values"], noise=batch["slot_noise"]
        ).slots
        changed = (slots - before).abs().amax(dim=2) > 1e-6
        assert torch.equal(changed.sum(dim=1), (~exist).sum(dim=1))
        frames, measured = split_frames(slots)[1], split_frames(before)[1]
        assert not torch.equal(frames, measured)

    def test_parts_are_united_from_a_step_on(self, batch: dict[str, Tensor]) -> None:
        objective = tiny_lsd(
            frames=True, patch_decoder_weight=1.0, unite_error=1e9, patch_plain_steps=10
        )
        for step, expected in ((0, False), (19, False), (20, True), (500, True)):
            objective.begin_step(step)
            assert ("united" in objective(batch)[1]) == expected

    def test_nothing_changes_where_nothing_is_united(
        self, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"frames": True, "patch_decoder_weight": 1.0, "patch_size": 1}
        batch = {**batch, "cells": torch.arange(64)}
        plain, logs = tiny_lsd(**options)(batch)
        assert "united" not in logs
        monkeypatch.setattr("latentslots.objectives.unions.LARGEST_PART", 0.0)
        same, others = tiny_lsd(**options, unite_error=1e9)(batch)
        assert others["united"] == 0
        torch.testing.assert_close(plain, same)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"unite_error": -1.0, "frames": True}, "unite_error must be 0 or above, got -1"),
            ({"unite_error": 0.1}, "unite_error needs sprites"),
        ],
    )
    def test_wrong_options_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny_lsd(patch_decoder_weight=1.0, **options)
