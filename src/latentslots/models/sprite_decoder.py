"""A decoder that paints each slot's own picture, and places it at the slot's frame.

Pictures placed by a position and a scale are those of SPACE (Lin et al., 2020,
https://arxiv.org/abs/2001.02407) and of spatial transformers (Jaderberg et al., 2015,
https://arxiv.org/abs/1506.02025); colors and mask of a slot from a convolutional decoder, those of
Locatello et al., 2020. A position in the image is not an input: a slot that moves is painted as
before, elsewhere.

Dimensions: B batch, K slots, D slot channels (frame included), E of content, N cells of a grid,
S rows and columns of a sprite, h w rows and columns of the grid.
"""

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latentslots.models.frames import FRAME_CHANNELS, cell_centers, place, split_frames
from latentslots.models.patch_decoder import PatchDecoderOutput
from latentslots.models.strict_config import StrictConfigMixin

SMALLEST_GRID = 4
FALL = 4.0
"""Fall of a mask's logit from the border of its sprite to half a side beyond it, as a parabola.
Masks that end at the border show it, where slots share the background (docs/lab-notes.md)."""
GROUND_SCALE, GROUND_STEEPNESS = 0.45, 40.0
"""Scale from which a slot is the ground: that of the whole image is 0.58, of half of it 0.41. Its
mask is flat, so that it lies behind all others, and continues where one of them is taken away."""
GROUND_GRID = 8
"""Rows and columns of the positions whose median is the flat mask's logit."""


