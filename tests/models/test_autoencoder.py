"""Loading autoencoders, and their units."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from latentslots.models.autoencoder import (
    decode_latents,
    downscale_factor,
    load_vae,
    scale_latents,
)
from tests.tiny import tiny_autoencoder


def test_the_bundled_one_has_4_pixels_per_latent_and_8_channels() -> None:
    vae = load_vae("bundled")
    assert downscale_factor(vae) == 4
    assert vae.config.latent_channels == 8
    assert vae.dtype == torch.float32


@pytest.mark.parametrize("subfolder", ["", "vae", "pipeline/vae"])
def test_a_folder_may_hold_it(tiny_vae_dir: Path, tmp_path: Path, subfolder: str) -> None:
    shutil.copytree(tiny_vae_dir, tmp_path / "run" / subfolder)
    loaded = load_vae(str(tmp_path / "run"))
    expected = tiny_autoencoder().state_dict()
    torch.testing.assert_close(loaded.state_dict(), expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["/no/such/folder", "someone/some-vae", "nothing"])
def test_one_that_cannot_be_loaded_is_named(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"cannot load the VAE '{name}': it must be 'bundled', a "
    ):
        load_vae(name)


@pytest.mark.parametrize(("levels", "factor"), [(1, 1), (2, 2), (4, 8)])
def test_every_level_but_the_first_halves_the_size(levels: int, factor: int) -> None:
    vae = tiny_autoencoder(
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )
    assert downscale_factor(vae) == factor
    with torch.no_grad():
        assert vae.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mean.shape[2] == 16 // factor


@pytest.mark.parametrize("shift", [None, 0.25])
def test_scaled_latents_are_decoded_in_the_units_of_the_vae(shift: float | None) -> None:
    vae = tiny_autoencoder(shift_factor=shift)
    latents = torch.randn(2, 4, 8, 8)
    scaled = scale_latents(vae, latents)
    torch.testing.assert_close(scaled, (latents - (shift or 0)) * 0.8)
    with torch.no_grad():
        torch.testing.assert_close(
            decode_latents(vae, scaled), vae.decode(latents).sample, atol=1e-5, rtol=1e-5
        )


def test_whitened_latents_have_a_deviation_of_one_in_every_channel() -> None:
    latents = torch.randn(50, 4, 8, 8) * torch.tensor([2.0, 1.0, 0.1, 0.5])[:, None, None]
    latents[:, 0] += 3
    std, mean = torch.std_mean(latents, dim=(0, 2, 3))
    statistics = {"latents_mean": mean.tolist(), "latents_std": std.tolist()}
    vae = tiny_autoencoder(scaling_factor=1.0, **statistics)
    scaled = scale_latents(vae, latents)
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3)), torch.ones(4))
    with torch.no_grad():
        torch.testing.assert_close(
            decode_latents(vae, scaled[:2]), vae.decode(latents[:2]).sample, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latents_mean": [0.0] * 4}, "latents_std .* each of the 4 latent channels, got none"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 3}, "latents_std .* got 3"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0, 0, 1, 1]}, "must be above 0, got 0"),
        (
            {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1},
            "either shift_factor or latents_mean",
        ),
    ],
)
def test_statistics_that_cannot_be_are_refused(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tiny_autoencoder(**config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_vae(str(tmp_path))


def test_half_precision_decodes() -> None:
    vae = tiny_autoencoder().to(torch.bfloat16)
    assert isinstance(vae, AutoencoderKL)
    with torch.no_grad():
        assert decode_latents(vae, torch.randn(1, 4, 8, 8)).dtype == torch.bfloat16
