"""The discrete autoencoder: tokens depend on their own patches."""

import pytest
import torch
from torch.nn import functional as F

from latentslots.models import DiscreteVAE
from tests.tiny import tiny_discrete_vae


def images(height: int = 16, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, height, width, generator=generator) * 2 - 1


@torch.no_grad()
def test_a_token_depends_on_its_patch_alone() -> None:
    model, pixels = tiny_discrete_vae(), images()
    logits = model.encode(pixels)
    assert logits.shape == (2, 8, 4, 6)
    alone = model.encode(pixels[:, :, 4:8, 8:12])
    torch.testing.assert_close(alone[..., 0, 0], logits[..., 1, 2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("patch_size", [1, 2, 4, 8])
@torch.no_grad()
def test_decoded_images_have_the_size_of_the_original(patch_size: int) -> None:
    model = tiny_discrete_vae(patch_size=patch_size)
    tokens = model.encode(images()).argmax(dim=1)
    decoded = model.decode_tokens(tokens)
    assert decoded.shape == (2, 3, 16, 24)
    one_hot = F.one_hot(tokens, 8).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(decoded, model.decode(one_hot))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="patch_size must be a power of two, got 6"):
        tiny_discrete_vae(patch_size=6)
    with pytest.raises(ValueError, match="vocab_size must be at least 2, got 1"):
        tiny_discrete_vae(vocab_size=1)
    with pytest.raises(ValueError, match="multiples of 4 pixels, got 16x18"):
        DiscreteVAE().encode(images(16, 18))
