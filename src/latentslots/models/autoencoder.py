"""Load the frozen autoencoder between pixels and latents, and convert between their units."""

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
            may be that of a VAE, or a run or pipeline folder that holds one.

    Raises:
        ValueError: If it cannot be loaded, or if the bundled one is missing or damaged.
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
            f"or a hub id ({str(error).splitlines()[0]})"
        ) from None


def downscale_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent, in each direction."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def scale_latents(vae: AutoencoderKL, latents: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Scale latents from the VAE's units to the denoiser's, whose standard deviation is about 1."""
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


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
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return vae.decode(latents.to(vae.dtype)).sample
