"""DINOSAUR's MLP decoder against loops over slots and patches."""

import pytest
import torch

from tests.tiny import tiny_feature_decoder


def slots(number: int = 3) -> torch.Tensor:
    return torch.randn(2, number, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_is_a_mixture_of_the_mlps_output_for_each_slot_and_position() -> None:
    model, scenes = tiny_feature_decoder(), slots()
    out = model(scenes, height=4, width=4)
    table = model.position_embedding(4, 4)
    for image in range(2):
        for patch in range(16):
            decoded = torch.stack([model.mlp(slot + table[patch]) for slot in scenes[image]])
            weights = decoded[:, -1].exp() / decoded[:, -1].exp().sum()
            expected = sum(w * one[:-1] for w, one in zip(weights, decoded, strict=True))
            row, column = divmod(patch, 4)
            for ours, slow in (
                (out.masks[image, :, row, column], weights),
                (out.features[image, :, row, column], expected),
            ):
                torch.testing.assert_close(ours, slow, atol=1e-4, rtol=0)


@torch.no_grad()
def test_masked_slots_have_no_effect() -> None:
    exist = torch.tensor([[True, True, False]]).expand(2, -1)
    masked = tiny_feature_decoder()(slots(), height=4, width=6, slots_mask=exist)
    fewer = tiny_feature_decoder()(slots()[:, :2], height=4, width=6)
    assert (masked.masks[:, 2] == 0).all()
    torch.testing.assert_close(masked.features, fewer.features, atol=1e-4, rtol=0)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_layers must be at least 2, got 1"):
        tiny_feature_decoder(num_layers=1)
