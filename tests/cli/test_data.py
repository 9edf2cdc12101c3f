import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.build.data import build_split
from latentslots.cli.main import main
from latentslots.config import DataConfig
from latentslots.data.loading.cache import LatentCache
from latentslots.data.store.reader import dataset_fingerprint, load_dataset
from latentslots.data.transforms import to_ids
from latentslots.fingerprint import model_fingerprint
from latentslots.models.autoencoder import load_vae


def arrays(path: Path, *, masks: bool = True) -> Path:
    draws = np.random.default_rng(0)
    image = draws.integers(0, 255, (6, 20, 20, 3), dtype=np.uint8)
    mask = {"mask": draws.integers(0, 3, (6, 20, 20), dtype=np.uint8)} if masks else {}
    np.savez(path, image=image, **mask)
    return path


def test_arrays_become_a_data_set_that_info_describes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = arrays(tmp_path / "some.npz"), str(tmp_path / "out")
    assert main(["data", "import", "arrays", str(source), out, "--license", "CC0"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    truth = np.load(source)
    rows = load_dataset(out)
    assert np.array_equal(np.asarray(rows[3]["image"]), truth["image"][3])
    assert np.array_equal(to_ids(rows[3]["segmentation"]), truth["mask"][3])

    sheet = tmp_path / "sheet.png"
    assert main(["data", "info", out, "--contact-sheet", str(sheet), "--num", "4"]) == 0
    printed = capsys.readouterr().out
    assert "CC0" in printed
    assert "20x20" in printed
    with Image.open(sheet) as picture:
        assert picture.width > picture.height
    assert main(["data", "info", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["num_images"] == 6


def test_a_folder_is_split_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(10):
        Image.new("RGB", (12, 12), (number, 0, 0)).save(photos / f"{number}.png")
    out = str(tmp_path / "out")
    flags = ["--validation-fraction", "0.3", "--resolution", "8"]
    assert main(["data", "import", "folder", str(photos), out, *flags]) == 0
    assert len(load_dataset(out, split="train")) == 7
    assert load_dataset(out, split="validation")[0]["image"].size == (8, 8)


def test_latents_lie_beside_the_shards(
    scenes_store: Path, tiny_vae_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--vae", str(tiny_vae_dir), "--resolution", "32", "--split", "validation"]
    assert main(["data", "cache-latents", str(scenes_store), *flags]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder.parent == scenes_store / "latents"
    assert np.load(folder / "plain" / "mean.npy", mmap_mode="r").shape == (16, 4, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "clevr9", "a", "b"], "data import takes one of arrays, folder, movi-a"),
        (["import", "arrays", "{tmp}/none.npz", "{tmp}/out"], "none.npz"),
        (["import", "folder", "{tmp}/none", "{tmp}/out"], "there is no folder"),
        (["info", "{tmp}/none"], "none"),
        (["cache-latents", "{tmp}"], "name an --output-dir"),
        (["cache-latents", "{store}", "--vae", "{tmp}"], "cannot load the VAE"),
        (["cache-latents", "{store}", "--split", "tset"], "no split 'tset'"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    scenes_store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [a.format(tmp=tmp_path, store=scenes_store) for a in arguments]
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_action_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 2
    assert "import arrays" in capsys.readouterr().err


def test_a_folder_s_latents_are_those_that_training_wants(
    tmp_path: Path, tiny_vae_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(10):
        Image.new("RGB", (12, 12), (number, 0, 0)).save(photos / f"{number}.png")
    words = ["--vae", str(tiny_vae_dir), "--resolution", "16", "--output-dir", str(tmp_path / "l")]
    assert main(["data", "cache-latents", str(photos), *words]) == 0
    data = DataConfig(path=str(photos), resolution=16)
    LatentCache.open(
        capsys.readouterr().out.strip(),
        fingerprint=model_fingerprint(load_vae(str(tiny_vae_dir))),
        resolution=16,
        dataset_fingerprint=dataset_fingerprint(build_split(data, "train")),
    )


def test_an_address_whose_package_is_missing_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("fsspec.url_to_fs", missing)
    assert main(["data", "info", "gs://bucket/data"]) == 2
    assert "gs://bucket/data cannot be reached: Please install gcsfs" in capsys.readouterr().err
