"""DINOSAUR's MLP decoder against loops over slots and patches."""

import pytest
import torch

from tests.tiny import tiny_feature_decoder


def slots(number: int = 3) -> torch.Tensor:
    return torch.randn(2, number, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_is_a_mixture_of_what_an_mlp_says_of_every_slot_at_every_place() -> None:
    model, scenes = tiny_feature_decoder(), slots()
    out = model(scenes, height=4, width=4)
    table = model.position_embedding(4, 4)
    for image in range(2):
        for patch in range(16):
            said = torch.stack([model.mlp(slot + table[patch]) for slot in scenes[image]])
            weights = said[:, -1].exp() / said[:, -1].exp().sum()
            row, column = divmod(patch, 4)
            expected = sum(w * one[:-1] for w, one in zip(weights, said, strict=True))
            torch.testing.assert_close(out.masks[image, :, row, column], weights)
            torch.testing.assert_close(out.features[image, :, row, column], expected)


@torch.no_grad()
def test_slots_that_do_not_exist_are_nowhere() -> None:
    exist = torch.tensor([[True, True, False]]).expand(2, -1)
    masked = tiny_feature_decoder()(slots(), height=4, width=6, slots_mask=exist)
    fewer = tiny_feature_decoder()(slots()[:, :2], height=4, width=6)
    assert (masked.masks[:, 2] == 0).all()
    torch.testing.assert_close(masked.features, fewer.features)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="num_layers must be at least 2, got 1"):
        tiny_feature_decoder(num_layers=1)
