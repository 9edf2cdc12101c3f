"""A small model with frames, pictures, and a session of both."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.concepts import ConceptLibrary
from latentslots.data.store.reader import load_dataset
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.workflows.session import Session
from tests import tiny


def encoded(pixels: np.ndarray, size: tuple[int, int] | None = None, kind: str = "PNG") -> bytes:
    """Encode an array as an image file."""
    image = Image.fromarray(pixels)
    image = image if size is None else image.resize(size)
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def framed_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of a model whose slots have frames."""
    folder = tmp_path_factory.mktemp("framed") / "pipeline"
    tiny.tiny_lsd(patch_decoder_weight=1.0, frames=True).save_pipeline(folder)
    return folder


@pytest.fixture(scope="session")
def framed(framed_dir: Path) -> LatentSlotDiffusionPipeline:
    pipe = LatentSlotDiffusionPipeline.from_pretrained(framed_dir)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def library_dir(
    framed: LatentSlotDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A concept library of bundled scenes."""
    folder = tmp_path_factory.mktemp("library") / "concepts"
    dataset = load_dataset("bundled", split="validation").select(range(8))
    ConceptLibrary.fit(framed, dataset, 3, progress=False, min_area=0.0).save(folder)
    return folder


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Four pictures: two of the model's size, a wide and a tall one."""
    images, _ = tiny.squares(4, seed=5)
    sizes = [None, None, (97, 64), (40, 75)]
    return [encoded(image, size) for image, size in zip(images, sizes, strict=True)]


@pytest.fixture
def session(
    framed: LatentSlotDiffusionPipeline, library_dir: Path, tmp_path: Path
) -> Iterator[Session]:
    one = Session(framed, tmp_path / "session", library=library_dir)
    yield one
    one.close()
