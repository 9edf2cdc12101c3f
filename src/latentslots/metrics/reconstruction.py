"""Similarity of two images: PSNR, SSIM and LPIPS.

Dimensions: B batch, H W pixels.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure


def psnr(pred: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Peak signal-to-noise ratio of every image, in dB; pixels in [0, 1].

    Example:
        >>> import torch
        >>> psnr(torch.full((1, 3, 8, 8), 0.6), torch.full((1, 3, 8, 8), 0.5)).round(decimals=3)
        tensor([20.])
    """
    error = (pred - target).float().square().mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=1e-12).log10()


def ssim(pred: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Structural similarity of every image (Wang et al., 2004), at most 1; pixels in [0, 1].

    Windows are Gaussian, 11 px wide, and the image is mirrored at its border, as in torchmetrics;
    code that leaves out the border gives other numbers.

    Example:
        >>> import torch
        >>> image = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
        >>> ssim(image, image)
        tensor([1.])
    """
    value = structural_similarity_index_measure(
        pred.float(), target.float(), data_range=1.0, reduction="none"
    )
    assert isinstance(value, Tensor)
    return value.reshape(-1)


def load_lpips(net: str = "vgg") -> nn.Module:
    """Load the perceptual distance of Zhang et al. (2018), from the extra `perceptual`.

    It compares images `[B, 3, H, W]` in [-1, 1]; 0 for equal images, larger for less similar ones.

    Args:
        net: `vgg`, usual as a loss, or `alex`, usual as a score.

    Raises:
        ValueError: If the package `lpips` is not installed, or cannot fetch its weights.
    """
    try:
        import lpips
    except ImportError:
        raise ValueError("LPIPS needs its package: pip install 'latentslots[perceptual]'") from None
    try:
        distance: nn.Module = lpips.LPIPS(net=net, verbose=False)
    except OSError as error:
        raise ValueError(f"the weights of LPIPS cannot be fetched: {error}") from None
    return distance.eval().requires_grad_(False)
