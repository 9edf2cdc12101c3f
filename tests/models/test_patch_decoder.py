"""The patch decoder against loops over slots and cells, and Bayes' rule."""

import pytest
import torch
from scipy.stats import norm

from latentslots.models import PatchDecoderOutput, patch_decoder
from tests.tiny import tiny_patch_decoder

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture
def slots() -> torch.Tensor:
    return torch.randn(2, 4, 16)


@pytest.mark.parametrize("freedom", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_every_cell_is_a_mixture_of_the_mlps_output_for_each_slot(
    slots: torch.Tensor, freedom: float
) -> None:
    """Seitzer et al. (2023), Sec. 3.1, one cell and one slot at a time."""
    decoder = tiny_patch_decoder()
    decoder.freedom.fill_(freedom)
    out = decoder(slots, height=3, width=5)
    for cell in range(15):
        row, column = divmod(cell, 5)
        y, x = (row + 0.5) / 3, (column + 0.5) / 5
        position = decoder.position_embedding.projection(torch.tensor([y, x, 1 - y, 1 - x]))
        decoded = torch.stack([decoder.mlp(decoder.slot_in(slot) + position) for slot in slots[1]])
        weights = decoded[:, 3].softmax(dim=0)
        torch.testing.assert_close(out.masks[1, :, cell], weights, **CLOSE)
        colors = 0.3 * (decoder.color_mlp(slots[1]) + freedom * decoded[:, :3])
        torch.testing.assert_close(out.colors[1, :, cell], colors, **CLOSE)
        expected = sum(weight * color for weight, color in zip(weights, colors, strict=True))
        torch.testing.assert_close(out.mixture()[1, cell], expected, **CLOSE)


@torch.no_grad()
def test_without_freedom_a_slot_has_one_color(slots: torch.Tensor) -> None:
    decoder = tiny_patch_decoder()
    free = decoder(slots, height=3, width=5).colors
    decoder.freedom.zero_()
    plain = decoder(slots, height=3, width=5).colors
    assert (free.std(dim=2) > 1e-4).all()
    assert (plain.std(dim=2) < 1e-6).all()
    assert (plain.std(dim=1) > 1e-4).all()


def test_the_slot_layout_is_the_masks_of_the_slots_that_exist(slots: torch.Tensor) -> None:
    decoder = tiny_patch_decoder()
    masks = decoder(slots, height=3, width=5).masks
    layout = decoder.slot_layout(slots, height=3, width=5)
    assert not layout.requires_grad
    torch.testing.assert_close(layout.flatten(2), masks.detach())
    exist = torch.tensor([[True] * 4, [True, False, True, False]])
    fewer = decoder.slot_layout(slots, height=3, width=5, slots_mask=exist)
    torch.testing.assert_close(fewer[0], layout[0])
    alone = decoder.slot_layout(slots[1:, [0, 2]], height=3, width=5)
    torch.testing.assert_close(fewer[1, [0, 2]], alone[0], **CLOSE)
    assert (fewer[1, [1, 3]] == 0).all()


@torch.no_grad()
def test_some_cells_are_decoded_as_all_are(slots: torch.Tensor) -> None:
    decoder, cells = tiny_patch_decoder(), torch.tensor([13, 2, 7])
    out, some = decoder(slots, height=3, width=5), decoder(slots, height=3, width=5, cells=cells)
    torch.testing.assert_close(some.colors, out.colors[:, :, cells], **CLOSE)
    torch.testing.assert_close(some.masks, out.masks[:, :, cells], **CLOSE)


@torch.no_grad()
def test_the_order_of_slots_has_no_effect(slots: torch.Tensor) -> None:
    decoder, order = tiny_patch_decoder(), [2, 0, 3, 1]
    out, other = (decoder(s, height=8, width=8) for s in (slots, slots[:, order]))
    torch.testing.assert_close(other.mixture(), out.mixture(), **CLOSE)
    torch.testing.assert_close(other.masks, out.masks[:, order], **CLOSE)
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, 64))


