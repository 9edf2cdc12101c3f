"""Frames of slots, against slow references and against themselves after a move."""

import math

import pytest
import torch
from torch import Tensor

from latentslots.models import ResidualEncoder, SlotEncoder, SpriteDecoder
from latentslots.models.framed_slots import FramedSlotAttention, Glimpse
from latentslots.models.frames import (
    EXTENT,
    cell_centers,
    crop_image,
    crop_masks,
    crop_positions,
    join_frames,
    measure_frames,
    place,
    split_frames,
)

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SLOT_DIM = 20


def smooth_image(side: int = 48) -> Tensor:
    y, x = cell_centers(side, side).T
    waves = torch.stack([torch.sin(2 * y), torch.cos(2 * x), y * x])
    return waves.unflatten(1, (side, side))[None]


def slot_encoder(**changes: object) -> SlotEncoder:
    options = {"in_channels": 8, "slot_dim": SLOT_DIM, "cross_attention_dim": 16, "num_slots": 3}
    options |= {"mlp_dim": 16, "position": "none", "glimpse_size": 8}
    return SlotEncoder(**{**options, **changes})


def test_a_rectangle_has_its_center_and_the_deviation_of_a_uniform_distribution() -> None:
    mask = torch.zeros(1, 1, 20, 40)
    mask[0, 0, 5:15, 10:30] = 3.0
    frame = measure_frames(mask.flatten(2), cell_centers(20, 40))[0, 0]
    rows = math.sqrt((10**2 - 1) / 12) * 2 / 20
    columns = math.sqrt((20**2 - 1) / 12) * 2 / 40
    torch.testing.assert_close(frame, torch.tensor([0.0, 0.0, rows, columns]), **CLOSE)


def test_a_single_cell_has_a_scale_above_zero() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 0, 7] = 1.0
    frame = measure_frames(mask.flatten(2), cell_centers(8, 8))[0, 0]
    torch.testing.assert_close(frame[:2], torch.tensor([-0.875, 0.875]), **CLOSE)
    assert (frame[2:] > 0).all()


def test_what_is_cropped_and_placed_is_the_image_again() -> None:
    image = smooth_image()
    frames = torch.tensor([[[0.1, -0.2, 0.2, 0.16], [0.0, 0.0, 0.3, 0.3]]])
    crops = crop_image(image, crop_positions(frames, 32))
    centers = cell_centers(48, 48)
    placed, beyond = place(crops, frames, centers)
    for slot, frame in enumerate(frames[0]):
        within = ((centers - frame[:2]).abs() < 0.95 * EXTENT * frame[2:]).all(dim=1)
        assert within.sum() > 100
        expected = image[0].flatten(1)[:, within]
        torch.testing.assert_close(placed[0, slot][:, within], expected, atol=0.01, rtol=0)
        assert (beyond[0, slot][within] == 0).all()
        far = ((centers - frame[:2]).abs() > EXTENT * frame[2:]).any(dim=1)
        assert (beyond[0, slot][far] > 0).all()


def test_every_slot_crops_its_own_mask() -> None:
    masks = torch.zeros(1, 2, 16, 16)
    masks[0, 0, :, :8], masks[0, 1, :, 8:] = 1.0, 0.5
    frames = torch.tensor([[[0.0, -0.5, 0.1, 0.1], [0.0, 0.5, 0.1, 0.1]]])
    crops = crop_masks(masks, crop_positions(frames, 4))
    torch.testing.assert_close(crops[0], torch.tensor([1.0, 0.5])[:, None, None].expand(2, 4, 4))


