"""Fixtures of all tests: the same random state, and tiny models.

Session fixtures are shared: a test that changes weights takes `tiny_objective`, or builds its own
with `tests.tiny`.
"""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from diffusers import AutoencoderKL
from examples.tiny_pretrained import write_stable_diffusion

from latentslots.models import SlotEncoder, SlotUNet, UNetEncoder
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.pipelines import LatentSlotDiffusionPipeline
from tests import tiny

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What imports made lives to the end: the garbage collector need not look at it every time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Every test starts from the same random state, whichever tests ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """For messages about what annotations forbid: users run without shape and type checks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def tiny_unet_encoder() -> UNetEncoder:
    return tiny.tiny_encoder()


@pytest.fixture(scope="session")
def tiny_slot_encoder() -> SlotEncoder:
    return tiny.tiny_slot_encoder()


@pytest.fixture(scope="session")
def tiny_slot_unet() -> SlotUNet:
    return tiny.tiny_unet()


@pytest.fixture(scope="session")
def tiny_vae() -> AutoencoderKL:
    return tiny.tiny_autoencoder()


@pytest.fixture(scope="session")
def tiny_vae_dir(tmp_path_factory: pytest.TempPathFactory, tiny_vae: AutoencoderKL) -> Path:
    """The tiny VAE as a folder, for `vae=...` in a config."""
    folder = tmp_path_factory.mktemp("tiny") / "vae"
    tiny_vae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature DINOv2 as transformers saves it, for `encoder.name` in a config."""
    folder = tmp_path_factory.mktemp("tiny") / "vit"
    tiny.tiny_vit_encoder().model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_diffusion_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature Stable Diffusion as diffusers saves it, for `unet.name` in a config."""
    return write_stable_diffusion(tmp_path_factory.mktemp("tiny") / "stable-diffusion")


@pytest.fixture(scope="session")
def tiny_objective() -> Callable[..., LatentSlotDiffusionObjective]:
    """Call it for a fresh objective at 32 px: `tiny_objective(seed=0, **options)`."""
    return tiny.tiny_lsd


@pytest.fixture(scope="session")
def tiny_pipeline() -> LatentSlotDiffusionPipeline:
    """With a VAE; its progress bar is off."""
    pipe = tiny.tiny_lsd().to_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def tiny_pipeline_dir(
    tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: LatentSlotDiffusionPipeline
) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def scenes_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training and 16 validation images of colored squares on gray, with exact masks."""
    folder = tmp_path_factory.mktemp("squares") / "store"
    return tiny.write_squares(folder, num_train=48, num_validation=16)