def test_responsibilities_are_the_posterior_of_a_mixture_of_gaussians() -> None:
    """By Bayes' rule with scipy's density, the mean of a cell's channels as one observation."""
    torch.manual_seed(0)
    colors, image = torch.randn(1, 3, 5, 3), torch.randn(1, 5, 3)
    masks = torch.rand(1, 3, 5).softmax(dim=1)
    out = PatchDecoderOutput(colors=colors, masks=masks)
    mixture = (masks[..., None] * colors).sum(dim=1)
    deviation = (mixture - image).square().mean().sqrt().item()
    responsibilities = out.responsibilities(image)
    for cell in range(5):
        distance = (colors[0, :, cell] - image[0, cell]).square().mean(dim=1).sqrt()
        joint = masks[0, :, cell].numpy() * norm(scale=deviation).pdf(distance.numpy())
        expected = torch.from_numpy(joint / joint.sum()).float()
        torch.testing.assert_close(responsibilities[0, :, cell], expected)


def test_a_pixel_belongs_to_the_slot_that_has_its_color() -> None:
    colors = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])[None, :, None].expand(1, 2, 4, 3)
    out = PatchDecoderOutput(colors=colors, masks=torch.full((1, 2, 4), 0.5))
    image = colors[:, [0, 1, 1, 0], 0]
    assert out.responsibilities(image)[0].argmax(dim=0).tolist() == [0, 1, 1, 0]


@torch.no_grad()
def test_a_perfect_reconstruction_is_segmented(slots: torch.Tensor) -> None:
    decoder = tiny_patch_decoder()
    reconstruction = decoder(slots, height=6, width=4).mixture()
    masks = decoder.segment(slots, reconstruction.transpose(1, 2).unflatten(2, (6, 4)))
    assert masks.isfinite().all()
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, 6, 4))


@pytest.mark.parametrize("cells_at_once", [5, 8192])
@torch.no_grad()
def test_an_image_is_segmented_alone_as_in_a_batch(
    slots: torch.Tensor, cells_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_decoder, "PIXELS_PER_CELL", 1)
    monkeypatch.setattr(patch_decoder, "CELLS_AT_ONCE", cells_at_once)
    decoder, pixel_values = tiny_patch_decoder(), torch.rand(2, 3, 6, 4) * 2 - 1
    together = decoder.segment(slots, pixel_values)
    assert together.shape == (2, 4, 6, 4)
    torch.testing.assert_close(decoder.segment(slots[1:], pixel_values[1:]), together[1:], **CLOSE)
    expected = decoder(slots, height=6, width=4).responsibilities(
        pixel_values.flatten(2).transpose(1, 2)
    )
    torch.testing.assert_close(together.flatten(2), expected, **CLOSE)


def test_fewer_than_two_layers_are_refused() -> None:
    assert len(tiny_patch_decoder(num_layers=2).mlp) == 2
    with pytest.raises(ValueError, match="num_layers must be at least 2, got 1"):
        tiny_patch_decoder(num_layers=1)


@torch.no_grad()
def test_colors_are_scaled_and_masks_are_not(slots: torch.Tensor) -> None:
    out, twice = (tiny_patch_decoder(color_scale=s)(slots, height=3, width=5) for s in (0.25, 0.5))
    torch.testing.assert_close(twice.colors, 2 * out.colors)
    torch.testing.assert_close(twice.masks, out.masks)
    decoder = tiny_patch_decoder(color_scale=0.25)
    decoder.color_mean.copy_(torch.tensor([0.5, -0.25, 0.0]))
    shifted = decoder(slots, height=3, width=5)
    torch.testing.assert_close(shifted.colors, out.colors + torch.tensor([0.5, -0.25, 0.0]))
    torch.testing.assert_close(shifted.masks, out.masks)
    with pytest.raises(ValueError, match="color_scale must be more than 0"):
        tiny_patch_decoder(color_scale=0.0)


@torch.no_grad()
def test_segmentation_interpolates_between_every_second_pixel(slots: torch.Tensor) -> None:
    decoder, pixel_values = tiny_patch_decoder(), torch.rand(2, 3, 31, 40) * 2 - 1
    masks = decoder.segment(slots, pixel_values)
    expected = decoder(slots, height=31, width=40).responsibilities(
        pixel_values.flatten(2).transpose(1, 2)
    )
    assert masks.shape == (2, 4, 31, 40)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, 31, 40))
    torch.testing.assert_close(masks.flatten(2), expected, atol=2e-3, rtol=0)
