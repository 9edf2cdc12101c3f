"""Train slots on whole objects: unite a pair of parts in every image, if one slot suffices.

Spare slots cut objects into parts, and a decoder that is trained on parts paints no whole object,
so that parts cannot be merged after training either (`pipelines.merging_parts`). In training, a
random pair of slots that touch is replaced by the slot of both regions, encoded anew, in the images
in which that paints the image as well; the second of the two is absent in this step. Both the
decoders and, where attention follows the decoder's masks, the attention learn that one slot has the
whole object.

Dimensions: B batch, K slots, D slot channels, h w token grid, H W pixels.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentslots.models import SlotEncoder, SpriteDecoder
from latentslots.models.frames import split_frames, touching
from latentslots.pipelines.merging_parts import compared_pixels

LARGEST_PART = 0.4
"""Share of the image from which a slot is not a part but the background."""


def unite_pairs(
    slots: Float[Tensor, "B K D"],
    attention: Float[Tensor, "B K h w"],
    features: Float[Tensor, "B F h w"],
    pixel_values: Float[Tensor, "B 3 H W"],
    *,
    slot_encoder: SlotEncoder,
    decoder: SpriteDecoder,
    max_error: float,
    draws: Float[Tensor, "B P"] | None = None,
) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"]]:
    """Replace one random pair of touching slots in each image by the slot of their union.

    Args:
        slots: The scenes.
        attention: The slots' regions.
        features: The feature maps of the images.
        pixel_values: The images in [-1, 1].
        slot_encoder: Encodes the union of two regions as a slot.
        decoder: Paints slots.
        max_error: By how much a union may raise the mean squared error of the painted image, in
            units of the square of the decoder's `color_scale`; other pairs stay as they are.
        draws: A number in [0, 1) for every pair, K * K of them: of those that touch, the pair with
            the largest is taken. Drawn when absent.

    Returns:
        Slots, in which the union takes the place of the larger part, and a mask of the slots that
        exist.
    """
    if draws is None:
        draws = torch.rand(len(slots), slots.shape[1] ** 2, device=slots.device)
    kept, given_up, is_pair = _choose_pairs(slots, attention.flatten(2).mean(dim=2), draws)
    index = torch.arange(len(slots), device=slots.device)
    regions = (attention[index, kept] + attention[index, given_up])[:, None]
    unions = slot_encoder.encode_masks(features, regions, pixel_values=pixel_values)
    numbers = torch.arange(slots.shape[1], device=slots.device)
    united = torch.where((numbers == kept[:, None])[..., None], unions, slots)
    exist = numbers != given_up[:, None]
    with torch.no_grad():
        before = _errors(slots, None, pixel_values, decoder)
        worse = _errors(united, exist, pixel_values, decoder) - before
        chosen = is_pair & (worse <= max_error)
    slots = torch.where(chosen[:, None, None], united, slots)
    return slots, exist | ~chosen[:, None]


@torch.no_grad()
def _choose_pairs(
    slots: Float[Tensor, "B K D"], areas: Float[Tensor, "B K"], draws: Float[Tensor, "B P"]
) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], Bool[Tensor, " B"]]:
    """Choose touching parts for each image: the larger, the other; and whether there is a pair."""
    num_slots = slots.shape[1]
    part = areas < LARGEST_PART
    pairs = touching(split_frames(slots)[1]) & part[:, :, None] & part[:, None]
    pairs = pairs.triu(diagonal=1).flatten(1)
    drawn = draws.masked_fill(~pairs, -1.0).argmax(dim=1)
    first, second = drawn // num_slots, drawn % num_slots
    index = torch.arange(len(slots), device=slots.device)
    larger = areas[index, first] >= areas[index, second]
    kept, given_up = torch.where(larger, first, second), torch.where(larger, second, first)
    return kept, given_up, pairs.any(dim=1)


def _errors(
    slots: Float[Tensor, "B K D"],
    exist: Bool[Tensor, "B K"] | None,
    pixel_values: Float[Tensor, "B 3 H W"],
    decoder: SpriteDecoder,
) -> Float[Tensor, " B"]:
    """Compute the mean squared error of each painted image, in units of the squared color scale."""
    target = compared_pixels(pixel_values)
    height, width = target.shape[2:]
    painted = decoder(slots, height=height, width=width, slots_mask=exist).mixture()
    error = (painted - target.flatten(2).transpose(1, 2)).square().mean(dim=(1, 2))
    return error / decoder.config.color_scale**2
