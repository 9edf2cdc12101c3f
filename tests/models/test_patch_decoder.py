import pytest
import torch

from tests.tiny import tiny_patch_decoder


@pytest.fixture
def slots() -> torch.Tensor:
    return torch.randn(2, 4, 16)


@torch.no_grad()
def test_every_cell_is_a_mixture_of_what_each_slot_says(slots: torch.Tensor) -> None:
    """Seitzer et al. (2023), Sec. 3.1, one cell and one slot at a time."""
    decoder = tiny_patch_decoder()
    out = decoder(slots, height=3, width=5)
    for cell in range(15):
        row, column = divmod(cell, 5)
        y, x = (row + 0.5) / 3, (column + 0.5) / 5
        place = decoder.position_embedding.projection(torch.tensor([y, x, 1 - y, 1 - x]))
        said = [decoder.mlp(decoder.slot_in(slot) + place) for slot in slots[1]]
        weights = torch.stack([one[-1] for one in said]).softmax(dim=0)
        expected = sum(weight * one[:-1] for weight, one in zip(weights, said, strict=True))
        torch.testing.assert_close(out.sample[1, :, row, column], expected)
        torch.testing.assert_close(out.masks[1, :, row, column], weights)


@torch.no_grad()
def test_the_order_of_the_slots_does_not_matter(slots: torch.Tensor) -> None:
    decoder, order = tiny_patch_decoder(), [2, 0, 3, 1]
    out, other = (decoder(s, height=8, width=8) for s in (slots, slots[:, order]))
    torch.testing.assert_close(other.sample, out.sample)
    torch.testing.assert_close(other.masks, out.masks[:, order])
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, 8, 8))


def test_two_layers_are_the_least() -> None:
    assert len(tiny_patch_decoder(num_layers=2).mlp) == 2
    with pytest.raises(ValueError, match="num_layers must be at least 2, got 1"):
        tiny_patch_decoder(num_layers=1)
