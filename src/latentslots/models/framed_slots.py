"""Slot attention for slots that have a frame, and what they see in it (`frames`).

Dimensions: B batch, N tokens, C input channels, K slots, D slot channels (frame included), E of
their content, P the polynomials, S rows and columns of a crop, H W pixels, h w token grid.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.models.frames import (
    FRAME_CHANNELS,
    cell_centers,
    crop_image,
    crop_masks,
    crop_positions,
    in_frames,
    join_frames,
    measure_frames,
    split_frames,
)
from latentslots.models.slot_competition import (
    SlotAttention,
    SlotAttentionOutput,
    full_precision,
    linear,
)

NUM_POLYNOMIALS = 6
"""Those of the moments: 1, y, x, y^2 - 1, x^2 - 1 and xy, in units of the slot's scale."""
WINDOW = 4.0
"""Initial fall of the attention's logits from the center to `WINDOW_EXTENT` scales away."""
WINDOW_EXTENT = 5.0
"""Scales from the center up to which the window is a parabola."""
INITIAL_SPREAD, INITIAL_SCALE = 0.5, 0.4
"""Frames start around the image's center with this deviation, and with this scale."""


def check_frames(slot_dim: int, slot_init: str) -> None:
    """Refuse slots that have no room for a frame, or do not start from a Gaussian."""
    if slot_init != "gaussian":
        raise ValueError(f"slots with frames start from a Gaussian, not {slot_init!r}")
    if slot_dim <= FRAME_CHANNELS:
        raise ValueError(
            f"slot_dim must be more than the {FRAME_CHANNELS} channels of a frame, got {slot_dim}"
        )


def initial_frames(noise: Float[Tensor, "B K 4"]) -> Float[Tensor, "B K 4"]:
    """Draw the frames of initial slots: centers in the image, and one scale for all."""
    center = INITIAL_SPREAD * noise[..., :2].clamp(-2, 2)
    return torch.cat([center, torch.full_like(center, INITIAL_SCALE)], dim=-1)


