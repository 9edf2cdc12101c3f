"""Training data: latent caches, plain folders, splits, and images that cannot be read."""

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from latentslots.build.data import build_split, build_training_set, latents_dir
from latentslots.build.methods import build_objective
from latentslots.config import DataConfig, TrainConfig
from latentslots.data.errors import DataError
from latentslots.models.autoencoder import load_vae
from latentslots.recipes import recipe
from latentslots.training.run import RunError
from latentslots.training.validation import Validator
from tests.tiny import squares, tiny_autoencoder
from tests.training.runs import GivenDraws, build_trainer, losses, rows, run, with_changes

NUM_IMAGES = 8


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight PNGs in two folders, and a JPEG."""
    folder = tmp_path / "photos"
    for index, image in enumerate(squares(NUM_IMAGES)[0]):
        path = folder / ("ab"[index % 2]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    Image.fromarray(image).save(folder / "cover.jpg")
    return folder


@pytest.fixture
def folder_config(config: TrainConfig, photos: Path) -> TrainConfig:
    changes = {
        "data.path": str(photos),
        "data.glob": "**/*.png",
        "data.validation_fraction": 0.25,
        "data.validation_split": "validation",
    }
    return with_changes(config, changes)


def test_training_computes_its_latents_once(config: TrainConfig, tmp_path: Path) -> None:
    store = shutil.copytree(
        config.data.path, tmp_path / "store", ignore=shutil.ignore_patterns("latents")
    )
    config = with_changes(config, {"data.path": str(store)})
    run(config, tmp_path / "first")
    (cache,) = (store / "latents").iterdir()
    vae = load_vae(config.method.vae)
    assert cache == latents_dir(config.data, "train", vae)
    made = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    assert [path.parent.name for path in made] == ["plain", "plain"]
    run(with_changes(config, {"data.random_flip": True}), tmp_path / "second")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("plain/*.npy")} == made
    assert len(list(cache.rglob("flip/*.npy"))) == 2


def test_another_vae_or_resolution_has_another_cache(config: TrainConfig) -> None:
    vae = load_vae(config.method.vae)
    folders = {
        latents_dir(config.data, "train", vae),
        latents_dir(config.data, "validation", vae),
        latents_dir(with_changes(config, {"data.resolution": 64}).data, "train", vae),
        latents_dir(config.data, "train", tiny_autoencoder(seed=1)),
    }
    assert len(folders) == 4


@pytest.mark.parametrize("what", ["vae", "resolution", "dataset"])
def test_a_cache_of_other_data_is_refused(config: TrainConfig, tmp_path: Path, what: str) -> None:
    cache = tmp_path / "cache"
    config = with_changes(config, {"data.latents": str(cache), "max_train_steps": 1})
    run(config, tmp_path / "first")
    if what == "vae":
        tiny_autoencoder(seed=1).save_pretrained(tmp_path / "vae")
        changes, said = {"method.vae": str(tmp_path / "vae")}, "was made with another VAE"
    elif what == "resolution":
        changes, said = {"data.resolution": 16}, "was made at resolution 32, not 16"
    else:
        changes, said = {"data.train_split": "validation"}, "was made from other data"
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=said) as raised:
        run(with_changes(config, changes), tmp_path / "second")
    assert str(cache) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "second").exists()


def test_live_and_cached_latents_give_the_same_losses(config: TrainConfig, tmp_path: Path) -> None:
    """For the same noise, and up to the cache's half precision."""
    objective = build_objective(config)
    cached = build_training_set(config, objective, run_dir=tmp_path, progress=False)
    assert cached.latents is not None
    for name, latents in {"live": None, "cached": cached.latents}.items():
        dataset = GivenDraws(build_split(config.data, "train"), 32, latents=latents)
        trainer = build_trainer(config, tmp_path / name, dataset=dataset)
        assert ("latent_mean" in next(trainer.batches())) == (name == "cached")
        trainer.fit()
        trainer.run_log.close()
    assert losses(tmp_path / "live") == pytest.approx(losses(tmp_path / "cached"), rel=1e-3)
    assert losses(tmp_path / "live") != losses(tmp_path / "cached")


