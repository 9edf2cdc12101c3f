"""Load the frozen autoencoder between pixels and latents, and convert between their units."""

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from latentslots.bundled import bundled_folder

BUNDLED_VAE = "vae"
STATISTICS = ("latents_mean", "latents_std")
"""The statistics of latents in a VAE's config, as diffusers names them."""


def load_vae(name: str) -> AutoencoderKL:
    """Load an autoencoder, in fp32.

    Args:
        name: `bundled` (ours: 4 pixels per latent, 8 channels), a folder, or a hub id. A folder
            may be that of a VAE, or a run or pipeline folder that holds one.

    Raises:
        ValueError: If it cannot be loaded, the statistics in its config are wrong, or the bundled
            one is missing or damaged.
    """
    vae = _load_vae(name)
    check_latent_statistics(vae)
    return vae


def _load_vae(name: str) -> AutoencoderKL:
    if name == "bundled":
        return AutoencoderKL.from_pretrained(bundled_folder(BUNDLED_VAE))
    for folder in (Path(name), Path(name, "vae"), Path(name, "pipeline", "vae")):
        if (folder / "config.json").is_file():
            return AutoencoderKL.from_pretrained(folder)
    try:
        return AutoencoderKL.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load the VAE {name!r}: it must be 'bundled', a folder with an AutoencoderKL, "
            f"or a hub id ({str(error).splitlines()[0]})"
        ) from None


def downscale_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent, in each direction."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def check_latent_statistics(vae: AutoencoderKL) -> None:
    """Check the statistics of the latents in a VAE's config.

    Raises:
        ValueError: If `latents_mean` and `latents_std` are not one number per channel, one of them
            is missing, a deviation is not above 0, or there is a `shift_factor` beside them.
    """
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is None and std is None:
        return
    channels = vae.config.latent_channels
    for name, values in (("latents_mean", mean), ("latents_std", std)):
        if values is None or len(values) != channels:
            count = "none" if values is None else len(values)
            raise ValueError(
                f"{name} in the VAE's config must have one number for each of the {channels} "
                f"latent channels, got {count}"
            )
    if min(std) <= 0:
        raise ValueError(f"latents_std in the VAE's config must be above 0, got {min(std):g}")
    if vae.config.shift_factor:
        raise ValueError("a VAE's config has either shift_factor or latents_mean, not both")


@torch.no_grad()
def measure_latents(vae: AutoencoderKL, images: Iterable[Float[Tensor, "_ 3 H W"]]) -> float:
    """Measure mean and deviation of every latent channel, and write them to the VAE's config.

    Channels that a denoiser predicts with a squared error should have the same deviation:
    otherwise those with small ones, which hold edges, hardly count.

    Args:
        vae: The autoencoder.
        images: Batches of images in [-1, 1].

    Returns:
        The mean deviation. That of samples of the posterior, whose variance counts, too.
    """
    sums, count = torch.zeros(2, vae.config.latent_channels, dtype=torch.float64), 0
    for batch in images:
        posterior = vae.encode(batch.to(vae.device, vae.dtype)).latent_dist
        # On the CPU, as not every device has double precision.
        mean, var = (each.to("cpu", torch.float64) for each in (posterior.mean, posterior.var))
        pixels = (0, 2, 3)
        sums += torch.stack([mean.sum(pixels), (mean.square() + var).sum(pixels)]).cpu()
        count += mean[:, 0].numel()
    first, second = sums / count
    std = (second - first.square()).sqrt()
    set_latent_statistics(vae, first, std)
    return float(std.mean())


def set_latent_statistics(
    vae: AutoencoderKL, mean: Float[Tensor, " C"], std: Float[Tensor, " C"]
) -> None:
    """Write the mean and the deviation of every latent channel to a VAE's config.

    Rounded to fp32, in which checkpoints keep them.
    """
    vae.register_to_config(
        latents_mean=mean.float().tolist(),
        latents_std=std.float().tolist(),
        shift_factor=None,
        scaling_factor=1.0,
    )


def _affine(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Offset and factor, `[C, 1, 1]`, from the VAE's units to the denoiser's."""
    check_latent_statistics(vae)
    channels = vae.config.latent_channels
    offset = vae.config.get("latents_mean") or [vae.config.shift_factor or 0.0] * channels
    std = vae.config.get("latents_std") or [1.0] * channels
    factor = vae.config.scaling_factor / torch.tensor(std)
    offset, factor = torch.tensor(offset, device=vae.device), factor.to(vae.device)
    return offset[:, None, None], factor[:, None, None]


def scale_latents(
    vae: AutoencoderKL, latents: Float[Tensor, "B C h w"]
) -> Float[Tensor, "B C h w"]:
    """Scale latents from the VAE's units to the denoiser's, whose standard deviation is about 1.

    With `latents_mean` and `latents_std` in the VAE's config, as diffusers has them, every channel
    is whitened: it has a mean of 0 and a deviation of `scaling_factor`. Otherwise all channels are
    scaled alike.
    """
    offset, factor = _affine(vae)
    return ((latents.float() - offset) * factor).to(latents.dtype)


def encode_latents(
    vae: AutoencoderKL, pixel_values: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B C h w"]:
    """Encode pixels in [-1, 1] to the mode of the VAE's posterior, in the denoiser's units."""
    posterior = vae.encode(pixel_values.to(vae.device, vae.dtype)).latent_dist
    return scale_latents(vae, posterior.mode())


def decode_latents(
    vae: AutoencoderKL, latents: Float[Tensor, "B C h w"]
) -> Float[Tensor, "B 3 H W"]:
    """Decode latents in the denoiser's units to pixels, about [-1, 1]."""
    offset, factor = _affine(vae)
    latents = latents.float() / factor + offset
    return vae.decode(latents.to(vae.dtype)).sample