class FramedSlotAttention(SlotAttention):
    """Slot attention in which each slot attends near its frame, which follows its attention.

    Differs from `SlotAttention` in two ways, apart from the frames. A window, a parabola in the
    slot's own coordinates whose coefficients depend on the slot, is added to the attention's
    logits: a slot attends to what is near, as far as it wants. And a slot is updated from the
    moments of the values around its center, up to the second, instead of their mean alone, so that
    it knows how they are arranged. Unlike in Invariant Slot Attention, keys and values do not
    depend on the slot, which would cost an MLP per token and slot.

    Args:
        input_dim: Channels of the input tokens.
        slot_dim: Channels of the slots, frame included.
        **options: See `SlotAttention`.

    Raises:
        ValueError: If there are several heads.
    """

    def __init__(self, input_dim: int, slot_dim: int, **options: Any) -> None:
        if options.get("num_heads", 1) != 1:
            raise ValueError(f"slots with frames have one head, got {options['num_heads']}")
        content_dim = slot_dim - FRAME_CHANNELS
        super().__init__(input_dim, content_dim, **options)
        self.to_window = nn.Linear(content_dim, NUM_POLYNOMIALS - 1)
        nn.init.zeros_(self.to_window.weight)
        with torch.no_grad():
            self.to_window.bias.copy_(torch.tensor([0.0, 0.0, -WINDOW, -WINDOW, 0.0]))
        self.mix_moments = linear(NUM_POLYNOMIALS * content_dim, content_dim)

    def forward(
        self, inputs: Float[Tensor, "B N C"], slots: Float[Tensor, "B K D"], *, height: int = 1
    ) -> SlotAttentionOutput:
        """Refine `slots`, the initial guess, against `inputs`, a grid of `height` rows."""
        inputs = self.norm_inputs(inputs)
        key, value = self.to_key(inputs) * self.scale, self.to_value(inputs)
        centers = cell_centers(height, inputs.shape[1] // height, inputs.device)
        with full_precision(slots):
            return self._refine(slots, key.to(slots.dtype), value.to(slots.dtype), centers)

    def attend_to(
        self,
        inputs: Float[Tensor, "B N C"],
        content: Float[Tensor, "B K E"],
        shares: Float[Tensor, "B K N"],
        *,
        height: int,
    ) -> Float[Tensor, "B K D"]:
        """Refine slots of the initial `content` that have given shares of the tokens."""
        value = self.to_value(self.norm_inputs(inputs))
        centers = cell_centers(height, inputs.shape[1] // height, inputs.device)
        frames = measure_frames(shares, centers)
        with full_precision(content):
            value = value.to(content.dtype)
            for _ in range(self.num_iterations):
                content = self._update(content, self._updates(shares, frames, value, centers))
        return join_frames(content, frames)

    def _refine(
        self,
        slots: Float[Tensor, "B K D"],
        key: Float[Tensor, "B N E"],
        value: Float[Tensor, "B N E"],
        centers: Float[Tensor, "N 2"],
    ) -> SlotAttentionOutput:
        initial, frames = split_frames(slots)
        content = initial
        for iteration in range(self.num_iterations):
            if self.bi_level and iteration == self.num_iterations - 1:
                content = content.detach() + initial - initial.detach()
            attention = self._attend(content, frames, key, centers)
            # Frames are measurements: what a slot attends to is not trained by where it lies.
            frames = measure_frames(attention.detach(), centers)
            content = self._update(content, self._updates(attention, frames, value, centers))
        attention = self._attend(content, frames, key, centers)
        frames = measure_frames(attention.detach(), centers)
        return SlotAttentionOutput(slots=join_frames(content, frames), attention=attention)

    def _attend(
        self,
        content: Float[Tensor, "B K E"],
        frames: Float[Tensor, "B K 4"],
        key: Float[Tensor, "B N E"],
        centers: Float[Tensor, "N 2"],
    ) -> Float[Tensor, "B K N"]:
        """Share every token out among the slots; in fp32, see `SlotAttention`."""
        query = self.to_query(self.norm_slots(content))
        near = _polynomials(in_frames(frames.float(), centers) / WINDOW_EXTENT)[..., 1:]
        window = (near.clamp(-1, 1) @ self.to_window(query).float()[..., None])[..., 0]
        return ((query @ key.transpose(1, 2)).float() + window).softmax(dim=1)

    def _updates(
        self,
        attention: Float[Tensor, "B K N"],
        frames: Float[Tensor, "B K 4"],
        value: Float[Tensor, "B N E"],
        centers: Float[Tensor, "N 2"],
    ) -> Float[Tensor, "B K E"]:
        """Mix the moments of the values that each slot attends to."""
        weights = attention + self.eps
        weights = weights / weights.sum(dim=2, keepdim=True)
        where = _polynomials(in_frames(frames, centers))
        where = torch.cat([where[..., :3], where[..., 3:5] - 1, where[..., 5:]], dim=3)
        weighted = (weights[..., None] * where.clamp(-4, 4)).transpose(2, 3).flatten(1, 2)
        moments = (weighted.to(value.dtype) @ value).unflatten(1, (-1, NUM_POLYNOMIALS))
        return self.mix_moments(moments.flatten(2))

    def _update(
        self, content: Float[Tensor, "B K E"], updates: Float[Tensor, "B K E"]
    ) -> Float[Tensor, "B K E"]:
        content = self.gru(updates.flatten(0, 1), content.flatten(0, 1)).view_as(content)
        return content + self.mlp(self.norm_mlp(content))


def _polynomials(where: Float[Tensor, "B K N 2"]) -> Float[Tensor, "B K N P"]:
    """1, y, x, y^2, x^2 and xy of positions."""
    y, x = where.unbind(dim=-1)
    return torch.stack([torch.ones_like(y), y, x, y * y, x * x, y * x], dim=-1)


class Glimpse(nn.Module):
    """What a slot sees in its frame: a vector, from a crop of the image and of the slot's mask.

    Attention averages features, which loses shape and texture. Models that crop an image at the
    boxes of its objects keep them (AIR, Eslami et al., 2016, https://arxiv.org/abs/1603.08575;
    SPACE, Lin et al., 2020, https://arxiv.org/abs/2001.02407). Here the box is a measured frame,
    and the mask tells which of the crop's pixels are the slot's.

    Args:
        out_dim: Channels of the vector.
        size: Rows and columns of the crop: a power of two, 4 or more.
        channels: Width of the first convolution; it doubles with every halving, up to 64.
        norm_num_groups: Groups of the group normalizations, without which it learns far more slowly
            (docs/lab-notes.md).

    Raises:
        ValueError: If the size is not such a number.
    """

    def __init__(
        self, out_dim: int, *, size: int = 16, channels: int = 24, norm_num_groups: int = 8
    ) -> None:
        super().__init__()
        if size < 4 or size & (size - 1):
            raise ValueError(f"glimpse_size must be a power of two, 4 or more, got {size}")
        self.size = size
        layers: list[nn.Module] = [nn.Conv2d(3 + 2, channels, 3, padding=1), nn.SiLU()]
        while size > 4:
            wider = min(2 * channels, max(channels, 64))
            layers += [
                nn.Conv2d(channels, wider, 3, stride=2, padding=1),
                nn.GroupNorm(norm_num_groups, wider),
                nn.SiLU(),
            ]
            channels, size = wider, size // 2
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.hidden = nn.Linear(channels * size**2, 2 * out_dim)
        self.out = nn.Linear(2 * out_dim, out_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        masks: Float[Tensor, "B K h w"],
        frames: Float[Tensor, "B K 4"],
    ) -> Float[Tensor, "B K E"]:
        """Look at images in [-1, 1] through the slots' masks and frames."""
        positions = crop_positions(frames.float(), self.size)
        image = crop_image(pixel_values, positions)
        mask = crop_masks(masks, positions)[:, :, None] * 2 - 1
        inside = (positions.abs() < 1).all(dim=-1)[:, :, None]
        seen = torch.cat([image, mask, inside.to(image)], dim=2).flatten(0, 1)
        seen = seen.to(self.out.weight.dtype)
        vectors = self.out(F.silu(self.hidden(self.convolutions(seen))))
        return vectors.unflatten(0, masks.shape[:2])
