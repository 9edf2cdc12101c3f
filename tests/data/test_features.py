"""Cached features: equal to the backbone's, refused for another backbone, used in training."""

import dataclasses
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from latentslots.build.data import build_training_set
from latentslots.build.methods import build_objective
from latentslots.data import DataError, ImageDataset, build_loader, dataset_fingerprint
from latentslots.data.loading.cache import FeatureCache
from latentslots.data.loading.cache_writer import cache_features, cache_latents
from latentslots.fingerprint import model_fingerprint
from latentslots.recipes import recipe
from tests.test_recipes import shrink
from tests.tiny import tiny_vit_encoder

from .conftest import tiny_vae


@pytest.fixture(scope="module")
def cache(nlvr: Dataset, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    folder = tmp_path_factory.mktemp("cache") / "features"
    return cache_features(nlvr, tiny_vit_encoder(), folder, resolution=16, batch_size=5, flip=True)


@pytest.mark.parametrize("flip", [False, True])
def test_it_holds_the_features_of_the_backbone(
    nlvr: Dataset, cache: FeatureCache, flip: bool
) -> None:
    images = ImageDataset(nlvr, 16, features=cache)
    for row in (0, 7):
        sample = images[row, flip]
        expected = tiny_vit_encoder()(sample["pixel_values"][None])[0]
        assert sample["features"].dtype == torch.float32
        torch.testing.assert_close(sample["features"], expected, atol=2e-3, rtol=1e-3)
    batch = next(iter(build_loader(images, batch_size=4, random_flip=True)))
    assert batch["features"].shape == (4, 8, 4, 4)


def test_a_cache_with_another_key_is_refused(
    nlvr: Dataset, cache: FeatureCache, tmp_path: Path
) -> None:
    needed = {"resolution": 16, "dataset_fingerprint": dataset_fingerprint(nlvr)}
    other = model_fingerprint(tiny_vit_encoder(seed=1))
    with pytest.raises(DataError, match="was made with another image backbone"):
        FeatureCache.open(cache.path, fingerprint=other, **needed)
    larger = model_fingerprint(tiny_vit_encoder(image_size=64))
    with pytest.raises(DataError, match="was made with another image backbone"):
        FeatureCache.open(cache.path, fingerprint=larger, **needed)
    latents = cache_latents(nlvr, tiny_vae(seed=0), tmp_path / "latents", resolution=16)
    own = model_fingerprint(tiny_vit_encoder())
    with pytest.raises(DataError, match="holds latents, not features"):
        FeatureCache.open(latents.path, fingerprint=own, **needed)
    with pytest.raises(DataError, match="there is no cache of features at"):
        FeatureCache.open(tmp_path, fingerprint=own, **needed)
    with pytest.raises(DataError, match="cache of features has 12 rows, but the data set has 5"):
        ImageDataset(nlvr.select(range(5)), 16, features=cache)


@pytest.mark.parametrize("name", ["stable-lsd-voc", "dinosaur-coco"])
def test_training_reads_cached_features(
    name: str,
    scenes_store: Path,
    tiny_vit_dir: Path,
    tiny_diffusion_dir: Path,
    tmp_path: Path,
) -> None:
    config = shrink(
        recipe(name),
        data=scenes_store,
        vae=Path("nowhere"),
        vit=tiny_vit_dir,
        diffusion=tiny_diffusion_dir,
    )
    kept = dataclasses.replace(
        config.data, cache_features=True, features=str(tmp_path / "kept"), random_flip=False
    )
    config = dataclasses.replace(config, data=kept)
    objective = build_objective(config).eval()
    images = build_training_set(config, objective, run_dir=tmp_path, progress=False)
    assert images.features is not None
    assert images.features.path == tmp_path / "kept"
    batch = next(iter(build_loader(images, batch_size=2)))
    live = {k: v for k, v in batch.items() if k != "features"}
    losses = []
    for given in (batch, live):
        torch.manual_seed(0)
        losses.append(objective(given)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)
    objective.encoder.forward = None  # fails if it is called
    objective(batch)


def test_a_trained_backbone_has_no_cache(
    scenes_store: Path, tiny_vae_dir: Path, tmp_path: Path
) -> None:
    config = shrink(recipe("lsd-smoke"), data=scenes_store, vae=tiny_vae_dir)
    data = dataclasses.replace(config.data, cache_features=True)
    config = dataclasses.replace(config, data=data)
    objective = build_objective(config)
    with pytest.raises(ValueError, match="needs a frozen image backbone, and lsd has none"):
        build_training_set(config, objective, run_dir=tmp_path, progress=False)
