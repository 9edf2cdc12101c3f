"""Faults during caching, segmenting, editing, scoring, and fitting concepts."""

import errno
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentslots.concepts import ConceptLibrary
from latentslots.config.sampling import Sampling
from latentslots.data import cache_latents, load_dataset
from latentslots.data.store import reader
from latentslots.evaluation import evaluate
from latentslots.evaluation.report.evaluation_report import read_image_scores, read_report
from latentslots.fingerprint import file_sha256
from latentslots.models.autoencoder import load_vae
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.workflows.edit import edit_files
from latentslots.workflows.edit_arguments import EditArguments
from latentslots.workflows.segment import segment_files
from tests import tiny
from tests.faults import sweep
from tests.test_faults import content, fresh

STRIDES = pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.slow), 19], ids=["all", "some"]
)
Sweep = Callable[..., int]


@pytest.fixture(params=[(False, errno.EIO), (True, errno.ENOSPC)], ids=["once", "full disk"])
def swept(request: pytest.FixtureRequest, stride: int) -> Sweep:
    lasting, code = request.param
    return partial(sweep, lasting=lasting, code=code, stride=stride)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    (tmp_path / "photos").mkdir()
    paths = [tmp_path / "photos" / f"{number}.png" for number in range(2)]
    for path, image in zip(paths, tiny.squares(2)[0], strict=True):
        Image.fromarray(image).save(path)
    return paths


@STRIDES
def test_latents_are_cached_in_the_end(
    tmp_path: Path, tiny_vae_dir: Path, swept: Sweep, stride: int
) -> None:
    reader._cache_dir.cache_clear()
    store = tiny.write_squares(tmp_path / "store", num_train=4, num_validation=1)
    dataset = load_dataset(store, split="train")
    vae = load_vae(str(tiny_vae_dir))
    cache = partial(cache_latents, dataset, vae, resolution=32, num_workers=0, progress=False)
    cache(tmp_path / "expected")
    expected = {k: v for k, v in content(tmp_path / "expected").items() if "lock" not in k}
    root = tmp_path / "latents"

    def check(completed: bool) -> None:
        assert len(cache(root)) == 4
        assert {k: v for k, v in content(root).items() if "lock" not in k} == expected

    prepare = partial(shutil.rmtree, root, ignore_errors=True)
    assert swept(root, lambda: cache(root), check, prepare=prepare) >= 2


@STRIDES
def test_segments_and_edits(
    tmp_path: Path,
    tiny_pipeline: LatentSlotDiffusionPipeline,
    photos: list[Path],
    swept: Sweep,
    stride: int,
) -> None:
    """Every image has all of its results, or those that it had before; a second run completes."""
    root = tmp_path / "out"
    arguments, sampling = EditArguments(remove=["1"]), Sampling(num_inference_steps=1)
    results: dict[str, Callable[[Path], Any]] = {
        "segments.json": lambda out: segment_files(tiny_pipeline, photos, out, progress=False),
        "edited.json": lambda out: edit_files(
            tiny_pipeline, photos, out, arguments, sampling, progress=False
        ),
    }
    for facts, write in results.items():
        write(tmp_path / facts)
        expected = content(tmp_path / facts)

        def check(completed: bool, facts: str = facts, expected: Any = expected) -> None:
            for folder in root.iterdir():
                if not folder.name.startswith("."):
                    whole = {k: v for k, v in expected.items() if k.startswith(f"{folder.name}/")}
                    assert content(root).items() >= whole.items(), "all or nothing"
            results[facts](root)
            assert content(root) == expected

        def prepare() -> None:
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()

        assert swept(root, partial(write, root), check, prepare=prepare) >= 2


@STRIDES
def test_a_concept_library(
    tmp_path: Path, tiny_pipeline: LatentSlotDiffusionPipeline, swept: Sweep, stride: int
) -> None:
    reader._cache_dir.cache_clear()
    store = tiny.write_squares(tmp_path / "store", num_train=6, num_validation=1)
    dataset = load_dataset(store, split="train")
    libraries = {
        number: ConceptLibrary.fit(tiny_pipeline, dataset, num_concepts=number, progress=False)
        for number in (2, 3)
    }
    root = tmp_path / "root"

    def check(completed: bool) -> None:
        found = ConceptLibrary.load(root / "concepts").num_concepts
        assert found == 3 if completed else found in (2, 3)

    runs = swept(
        root,
        lambda: libraries[3].save(root / "concepts"),
        check,
        prepare=fresh(root, lambda folder: libraries[2].save(folder / "concepts")),
    )
    assert runs >= 2


@STRIDES
def test_a_report(
    tmp_path: Path,
    tiny_pipeline_dir: Path,
    swept: Sweep,
    stride: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from latentslots.cli.main import main

    reader._cache_dir.cache_clear()
    store = tiny.write_squares(tmp_path / "store", num_train=1, num_validation=3)
    root = tmp_path / "root"

    def write(folder: Path, seed: int) -> None:
        words = ["evaluate", str(tiny_pipeline_dir), "--data", str(store), "--seed", str(seed)]
        if main([*words, "--output-dir", str(folder / "report"), "--num-images", "3"]):
            raise OSError("as the command says")

    def check(completed: bool) -> None:
        report = read_report(root / "report")
        assert report["conditions"]["seed"] == 1 if completed else True
        assert (root / "report" / "index.html").is_file()
        assert len(json.dumps(report)) > 100
        path = root / "report" / "images.parquet"
        if report["images_sha256"] == file_sha256(path):
            assert len(read_image_scores(path, "iou", report=report)) == 3
        else:  # a renaming failed after others had succeeded
            assert not completed
            with pytest.raises(ValueError, match="does not belong to the report beside it"):
                read_image_scores(path, "iou", report=report)

    prepare = fresh(root, lambda folder: write(folder, 0))
    assert swept(root, lambda: write(root, 1), check, prepare=prepare) >= 2


def test_scores_do_not_depend_on_what_failed_before(
    tiny_pipeline: LatentSlotDiffusionPipeline, tmp_path: Path
) -> None:
    reader._cache_dir.cache_clear()
    store = tiny.write_squares(tmp_path / "store", num_train=1, num_validation=3)
    images = load_dataset(store, split="validation")
    one, two = (evaluate(tiny_pipeline, images, progress=False) for _ in range(2))
    assert np.isclose(one.fg_ari, two.fg_ari)
