"""DINOv2 (Oquab et al., 2023, https://arxiv.org/abs/2304.07193), frozen.

Dimensions: B images, H W pixels, C channels.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
SIZE = 224


class DINOv2Features(nn.Module):
    """The class token of an image: one vector for all that is in it.

    Args:
        name: A local folder, or a hub id.

    Raises:
        ValueError: If no model of that name can be loaded.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            model = AutoModel.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"cannot load a DINOv2 from {name!r}: {reason}") from None
        self.model = model.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None])

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Class tokens of images in [0, 1], of any size."""
        images = F.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True)
        hidden = self.model((images.clamp(0, 1) - self.mean) / self.deviation)
        return hidden.last_hidden_state[:, 0]
