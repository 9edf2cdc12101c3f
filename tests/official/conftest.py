import shutil
from pathlib import Path

import pytest
from diffusers import AutoencoderKL

from tests.official.tools import GOLDEN
from tests.tiny import tiny_autoencoder_of_8


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the smaller golden checkpoint, to edit."""
    return shutil.copytree(GOLDEN / "lsd_a" / "checkpoint-7", tmp_path / "checkpoint-7")


@pytest.fixture(scope="session")
def vae_of_8() -> AutoencoderKL:
    return tiny_autoencoder_of_8()
