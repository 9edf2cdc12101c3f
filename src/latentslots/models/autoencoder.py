"""The frozen autoencoder between pixels and latents: loading it, and its units."""

from pathlib import Path

from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from latentslots.bundled import bundled_folder

BUNDLED_VAE = "vae"


def load_vae(name: str) -> AutoencoderKL:
    """Load an autoencoder, in fp32.

    Args:
        name: `bundled` (ours: 4 pixels per latent, 8 channels), a folder, or a hub id. A folder
            may be a VAE's own, or a run or pipeline folder that holds one.

    Raises:
        ValueError: If nothing of that name can be loaded, or the bundled one is missing or damaged.
    """
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
            f"or the id of one on a hub ({str(error).splitlines()[0]})"
        ) from None


def downscale_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent, in each direction."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def scale_latents(vae: AutoencoderKL, latents: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """From the VAE's units to the denoiser's, which have a standard deviation of about 1."""
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def encode_latents(
    vae: AutoencoderKL, pixel_values: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B C h w"]:
    """The likeliest latents of pixels in [-1, 1], in the denoiser's units."""
    posterior = vae.encode(pixel_values.to(vae.device, vae.dtype)).latent_dist
    return scale_latents(vae, posterior.mode())


def decode_latents(
    vae: AutoencoderKL, latents: Float[Tensor, "B C h w"]
) -> Float[Tensor, "B 3 H W"]:
    """Pixels, about [-1, 1], of latents in the denoiser's units."""
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return vae.decode(latents.to(vae.dtype)).sample