def test_training_on_a_folder_of_images(folder_config: TrainConfig, tmp_path: Path) -> None:
    """Two of the eight PNGs are held out; the latents lie in the run, the folder is untouched."""
    photos = Path(folder_config.data.path)
    before = sorted(photos.rglob("*"))
    run(folder_config, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 4
    assert "validation/loss" in rows(tmp_path / "run")[-1]
    assert len(build_split(folder_config.data, "train")) == 6
    assert len(build_split(folder_config.data, "validation")) == 2
    assert list((tmp_path / "run" / "latents").glob("train-32-*/plain/mean.npy"))
    assert sorted(photos.rglob("*")) == before


def test_a_folder_with_splits_is_not_split_again(photos: Path) -> None:
    """`train` and `validation` below it are its splits: no image is in both, none changes side."""
    (photos / "a").rename(photos / "train")
    (photos / "b").rename(photos / "validation")
    data = DataConfig(path=str(photos), resolution=32)
    for split in ("train", "validation"):
        names = [Path(row["path"]).parent.name for row in _paths(data, split)]
        assert names == [split] * 4
    anyway = DataConfig(path=str(photos), glob="**/*.png", validation_fraction=0.25)
    assert len(build_split(anyway, "train")) == 6


def _paths(data: DataConfig, split: str) -> list[dict[str, str]]:
    return build_split(data, split).cast_column("image", datasets.Image(decode=False))["image"]


@pytest.mark.parametrize(
    ("content", "said"),
    [({}, "is an empty folder"), ({"notes.txt": b"x"}, r"matches the glob '\*\*/\*\.png'")],
)
def test_a_folder_without_images_is_refused(
    folder_config: TrainConfig, tmp_path: Path, content: dict[str, bytes], said: str
) -> None:
    (tmp_path / "none").mkdir()
    for name, data in content.items():
        (tmp_path / "none" / name).write_bytes(data)
    config = with_changes(folder_config, {"data.path": str(tmp_path / "none")})
    with pytest.raises(DataError, match=said) as raised:
        run(config, tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_training_without_a_validation_split(config: TrainConfig, tmp_path: Path) -> None:
    config = with_changes(config, {"validation_steps": 1, "preview_steps": 1})
    said = run(config, tmp_path / "run")
    assert "no validation: " in said
    assert "has no split 'none', only 'train', 'validation'" in said
    assert all("loss" in row for row in rows(tmp_path / "run"))
    assert not (tmp_path / "run" / "previews").exists()


def damage(config: TrainConfig) -> Path:
    """Cut a training image short; returns it."""
    path = Path(_paths(config.data, "train")[1]["path"])
    path.write_bytes(path.read_bytes()[:100])
    return path


def test_options_that_do_not_apply_to_a_stream_are_refused(
    config: TrainConfig, tmp_path: Path
) -> None:
    streamed = with_changes(config, {"data.streaming": True})
    for path in ("data.glob", "data.latents"):
        with pytest.raises(
            ValueError, match=r"data.cache_features and data.glob do not apply to it"
        ):
            run(with_changes(streamed, {path: "x"}), tmp_path / path)
    autoencoder = with_changes(
        recipe("autoencoder-small"),
        {"data.path": config.data.path, "data.streaming": True, "data.validation_split": "none"},
    )
    with pytest.raises(RunError, match="autoencoder needs validation images to be measured on"):
        run(autoencoder, tmp_path / "autoencoder")


def test_an_image_that_cannot_be_read_stops_the_run(
    folder_config: TrainConfig, tmp_path: Path
) -> None:
    path = damage(folder_config)
    with pytest.raises(DataError, match=f"{path.name}.* cannot be decoded") as raised:
        run(folder_config, tmp_path / "run")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("cache_latents", [False, True])
def test_an_image_that_cannot_be_read_can_be_skipped_and_is_counted(
    folder_config: TrainConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    cache_latents: bool,
    num_workers: int,
) -> None:
    """Six images, three a batch: in four steps each comes up twice."""
    path = damage(folder_config)
    changes = {"data.on_bad_sample": "skip", "train_batch_size": 3, "max_train_steps": 4}
    config = with_changes(folder_config, {**changes, "data.num_workers": num_workers})
    run(with_changes(config, {"data.cache_latents": cache_latents}), tmp_path / "run")
    found = [row["num_skipped"] for row in rows(tmp_path / "run") if "loss" in row]
    assert found[1] == 1
    assert found[3] == 2
    if num_workers == 0 or cache_latents:
        assert f"{path.name}) cannot be decoded" in caplog.text


def test_the_count_of_skipped_images_survives_a_resume(
    folder_config: TrainConfig, tmp_path: Path
) -> None:
    damage(folder_config)
    changes = {"data.on_bad_sample": "skip", "train_batch_size": 3, "max_train_steps": 2}
    config = with_changes(folder_config, changes)
    run(config, tmp_path / "run")
    run(with_changes(config, {"max_train_steps": 4}), tmp_path / "run", resume=True)
    assert [row["num_skipped"] for row in rows(tmp_path / "run") if "loss" in row][-1] == 2


def test_an_interrupted_latent_cache_is_resumed(folder_config: TrainConfig, tmp_path: Path) -> None:
    """It ended at a broken image, before there was a run: the same command may be given again."""
    path = damage(folder_config)
    with pytest.raises(DataError):
        run(folder_config, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["latents"]
    Image.fromarray(squares(1)[0][0]).save(path)
    run(folder_config, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 4


def test_processes_wait_for_the_one_that_computes_the_latents(
    config: TrainConfig, tmp_path: Path, squares_store: Path
) -> None:
    """Another process opens the latents after the barrier, and makes none itself."""
    cache = tmp_path / "cache"
    config = with_changes(config, {"data.latents": str(cache)})
    objective = build_objective(config)
    made = []

    def wait() -> None:
        assert not cache.exists()
        build_training_set(config, objective, run_dir=tmp_path, progress=False)
        made.append(cache)

    rows = build_training_set(
        config, objective, run_dir=tmp_path, is_main_process=False, wait=wait, progress=False
    )
    assert made == [cache]
    assert rows.latents is not None


def test_a_validation_image_that_cannot_be_read_is_left_out(
    folder_config: TrainConfig, tmp_path: Path
) -> None:
    damage(folder_config)
    changes = {"data.on_bad_sample": "skip", "data.validation_fraction": 0.5}
    config = with_changes(folder_config, {**changes, "data.validation_split": "validation"})
    config = with_changes(config, {"train_batch_size": 2, "max_train_steps": 2, "seed": 0})
    run(config, tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run") if "validation/loss" in row] == [2]


def test_an_error_in_validation_loses_no_step(
    folder_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise DataError("the disk is gone")

    monkeypatch.setattr(Validator, "__call__", fail)
    with pytest.raises(DataError, match="the disk is gone"):
        run(with_changes(folder_config, {"max_train_steps": 2}), tmp_path / "run")
    assert (tmp_path / "run" / "state" / "step_0000002" / "state.json").is_file()
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()


def test_a_folder_of_latents_requires_cache_latents(config: TrainConfig, tmp_path: Path) -> None:
    changes = {"data.latents": str(tmp_path / "latents"), "data.cache_latents": False}
    with pytest.raises(ValueError, match=r"data\.latents is the folder of data\.cache_latents"):
        run(with_changes(config, changes), tmp_path / "run")


def test_a_glob_requires_a_plain_folder(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.glob is for plain folders of images, and"):
        run(with_changes(config, {"data.glob": "*.png"}), tmp_path / "run")
