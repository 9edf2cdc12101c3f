"""What a pipeline finds in images: slots and their masks.

Dimensions: B batch, K slots, D slot channels, h w the masks' own size, H W pixels.
"""

from dataclasses import dataclass

from diffusers.utils import BaseOutput
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from latentslots.models.frames import FRAME_CHANNELS


def upsample_masks(
    masks: Float[Tensor, "B K h w"], size: int | tuple[int, int]
) -> Float[Tensor, "B K H W"]:
    """Resize soft masks bilinearly (`align_corners=False`); they still sum to 1."""
    size = (size, size) if isinstance(size, int) else size
    return F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False)


@dataclass
class SlotOutput(BaseOutput):
    """A batch of scenes: one vector and one soft mask per slot.

    Attributes:
        slots: Slots before the projection to the decoder.
        masks: Share of every token in each slot's attention or, with a patch decoder, its
            responsibility for every pixel; they sum to 1 over K.
        slots_mask: True for the slots that exist, where scenes differ in their number; `None` where
            all exist. Pass it to the pipeline together with the slots.
        has_frames: Whether slots have a frame (`latentslots.models.frames`).
    """

    slots: Float[Tensor, "B K D"]
    masks: Float[Tensor, "B K h w"]
    slots_mask: Bool[Tensor, "B K"] | None = None
    has_frames: bool = False

    @property
    def frames(self) -> Float[Tensor, "B K 4"] | None:
        """The frames of slots, if they have some: center (y, x) in [-1, 1], and scale (y, x)."""
        return self.slots[..., -FRAME_CHANNELS:] if self.has_frames else None

    def segmentation(self, size: int | tuple[int, int] | None = None) -> Int[Tensor, "B H W"]:
        """Assign each pixel to the slot of its largest mask.

        Args:
            size: Pixels per side, or (height, width); the masks' own size when absent.
        """
        masks = self.masks if size is None else upsample_masks(self.masks, size)
        return masks.argmax(dim=1)
