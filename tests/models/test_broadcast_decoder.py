"""The broadcast decoder: the paper's table of layers, and properties of the mixture."""

import pytest
import torch

from latentslots.models import BroadcastDecoder


def decoder(**changes: int) -> BroadcastDecoder:
    torch.manual_seed(0)
    sizes = {"slot_dim": 16, "channels": 8, "num_doublings": 2, "num_refinements": 1}
    return BroadcastDecoder(**{**sizes, **changes}).eval()


def slots(number: int = 3) -> torch.Tensor:
    return torch.randn(2, number, 16, generator=torch.Generator().manual_seed(1))


def test_the_default_has_the_layers_of_the_paper() -> None:
    paper = BroadcastDecoder()
    convolution = 5 * 5 * 64 * 64 + 64
    position = 4 * 64 + 64
    assert paper.num_parameters() == position + 5 * convolution + (3 * 3 * 64 * 4 + 4)
    with torch.no_grad():
        out = paper(torch.randn(1, 2, 64), height=128, width=128)
    assert out.masks.shape == (1, 2, 128, 128)
    assert paper.size_multiple == 16  # from 8 x 8


def test_every_slot_is_decoded_by_itself() -> None:
    model = decoder()
    together = model(slots(), height=16, width=16)
    for k in range(3):
        alone = model(slots()[:, k : k + 1], height=16, width=16)
        torch.testing.assert_close(alone.colors[:, 0], together.colors[:, k], atol=1e-4, rtol=0)
        assert (alone.masks == 1).all()
        torch.testing.assert_close(alone.mixture(), together.colors[:, k], atol=1e-4, rtol=0)


def test_the_order_of_slots_has_no_effect() -> None:
    model, order = decoder(), [2, 0, 1]
    first = model(slots(), height=16, width=16)
    second = model(slots()[:, order], height=16, width=16)
    torch.testing.assert_close(second.masks, first.masks[:, order], atol=1e-4, rtol=0)
    torch.testing.assert_close(second.mixture(), first.mixture(), atol=1e-4, rtol=0)


def test_masked_slots_have_no_effect() -> None:
    model = decoder()
    exists = torch.tensor([[True, True, False]]).expand(2, -1)
    masked = model(slots(), height=16, width=16, slots_mask=exists)
    fewer = model(slots()[:, :2], height=16, width=16)
    assert (masked.masks[:, 2] == 0).all()
    torch.testing.assert_close(masked.mixture(), fewer.mixture(), atol=1e-4, rtol=0)


def test_image_sizes() -> None:
    model = decoder()
    assert model(slots(), height=12, width=20).mixture().shape == (2, 3, 12, 20)
    with pytest.raises(ValueError, match="must be multiples of 4, got 16 and 18"):
        model(slots(), height=16, width=18)
    with pytest.raises(ValueError, match="must be 0 or more, got -1 and 1"):
        decoder(num_doublings=-1)
