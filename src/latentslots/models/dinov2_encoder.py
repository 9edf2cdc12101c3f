"""DINOv2 (Oquab et al., 2023, https://arxiv.org/abs/2304.07193), frozen.

Dimensions: B images, H W pixels, C channels, h w rows and columns of patches.
"""

from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel

from latentslots.models.strict_config import StrictConfigMixin

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
SIZE = 224
VITS = ("dinov2", "dinov2_with_registers", "dinov3_vit")
"""Model types of transformers whose tokens are the class, then registers, then patches."""


def load_vit(name: str) -> PreTrainedModel:
    """Load a pretrained vision transformer, in evaluation mode and frozen.

    Args:
        name: A local folder, or a hub id.

    Raises:
        ValueError: If it cannot be loaded.
    """
    try:
        model = AutoModel.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"cannot load a DINOv2 from {name!r}: it must be a folder that transformers saved, "
            f"or a hub id such as facebook/dinov2-base ({reason})"
        ) from None
    return model.eval().requires_grad_(False)


def normalize(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Normalize images in [0, 1] for vision transformers of this family."""
    mean, deviation = images.new_tensor(MEAN), images.new_tensor(DEVIATION)
    return (images - mean[:, None, None]) / deviation[:, None, None]


class DINOv2Encoder(ModelMixin, StrictConfigMixin):
    """Patch features of a frozen DINOv2 or DINOv3, including resizing and normalization.

    It takes the same images as all other encoders. Differs from the official code, which resizes
    the original image for the transformer: here the image of `data.resolution` pixels is resized
    again.

    Args:
        architecture: The transformer's architecture, transformers' config as a dictionary.
        image_size: Pixels per side to which images are resized, bicubically: a multiple of the
            transformer's patch size. 224 makes a grid of 16 x 16 patches of 14 pixels.
        num_layers: How many of the last layers to concatenate the features of, each after the
            transformer's last normalization. Deep layers represent semantics, earlier ones
            boundaries (MUFASA, 2026, uses the last four).

    Raises:
        ValueError: If the transformer is of another family, or a number does not fit it.
    """

    @register_to_config
    def __init__(
        self, *, architecture: dict[str, Any], image_size: int = SIZE, num_layers: int = 1
    ) -> None:
        super().__init__()
        kind = architecture.get("model_type")
        if kind not in VITS:
            raise ValueError(f"the encoder must be one of {', '.join(VITS)}, got {kind}")
        self.model = AutoModel.from_config(AutoConfig.for_model(**architecture))
        patch_size = self.model.config.patch_size
        if image_size < patch_size or image_size % patch_size:
            raise ValueError(
                f"image_size must be a multiple of the transformer's patch, {patch_size} pixels, "
                f"got {image_size}"
            )
        depth = self.model.config.num_hidden_layers
        if not 1 <= num_layers <= depth:
            raise ValueError(f"num_layers must be from 1 to {depth}, got {num_layers}")
        self.requires_grad_(False)

    @classmethod
    def from_vit(cls, name: str, *, image_size: int = SIZE, num_layers: int = 1) -> "DINOv2Encoder":
        """Build the encoder from a pretrained transformer.

        Args:
            name: A local folder, or a hub id.
            image_size: See the class.
            num_layers: See the class.

        Raises:
            ValueError: If it cannot be loaded, or is of another family.
        """
        vit = load_vit(name)
        architecture = vit.config.to_diff_dict()
        for key in ("transformers_version", "dtype", "torch_dtype"):
            architecture.pop(key, None)
        encoder = cls(architecture=architecture, image_size=image_size, num_layers=num_layers)
        encoder.model.load_state_dict(vit.state_dict())
        return encoder.eval()

    @property
    def out_channels(self) -> int:
        """Channels of a feature: those of all layers in use."""
        return self.model.config.hidden_size * self.config.num_layers

    @property
    def grid_size(self) -> int:
        """Rows, and columns, of patches."""
        return self.config.image_size // self.model.config.patch_size

    @torch.no_grad()
    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Encode images in [-1, 1], of any size, to features."""
        size = (self.config.image_size,) * 2
        images = (pixel_values.float() + 1) / 2  # torch cannot resize in half precision
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        several = self.config.num_layers > 1
        out = self.model(normalize(images).to(self.dtype), output_hidden_states=several)
        tokens = out.last_hidden_state
        if several:
            # DINOv2 names it `layernorm`, DINOv3 `norm`. The last hidden state is not taken from
            # the list, in which some releases of transformers have it normalized for DINOv3.
            norm = getattr(self.model, "layernorm", None) or self.model.norm
            earlier = out.hidden_states[-self.config.num_layers : -1]
            tokens = torch.cat([*(norm(layer) for layer in earlier), tokens], dim=2)
        patches = tokens[:, 1 + getattr(self.model.config, "num_register_tokens", 0) :]
        return patches.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))


class DINOv2Features(nn.Module):
    """The class token of DINOv2: one feature vector per image.

    Args:
        name: A local folder, or a hub id.

    Raises:
        ValueError: If it cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = load_vit(name)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Encode images in [0, 1], of any size, to class tokens."""
        images = F.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True)
        hidden = self.model(normalize(images.clamp(0, 1)))
        return hidden.last_hidden_state[:, 0]
