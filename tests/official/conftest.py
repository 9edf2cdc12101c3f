import shutil
from pathlib import Path

import pytest
from diffusers import AutoencoderKL

from tests.official.tools import GOLDEN
from tests.tiny import tiny_autoencoder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the smaller golden checkpoint, to edit."""
    return shutil.copytree(GOLDEN / "lsd_a" / "checkpoint-7", tmp_path / "checkpoint-7")


@pytest.fixture(scope="session")
def vae_of_8() -> AutoencoderKL:
    """A tiny VAE of 8 pixels per latent, as the golden checkpoints were trained with."""
    return tiny_autoencoder(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
