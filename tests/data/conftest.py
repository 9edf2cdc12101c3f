import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from diffusers import AutoencoderKL
from PIL import Image

from latentslots.data.importers.arrays import import_arrays
from latentslots.data.store.reader import load_dataset
from tests.data.server import Server

ASSETS = Path(__file__).parents[1] / "assets"
NLVR = ASSETS / "nlvr" / "nlvr12.npz"
NUCLEI = ASSETS / "nuclei"


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("huggingface")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 12 NLVR images, with masks, as split `train`."""
    return import_arrays(NLVR, tmp_path_factory.mktemp("nlvr") / "store", license="CC-BY-4.0")


@pytest.fixture(scope="session")
def nlvr(store: Path) -> Dataset:
    return load_dataset(store)


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    with np.load(NLVR) as file:
        return dict(file)


@pytest.fixture(scope="session")
def vae() -> AutoencoderKL:
    return tiny_vae(seed=0)


def tiny_vae(seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=2,
        latent_channels=3,
    ).eval()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two videos of five JPEG frames, and a text file."""
    root = tmp_path / "photos"
    for video in ("a", "b"):
        (root / video).mkdir(parents=True)
        for frame in range(5):
            color = (40 * frame, 200 if video == "a" else 0, 100)
            Image.new("RGB", (12, 8), color).save(root / video / f"frame_{frame + 7}.jpg")
    (root / "notes.txt").write_text("not an image")
    return root


def truncate(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def noise_image(path: Path, size: int = 32, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included, with its content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
        running.server_close()


@contextmanager
def killed_at_second_block(module: Any) -> Iterator[None]:
    """An import whose second block is never made, as by Ctrl-C."""
    rows, made = module._rows, []

    def killed(work: Any) -> Any:
        made.append(work)
        if len(made) == 2:
            raise KeyboardInterrupt
        return rows(work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            yield