def test_slots_follow_a_shifted_image() -> None:
    """Without position embeddings, a slot sees the same thing elsewhere: its content stays."""
    torch.manual_seed(0)
    encoder = ResidualEncoder(out_channels=8, downscale_factor=1, channels=8, dilations=(1,))
    slots = slot_encoder(num_iterations=6).eval()
    image = torch.full((1, 3, 40, 40), -0.5)
    image[0, :, 8:14, 10:16] = torch.rand(3, 6, 6)
    shifted = image.roll((6, 4), dims=(2, 3))
    attention = FramedSlotAttention(8, SLOT_DIM, mlp_dim=16)
    key = attention.to_key(encoder(image).flatten(2).transpose(1, 2))
    moved = attention.to_key(encoder(shifted).flatten(2).transpose(1, 2))
    content = torch.randn(1, 1, SLOT_DIM - 4)
    frame = torch.tensor([[[-0.45, -0.35, 0.2, 0.2]]])
    step = torch.tensor([6 / 20, 4 / 20, 0, 0])
    centers = cell_centers(40, 40)
    inside = {}
    for name, keys, frames in (("one", key, frame), ("two", moved, frame + step)):
        rival = torch.cat([content, content + 1], dim=1)
        shares = attention._attend(rival, frames.expand(1, 2, 4), keys, centers)
        inside[name] = shares[0, 0].unflatten(0, (40, 40))
    torch.testing.assert_close(inside["two"][12:26, 14:28], inside["one"][6:20, 10:24], **CLOSE)
    assert slots.glimpse is not None
    masks = torch.zeros(1, 1, 40, 40)
    masks[0, 0, 8:14, 10:16] = 1
    torch.nn.init.normal_(slots.glimpse.out.weight)
    seen = slots.glimpse(image, masks, frame)
    seen_elsewhere = slots.glimpse(shifted, masks.roll((6, 4), dims=(2, 3)), frame + step)
    torch.testing.assert_close(seen_elsewhere, seen, **CLOSE)
    assert not torch.allclose(slots.glimpse(image, masks * 0, frame), seen, atol=1e-2)


def test_moments_agree_with_loops() -> None:
    torch.manual_seed(0)
    attention = FramedSlotAttention(8, SLOT_DIM, mlp_dim=16)
    shares = torch.rand(1, 2, 12).softmax(dim=1)
    value, centers = torch.randn(1, 12, SLOT_DIM - 4), cell_centers(3, 4)
    frames = measure_frames(shares, centers)
    expected = torch.zeros(2, 6, SLOT_DIM - 4)
    for slot in range(2):
        total = float(shares[0, slot].sum())
        for cell in range(12):
            y, x = ((centers[cell] - frames[0, slot, :2]) / frames[0, slot, 2:]).tolist()
            weight = float(shares[0, slot, cell]) / total
            for row, polynomial in enumerate((1, y, x, y * y - 1, x * x - 1, x * y)):
                expected[slot, row] += weight * polynomial * value[0, cell]
    mixed = attention.mix_moments(expected.flatten(1))
    updates = attention._updates(shares, frames, value, centers)[0]
    torch.testing.assert_close(updates, mixed, **CLOSE)


def test_frames_are_the_last_four_channels() -> None:
    out = slot_encoder()(torch.randn(2, 8, 6, 6), pixel_values=torch.rand(2, 3, 24, 24))
    content, frames = split_frames(out.slots)
    measured = measure_frames(out.attention.detach(), cell_centers(6, 6))
    torch.testing.assert_close(frames, measured)
    torch.testing.assert_close(join_frames(content, frames), out.slots)
    assert content.grad_fn is not None


def test_the_conditioning_tells_where_a_slot_is() -> None:
    encoder = slot_encoder()
    slots = torch.randn(1, 3, SLOT_DIM)
    states, _ = encoder.condition(slots)
    moved = slots.clone()
    moved[0, 1, -4] += 0.5
    other, _ = encoder.condition(moved)
    assert (states[0, [0, 2]] == other[0, [0, 2]]).all()
    assert not torch.allclose(states[0, 1], other[0, 1])