class SpriteDecoder(ModelMixin, StrictConfigMixin):
    """Decode each slot into a sprite, colors and a mask, and mix the sprites at their frames.

    Has the interface of `PatchDecoder`.

    Args:
        slot_dim: Channels of a slot, frame included.
        sprite_size: Rows and columns of a sprite: a power of two, 4 or more.
        channels: Width of the first convolutions; from 8 rows on it is halved with every doubling
            of the grid, down to 16.
        norm_num_groups: Groups of the group normalizations.
        color_scale: See `PatchDecoder`.

    Attributes:
        color_mean: See `PatchDecoder`.
        freedom: See `PatchDecoder`.

    Raises:
        ValueError: If the size is not such a number, or slots have no room for a frame.
    """

    color_mean: Float[Tensor, " 3"]
    freedom: Float[Tensor, ""]

    @register_to_config
    def __init__(
        self,
        *,
        slot_dim: int = 68,
        sprite_size: int = 16,
        channels: int = 48,
        norm_num_groups: int = 8,
        color_scale: float = 0.3,
    ) -> None:
        super().__init__()
        if sprite_size < SMALLEST_GRID or sprite_size & (sprite_size - 1):
            raise ValueError(f"sprite_size must be a power of two, 4 or more, got {sprite_size}")
        if slot_dim <= FRAME_CHANNELS:
            raise ValueError(f"slot_dim must be more than {FRAME_CHANNELS}, got {slot_dim}")
        if not color_scale > 0:
            raise ValueError(f"color_scale must be more than 0, got {color_scale}")
        self.register_buffer("color_mean", torch.zeros(3))
        self.register_buffer("freedom", torch.ones(()))
        content_dim = slot_dim - FRAME_CHANNELS
        self.slot_in = nn.Linear(content_dim, channels * SMALLEST_GRID**2)
        layers: list[nn.Module] = [nn.SiLU()]
        size = SMALLEST_GRID
        while size < sprite_size:
            narrower = max(channels // 2, 16) if size >= 8 else channels
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(channels, narrower, 3, padding=1),
                nn.GroupNorm(norm_num_groups, narrower),
                nn.SiLU(),
            ]
            channels, size = narrower, 2 * size
        self.convolutions = nn.Sequential(*layers, nn.Conv2d(channels, 3 + 1, 3, padding=1))
        self.color_mlp = nn.Sequential(
            nn.Linear(content_dim, 2 * content_dim), nn.ReLU(), nn.Linear(2 * content_dim, 3)
        )

    def sprites(self, content: Float[Tensor, "B K E"]) -> Float[Tensor, "B K 4 S S"]:
        """Return every slot's own picture: three colors in [-1, 1], and the logit of its mask."""
        grid = self.slot_in(content).flatten(0, 1).unflatten(1, (-1, SMALLEST_GRID, SMALLEST_GRID))
        decoded = self.convolutions(grid).float().unflatten(0, content.shape[:2])
        plain = self.color_mlp(content).float()[..., None, None]
        colors = plain + self.freedom * decoded[:, :, :3]
        colors = colors * self.config.color_scale + self.color_mean[:, None, None]
        return torch.cat([colors, decoded[:, :, 3:]], dim=2)

    def forward(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        height: int,
        width: int,
        cells: Int[Tensor, " n"] | None = None,
        slots_mask: Bool[Tensor, "B K"] | None = None,
    ) -> PatchDecoderOutput:
        """Decode a grid of `height` x `width` cells, or some of its cells.

        Args:
            slots: The scenes.
            height: Rows of the grid, which may be as fine as the pixels.
            width: Columns of the grid.
            cells: Indices of the cells to decode, row by row; all when absent.
            slots_mask: True for the slots that exist; the masks of others are 0.

        Returns:
            Colors in [-1, 1] and masks that sum to 1 over K, in fp32.
        """
        colors, logits = self.layers(slots, height=height, width=width, cells=cells)
        if slots_mask is not None:
            logits = logits.masked_fill(~slots_mask[..., None], torch.finfo(logits.dtype).min)
        masks = logits.softmax(dim=1)
        if slots_mask is not None:  # also of scenes in which no slot exists
            masks = masks * slots_mask[..., None]
        return PatchDecoderOutput(colors=colors, masks=masks)

    def layers(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        height: int,
        width: int,
        cells: Int[Tensor, " n"] | None = None,
    ) -> tuple[Float[Tensor, "B K N 3"], Float[Tensor, "B K N"]]:
        """Return the colors and the logits of the mask of each slot on its own; see `forward`."""
        content, frames = split_frames(slots)
        centers = cell_centers(height, width, slots.device)
        centers = centers if cells is None else centers[cells]
        sprites = self.sprites(content)
        placed, beyond = place(sprites, frames.float(), centers)
        logits = placed[:, :, 3] - FALL * beyond.square()
        logits = torch.lerp(logits, *self._ground(sprites[:, :, 3:], frames.float()))
        return placed[:, :, :3].transpose(2, 3), logits

    def _ground(
        self, logits: Float[Tensor, "B K 1 S S"], frames: Float[Tensor, "B K 4"]
    ) -> tuple[Float[Tensor, "B K 1"], Float[Tensor, "B K 1"]]:
        """Return the flat logit of each slot's mask, and whether it has one: 0 to 1.

        None has one while slots have one color each: at first all slots attend to the whole image,
        and flat masks would leave them copies of one another (docs/lab-notes.md).
        """
        centers = cell_centers(GROUND_GRID, GROUND_GRID, frames.device)
        flat = place(logits, frames, centers)[0].median(dim=3).values
        size = frames[..., 2:].prod(dim=2, keepdim=True).clamp(min=0).sqrt()
        is_ground = ((size - GROUND_SCALE) * GROUND_STEEPNESS).sigmoid()
        return flat, self.freedom * is_ground

    def slot_layout(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        height: int,
        width: int,
        slots_mask: Bool[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B K h w"]:
        """Predict where each slot lies, from the slots alone; see `PatchDecoder.slot_layout`."""
        masks = self(slots, height=height, width=width, slots_mask=slots_mask).masks
        return masks.unflatten(2, (height, width))

    @torch.no_grad()
    def segment(
        self,
        slots: Float[Tensor, "B K D"],
        pixel_values: Float[Tensor, "B 3 h w"],
        slots_mask: Bool[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B K h w"]:
        """Segment images in [-1, 1]: the posterior probability of each slot at each pixel."""
        height, width = pixel_values.shape[-2:]
        masks = []
        for index, pixels in enumerate(pixel_values[:, None]):
            exist = None if slots_mask is None else slots_mask[[index]]
            output = self(slots[[index]], height=height, width=width, slots_mask=exist)
            posterior = output.responsibilities(pixels.flatten(2).transpose(1, 2).float())
            masks.append(posterior if exist is None else posterior * exist[..., None])
        return torch.cat(masks).unflatten(2, (height, width))
