"""A discrete variational autoencoder (dVAE): every patch of an image is a token.

As in SLATE (Singh et al., 2022, https://arxiv.org/abs/2110.11405, Sec. 2.1), after Ramesh et
al. (2021, https://arxiv.org/abs/2102.12092).

Dimensions: B batch, V entries of the vocabulary, H W pixels, h w rows and columns of tokens.
"""

import math

from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.models.image_size import check_image_size
from latentslots.models.strict_config import StrictConfigMixin


class DiscreteVAE(ModelMixin, StrictConfigMixin):
    """Encode each patch of an image as a token of a vocabulary, and decode images from tokens.

    A token depends on its patch alone; the decoder's convolutions also depend on its neighbors.

    Args:
        vocab_size: Size of the vocabulary.
        patch_size: Pixels per side of a patch, a power of two.
        channels: Width of the layers.
    """

    @register_to_config
    def __init__(self, *, vocab_size: int = 1024, patch_size: int = 4, channels: int = 64) -> None:
        super().__init__()
        if patch_size < 1 or patch_size & (patch_size - 1):
            raise ValueError(f"patch_size must be a power of two, got {patch_size}")
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, patch_size, stride=patch_size),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, vocab_size, 1),
        )
        layers: list[nn.Module] = [
            nn.Conv2d(vocab_size, channels, 1, bias=False),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
        ]
        for _ in range(int(math.log2(patch_size))):
            layers += [
                nn.Conv2d(channels, 4 * channels, 1),
                nn.PixelShuffle(2),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(),
            ]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels, 3, 1))

    @property
    def size_multiple(self) -> int:
        """Images must be a multiple of this many pixels, in both directions."""
        return self.config.patch_size

    def encode(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B V h w"]:
        """Predict the logits of the tokens of images in [-1, 1].

        Raises:
            ValueError: If the image's size is not a multiple of `size_multiple`.
        """
        check_image_size(pixel_values, self.size_multiple)
        return self.encoder(pixel_values)

    def decode(self, probabilities: Float[Tensor, "B V h w"]) -> Float[Tensor, "B 3 H W"]:
        """Decode distributions over the vocabulary, one per token, to images around [-1, 1]."""
        return self.decoder(probabilities)

    def decode_tokens(self, tokens: Int[Tensor, "B h w"]) -> Float[Tensor, "B 3 H W"]:
        """Decode tokens, each an index into the vocabulary, to images around [-1, 1]."""
        one_hot = F.one_hot(tokens, self.config.vocab_size).permute(0, 3, 1, 2)
        return self.decode(one_hot.to(self.dtype))

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Reconstruct images from the predicted distributions, without sampling."""
        return self.decode(self.encode(pixel_values).softmax(dim=1))