def test_glimpses_reach_the_slots_and_their_weights_get_gradients() -> None:
    encoder = slot_encoder()
    assert encoder.glimpse is not None
    features = torch.randn(1, 8, 6, 6)
    images = torch.rand(2, 1, 3, 24, 24)
    torch.nn.init.normal_(encoder.glimpse.out.weight)
    noise = torch.randn(1, 3, SLOT_DIM)
    one, two = (encoder(features, pixel_values=image, noise=noise).slots for image in images)
    assert not torch.allclose(one, two)
    one.square().sum().backward()
    for name, parameter in encoder.glimpse.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"glimpse_size": 12}, "glimpse_size must be a power of two, 4 or more, got 12"),
        ({"slot_init": "learned"}, "slots with frames start from a Gaussian, not 'learned'"),
        ({"num_heads": 2}, "slots with frames have one head, got 2"),
        ({"slot_dim": 4}, "slot_dim must be more than the 4 channels of a frame, got 4"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slot_encoder(**changes)


def test_slots_with_frames_need_the_image() -> None:
    with pytest.raises(ValueError, match="are encoded from features and pixel_values"):
        slot_encoder()(torch.randn(1, 8, 6, 6))


class TestRegions:
    def test_what_slots_attend_to_is_encoded_as_they_are(self) -> None:
        """One slot has the same share, all of the image, in every iteration."""
        encoder = slot_encoder()
        with torch.no_grad():
            encoder.slot_log_std.fill_(-100.0)  # initial slots are the mean
        features, image = torch.randn(2, 8, 6, 6), torch.rand(2, 3, 24, 24)
        out = encoder(features, pixel_values=image, num_slots=1)
        region = encoder.encode_masks(features, torch.ones(2, 1, 6, 6), pixel_values=image)
        torch.testing.assert_close(region, out.slots)

    def test_a_region_does_not_depend_on_others(self) -> None:
        encoder = slot_encoder()
        features, image = torch.randn(1, 8, 6, 6), torch.rand(1, 3, 24, 24)
        masks = torch.zeros(1, 2, 6, 6)
        masks[0, 0, 1:3, 2:5] = 1
        masks[0, 1, 4:, :2] = 1
        both = encoder.encode_masks(features, masks, pixel_values=image)
        one = encoder.encode_masks(features, masks[:, :1], pixel_values=image)
        torch.testing.assert_close(both[:, :1], one)
        center = split_frames(one)[1][0, 0, :2]
        torch.testing.assert_close(center, torch.tensor([-1 / 3, 1 / 6]), atol=1e-4, rtol=0)
        torch.nn.init.normal_(encoder.glimpse.out.weight)
        image[0, :, 5:11, 9:19] = 0
        assert not torch.allclose(encoder.encode_masks(features, masks, pixel_values=image), both)

    def test_slots_without_frames_refuse_it(self) -> None:
        with pytest.raises(ValueError, match="only by a model whose slots have frames"):
            slot_encoder(glimpse_size=0).encode_masks(
                torch.zeros(1, 8, 6, 6),
                torch.ones(1, 1, 6, 6),
                pixel_values=torch.zeros(1, 3, 24, 24),
            )


class TestSprites:
    """The decoder that paints each slot's own picture."""

    def decoder(self, **changes: object) -> SpriteDecoder:
        torch.manual_seed(0)
        options = {"slot_dim": SLOT_DIM, "sprite_size": 8, "channels": 16}
        return SpriteDecoder(**{**options, **changes}).eval()

    def slots(self) -> Tensor:
        torch.manual_seed(1)
        frames = torch.tensor([[[0.0, 0.0, 0.6, 0.6], [-0.4, 0.2, 0.1, 0.15]]])
        return join_frames(torch.randn(1, 2, SLOT_DIM - 4), frames)

    def test_masks_sum_to_one_and_mix_colors(self) -> None:
        out = self.decoder()(self.slots(), height=12, width=16)
        torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(1, 192))
        expected = sum(out.masks[0, k, :, None] * out.colors[0, k] for k in range(2))
        torch.testing.assert_close(out.mixture()[0], expected, **CLOSE)

    def test_a_slot_that_moves_is_painted_as_before_elsewhere(self) -> None:
        decoder, slots = self.decoder(), self.slots()
        before = decoder(slots[:, 1:], height=40, width=40)
        moved = slots[:, 1:].clone()
        moved[..., -4] += 2 * 10 / 40
        after = decoder(moved, height=40, width=40)
        one, two = (out.colors[0, 0].unflatten(0, (40, 40)) for out in (before, after))
        torch.testing.assert_close(two[10:], one[:-10], **CLOSE)

    def test_some_cells_are_those_of_all(self) -> None:
        decoder, slots, cells = self.decoder(), self.slots(), torch.tensor([3, 0, 77])
        everything = decoder(slots, height=10, width=10)
        some = decoder(slots, height=10, width=10, cells=cells)
        torch.testing.assert_close(some.masks, everything.masks[..., cells])
        torch.testing.assert_close(some.colors, everything.colors[:, :, cells])

    def test_masks_fall_beyond_the_sprite(self) -> None:
        decoder, slots = self.decoder(), self.slots()
        layout = decoder.slot_layout(slots, height=40, width=40)[0, 1]
        assert layout[-8:].max() < 1e-3, "the small slot is at the top"
        assert layout[5:20, 15:35].max() > 0.1

    def test_the_ground_has_a_flat_mask_and_continues_behind_what_is_taken_away(self) -> None:
        decoder, slots = self.decoder(), self.slots()
        slots[0, 0, -4:] = torch.tensor([0.0, 0.0, 0.57, 0.57])
        _, logits = decoder.layers(slots, height=30, width=30)
        assert logits[0, 0].std() < 0.05 * logits[0, 1].std()
        half = slots.clone()
        half[0, 0, -1] = 0.29  # half of the image, which may have an outline
        _, other = decoder.layers(half, height=30, width=30)
        assert other[0, 0].std() > 10 * logits[0, 0].std()
        decoder.convolutions[-1].weight.requires_grad_()
        logits[0, 0].sum().backward()
        gradient = decoder.convolutions[-1].weight.grad
        assert gradient is not None
        assert gradient[3].abs().sum() > 0

    def test_absent_slots_have_no_mask(self) -> None:
        decoder, slots = self.decoder(), self.slots()
        exist = torch.tensor([[True, False]])
        layout = decoder.slot_layout(slots, height=4, width=4, slots_mask=exist)
        torch.testing.assert_close(layout[0, 0], torch.ones(4, 4))
        none = decoder.slot_layout(slots, height=4, width=4, slots_mask=exist & False)
        assert (none == 0).all()
        alone = decoder(slots[:, :1], height=4, width=4).mixture()
        masked = decoder(slots, height=4, width=4, slots_mask=exist).mixture()
        torch.testing.assert_close(masked, alone)

    def test_plain_slots_have_one_color(self) -> None:
        decoder = self.decoder()
        decoder.freedom.fill_(0.0)
        colors = decoder(self.slots(), height=6, width=6).colors
        assert colors.std(dim=2).max() < 1e-6

    def test_pixels_belong_to_the_slot_of_their_color(self) -> None:
        decoder, slots = self.decoder(), self.slots()
        out = decoder(slots, height=24, width=24)
        owner = (torch.arange(576) // 24 % 2)[None]
        pixels = out.colors.gather(1, owner[:, None, :, None].expand(-1, -1, -1, 3))[:, 0]
        masks = decoder.segment(slots, pixels.transpose(1, 2).unflatten(2, (24, 24)))
        posterior = out.responsibilities(pixels)
        torch.testing.assert_close(masks.flatten(2), posterior, **CLOSE)
        prior, certain = (each.gather(1, owner[:, None]) for each in (out.masks, posterior))
        assert certain.mean() > prior.mean()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"sprite_size": 10}, "sprite_size must be a power of two, 4 or more, got 10"),
            ({"slot_dim": 3}, "slot_dim must be more than 4, got 3"),
            ({"color_scale": 0.0}, "color_scale must be more than 0"),
        ],
    )
    def test_wrong_options_are_refused(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.decoder(**changes)


def test_glimpses_know_where_the_image_ends() -> None:
    torch.manual_seed(0)
    glimpse = Glimpse(8, size=8, channels=8)
    torch.nn.init.normal_(glimpse.out.weight)
    image, mask = torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 8, 8)
    inner, outer = (glimpse(image, mask, torch.tensor([[[0.0, x, 0.1, 0.1]]])) for x in (0.0, 0.9))
    assert not torch.allclose(inner, outer, atol=1e-3)
