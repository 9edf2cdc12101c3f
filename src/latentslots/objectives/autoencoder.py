"""Training the autoencoder whose latents the denoiser works on (Rombach et al., 2022, Sec. 3.1)."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from PIL import Image
from scipy.fft import idctn
from torch import Tensor
from torch.nn import functional as F

from latentslots.metrics.reconstruction import psnr, ssim
from latentslots.models.autoencoder import downscale_factor, load_vae, measure_latents
from latentslots.objectives.base import Batch, FixedDraws, Logs, Objective, ValidationBatches
from latentslots.objectives.preview import draw_reconstructions

# Decorrelated color axes (Ohta, Kanade & Sakai, 1980), scaled to length 1; columns are R, G, B.
COLOR_AXES = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
COLOR_AXES = COLOR_AXES / COLOR_AXES.norm(dim=1, keepdim=True)


def cosine_filters(num_filters: int, patch_size: int) -> Float[Tensor, "C 3 p p"]:
    """The lowest frequencies of the cosine transform of a color patch (Ahmed et al., 1974).

    Ordered by frequency, then by color axis: the first three give the patch's mean color. The
    filters are orthonormal.

    Args:
        num_filters: Number of frequencies, at most `3 * patch_size ** 2`.
        patch_size: Pixels per side of the patch.

    Raises:
        ValueError: If a patch does not have that many frequencies.
    """
    if num_filters > 3 * patch_size**2:
        raise ValueError(
            f"a color patch of {patch_size} pixels has {3 * patch_size**2} frequencies, "
            f"fewer than the {num_filters} requested: use fewer latent_channels"
        )
    frequencies = [(u, v) for u in range(patch_size) for v in range(patch_size)]
    chosen = sorted((u + v, axis, u, v) for u, v in frequencies for axis in range(3))
    filters = []
    for _, axis, u, v in chosen[:num_filters]:
        coefficients = torch.zeros(patch_size, patch_size, dtype=torch.float64)
        coefficients[u, v] = 1
        wave = torch.from_numpy(idctn(coefficients.numpy(), norm="ortho")).float()
        filters.append(COLOR_AXES[axis, :, None, None] * wave)
    return torch.stack(filters)


class AutoencoderObjective(Objective):
    """L1 + KL, and optionally squared error, perceptual distance and a term for local latents.

    Differs from the paper, which adds an adversarial loss: small images of simple scenes do not
    need one.

    The local term is ours. It is the mean squared distance between the latents and the cosine
    transform of the patch of pixels that each encodes, centered per channel and scaled to a
    deviation of 1 over the batch. Latents that an autoencoder is free to choose mix colors and
    neighborhoods; slots then fail to bind (docs/lab-notes.md).

    Args:
        vae: The autoencoder; trained.
        mse_weight: Weight of the mean squared error, which counts the worst pixels most.
        kl_weight: Weight of the KL term, per latent.
        cosine_weight: Weight of the local term; 0 for none.
        perceptual: A module that compares two batches of images, such as `load_lpips()`.
        perceptual_weight: Weight of that distance.

    Raises:
        ValueError: If a weight is negative, or there are more latent channels than frequencies.
    """

    learned = ("vae",)
    needs_images_to_save = True

    def __init__(
        self,
        vae: AutoencoderKL,
        *,
        mse_weight: float = 0.0,
        kl_weight: float = 1e-4,
        cosine_weight: float = 0.0,
        perceptual: Any = None,
        perceptual_weight: float = 0.0,
    ) -> None:
        super().__init__()
        weights = {
            "mse": mse_weight,
            "kl": kl_weight,
            "cosine": cosine_weight,
            "perceptual": perceptual_weight,
        }
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name}_weight must be 0 or above, got {weight:g}")
        self.vae = vae
        self.mse_weight = mse_weight
        self.kl_weight = kl_weight
        self.cosine_weight = cosine_weight
        channels = vae.config.latent_channels
        filters = cosine_filters(channels, downscale_factor(vae)) if cosine_weight else None
        self.register_buffer("filters", filters, persistent=False)
        self.filters: Tensor
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.freeze(perceptual)

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """Compute the loss of `pixel_values` in [-1, 1]; `posterior_noise` overrides the draw."""
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
        if self.mse_weight:
            mse = F.mse_loss(reconstruction, pixel_values)
            loss = loss + self.mse_weight * mse
            logs["mse"] = mse.detach()
        if self.cosine_weight:
            cosine = F.mse_loss(posterior.mean.float(), self._cosine_transform(pixel_values))
            loss = loss + self.cosine_weight * cosine
            logs["cosine"] = cosine.detach()
        if self.perceptual is not None:
            perceptual = self.perceptual(reconstruction, pixel_values).mean()
            loss = loss + self.perceptual_weight * perceptual
            logs["perceptual"] = perceptual.detach()
        return loss, logs

    def _cosine_transform(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Compute the target of the local term."""
        patch_size = downscale_factor(self.vae)
        coefficients = F.conv2d(pixel_values, self.filters, stride=patch_size).float()
        centered = coefficients - coefficients.mean(dim=(0, 2, 3), keepdim=True)
        return centered / centered.std().clamp(min=1e-6)

    @torch.no_grad()
    def validation_losses(self, batch: Batch, draws: FixedDraws) -> dict[str, Tensor]:
        """Compute PSNR and SSIM of the reconstructions from posterior means."""
        pixels = batch["pixel_values"]
        decoded = self.vae.decode(self.vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        pair = ((decoded + 1) / 2, (pixels + 1) / 2)
        return {"psnr": psnr(*pair), "ssim": ssim(*pair)}

    def validate(self, batches: ValidationBatches) -> dict[str, float]:
        """Average PSNR and SSIM, and measure the deviation of the latents."""
        values = super().validate(batches)
        return {**values, "latent_std": self._measure_latents(batches)}

    def on_save(self, batches: ValidationBatches) -> None:
        """Set the statistics of the latents, which depend on the current weights."""
        self._measure_latents(batches)

    def _measure_latents(self, batches: ValidationBatches) -> float:
        return measure_latents(self.vae, (batch["pixel_values"] for batch, _ in batches))

    def preview(self, pixel_values: Tensor) -> Image.Image:
        """Draw images above their reconstructions."""
        return draw_reconstructions(self.vae, pixel_values)

    def components_of(self, name: str) -> dict[str, Any]:
        """Load a trained autoencoder to start from."""
        return {"vae": load_vae(name)}

    def save_pipeline(self, folder: Path) -> None:
        """Write the autoencoder to `folder/vae`."""
        self.vae.save_pretrained(folder / "vae")
