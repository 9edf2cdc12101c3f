"""A small image backbone for training from scratch: residual blocks on one grid.

Dimensions: B batch, C channels, H W pixels, h w rows and columns of the feature map.
"""

from collections.abc import Sequence

from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.models.image_size import check_image_size
from latentslots.models.strict_config import StrictConfigMixin


class ResidualBlock(nn.Module):
    """Two normalized and dilated convolutions with a skip connection (He et al., 2016)."""

    def __init__(self, channels: int, *, dilation: int, norm_num_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_num_groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm2 = nn.GroupNorm(norm_num_groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)

    def forward(self, hidden: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Add the output of the two convolutions to their input."""
        residual = self.conv1(F.silu(self.norm1(hidden)))
        return hidden + self.conv2(F.silu(self.norm2(residual)))


class ResidualEncoder(ModelMixin, StrictConfigMixin):
    """Encode an image to a feature map whose features have a small receptive field.

    A strided convolution with overlapping patches, the stem, brings the image to the working size,
    at which the residual blocks work. Slots bind in fewer steps than with a U-Net on the same grid
    (docs/lab-notes.md). Works at any size that its stride divides.

    Args:
        out_channels: Channels of the feature map.
        downscale_factor: Pixels per feature, in each direction.
        channels: Width of the blocks.
        dilations: Dilation of the convolutions of each block.
        norm_num_groups: Groups of the group normalizations.
        in_channels: Channels of the image.
    """

    @register_to_config
    def __init__(
        self,
        *,
        out_channels: int = 192,
        downscale_factor: int = 4,
        channels: int = 96,
        dilations: Sequence[int] = (1, 2, 1),
        norm_num_groups: int = 8,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if downscale_factor < 1:
            raise ValueError(f"downscale_factor must be at least 1, got {downscale_factor}")
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations must be one or more numbers above 0, got {dilations}")
        if channels % norm_num_groups:
            raise ValueError(
                f"norm_num_groups must divide the channels, {channels}, got {norm_num_groups}"
            )
        self.stem = nn.Conv2d(
            in_channels,
            channels,
            2 * (downscale_factor // 2) + 1,
            stride=downscale_factor,
            padding=downscale_factor // 2,
        )
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(channels, dilation=dilation, norm_num_groups=norm_num_groups)
                for dilation in dilations
            )
        )
        self.norm_out = nn.GroupNorm(norm_num_groups, channels)
        self.conv_out = nn.Conv2d(channels, out_channels, 1)

    @property
    def size_multiple(self) -> int:
        """Images must be a multiple of this many pixels, in both directions."""
        return self.config.downscale_factor

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Compute the features of images in [-1, 1].

        Raises:
            ValueError: If the image's size is not a multiple of `size_multiple`.
        """
        check_image_size(pixel_values, self.size_multiple)
        hidden = self.blocks(self.stem(pixel_values))
        return self.conv_out(F.silu(self.norm_out(hidden)))
