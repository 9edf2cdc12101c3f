"""The image backbone of Latent Slot Diffusion (Jiang et al., 2023, Sec. 3.1).

Dimensions: B batch, C channels, H W pixels, h w rows and columns of the feature map.
"""

from collections.abc import Sequence

import torch
from diffusers import ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from latentslots.models.image_size import check_image_size
from latentslots.models.strict_config import StrictConfigMixin


class UNetEncoder(ModelMixin, StrictConfigMixin):
    """Encode an image to a feature map with a U-Net, so that features depend on the whole image.

    A strided convolution, the stem, brings the image to the working size; diffusers' U-Net, at
    timestep 0, does the rest. Works at any size that its strides divide.

    Args:
        out_channels: Channels of the feature map.
        downscale_factor: Pixels per feature, in each direction.
        block_out_channels: Widths of the U-Net's levels.
        layers_per_block: Residual blocks per level.
        mid_attention: Whether features attend to each other at the lowest resolution. Otherwise
            the receptive field of a feature is that of its convolutions.
        attention_head_dim: Channels per head of the middle attention.
        norm_num_groups: Groups of the group normalizations.
        in_channels: Channels of the image.
        stem_channels: Width of the stem; that of the first level when absent.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        *,
        out_channels: int = 192,
        downscale_factor: int = 4,
        block_out_channels: Sequence[int] = (128, 128, 256, 512),
        layers_per_block: int = 1,
        mid_attention: bool = True,
        attention_head_dim: int = 8,
        norm_num_groups: int = 16,
        in_channels: int = 3,
        stem_channels: int | None = None,
    ) -> None:
        super().__init__()
        if downscale_factor < 1:
            raise ValueError(f"downscale_factor must be at least 1, got {downscale_factor}")
        if not 1 <= attention_head_dim <= block_out_channels[-1]:
            raise ValueError(
                f"attention_head_dim must be between 1 and the last of block_out_channels, "
                f"{block_out_channels[-1]}, got {attention_head_dim}"
            )
        levels = len(block_out_channels)
        stem_channels = block_out_channels[0] if stem_channels is None else stem_channels
        if stem_channels < 1:
            raise ValueError(f"stem_channels must be at least 1, got {stem_channels}")
        self.stem = nn.Conv2d(
            in_channels,
            stem_channels,
            kernel_size=downscale_factor,
            stride=downscale_factor,
        )
        self.unet = UNet2DModel(
            in_channels=stem_channels,
            out_channels=out_channels,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            add_attention=mid_attention,
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
        )

    @property
    def size_multiple(self) -> int:
        """Images must be a multiple of this many pixels, in both directions."""
        return self.config.downscale_factor * 2 ** (len(self.config.block_out_channels) - 1)

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Compute the features of images in [-1, 1].

        Raises:
            ValueError: If the image's size is not a multiple of `size_multiple`.
        """
        check_image_size(pixel_values, self.size_multiple)
        hidden = self.stem(pixel_values)
        timestep = torch.zeros((), dtype=torch.long, device=hidden.device)
        return self.unet(hidden, timestep).sample
