"""Training the autoencoder whose latents the denoiser works on (Rombach et al., 2022, Sec. 3.1)."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.objectives.base import Batch, Logs, Objective


def load_lpips() -> nn.Module:
    """The perceptual distance of Zhang et al. (2018), from the extra `perceptual`.

    Raises:
        ValueError: If the package `lpips` is not installed.
    """
    try:
        import lpips
    except ImportError:
        raise ValueError(
            "perceptual_weight needs LPIPS: pip install 'latentslots[perceptual]'"
        ) from None
    return lpips.LPIPS(net="vgg", verbose=False)


class AutoencoderObjective(Objective):
    """L1 + KL, and optionally a perceptual distance.

    Differs from the paper, which adds an adversarial loss: small images of simple scenes do not
    need one.

    Args:
        vae: The autoencoder; learns.
        kl_weight: Weight of the KL term, per latent.
        perceptual: A module that compares two batches of images, such as `load_lpips()`.
        perceptual_weight: Its weight.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        *,
        kl_weight: float = 1e-4,
        perceptual: Any = None,
        perceptual_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.freeze(perceptual)

    def trained(self) -> dict[str, nn.Module]:
        """The autoencoder alone."""
        return {"vae": self.vae}

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """The loss of one batch of `pixel_values` in [-1, 1]; `posterior_noise` is optional."""
        pixel_values = batch["pixel_values"]
        posterior = self.vae.encode(pixel_values).latent_dist
        noise = batch.get("posterior_noise")
        if noise is None:
            noise = torch.randn(posterior.mean.shape, device=posterior.mean.device)
        reconstruction = self.vae.decode(posterior.mean + posterior.std * noise).sample.float()

        l1 = F.l1_loss(reconstruction, pixel_values)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = l1 + self.kl_weight * kl
        logs = {"l1": l1.detach(), "kl": kl.detach()}
        if self.perceptual is not None:
            perceptual = self.perceptual(reconstruction, pixel_values).mean()
            loss = loss + self.perceptual_weight * perceptual
            logs["perceptual"] = perceptual.detach()
        return loss, logs

    def set_scaling_factor(self, latent_std: float) -> None:
        """Make `1 / latent_std` the factor that brings latents to a deviation of 1."""
        self.vae.register_to_config(scaling_factor=1.0 / latent_std)

    def save_pipeline(self, folder: Path) -> None:
        """Write the autoencoder to `folder/vae`."""
        self.vae.save_pretrained(folder / "vae")
