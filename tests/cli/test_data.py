import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.build.data import build_split
from latentslots.cli.data import MAKE
from latentslots.cli.data_import import IMPORTS
from latentslots.cli.main import main
from latentslots.config import DataConfig
from latentslots.data.importers.clevrtex import VARIANTS as CLEVRTEX_VARIANTS
from latentslots.data.importers.movi_records import VARIANTS as MOVI_VARIANTS
from latentslots.data.importers.multi_object import LAYOUTS
from latentslots.data.loading.cache import LatentCache
from latentslots.data.scenes.layout import KINDS
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


def test_arrays_are_imported_and_summarized(
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
    with Image.open(sheet) as image:
        assert image.width > image.height
    assert main(["data", "info", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["num_images"] == 6


def test_a_folder_is_divided_into_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(10):
        Image.new("RGB", (12, 12), (number, 0, 0)).save(photos / f"{number}.png")
    out = str(tmp_path / "out")
    flags = ["--validation-fraction", "0.3", "--resolution", "8"]
    assert main(["data", "import", "folder", str(photos), out, *flags]) == 0
    assert len(load_dataset(out, split="train")) == 7
    assert load_dataset(out, split="validation")[0]["image"].size == (8, 8)


def test_latents_are_beside_the_shards(
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
        ([], "data takes one of make, import, merge, info, verify, cache-latents, got nothing"),
        (["export"], "cache-latents, got 'export'"),
        (["make"], "data make takes one of scenes, scenes-textured, parts, got nothing"),
        (["import", "clevr9", "a", "b"], "data import takes one of arrays, folder, movi-a"),
        (["import", "arrays", "{tmp}/none.npz", "{tmp}/out"], "none.npz"),
        (["import", "folder", "{tmp}/none", "{tmp}/out"], "there is no folder"),
        (["info", "{tmp}/none"], "none"),
        (["cache-latents", "{tmp}"], "is not a store to put latents into: name an --output-dir"),
        (["cache-latents", "{store}", "--vae", "{tmp}"], "cannot load the VAE"),
        (["cache-latents", "{store}", "--split", "tset"], "no split 'tset'"),
    ],
)
def test_errors_are_one_sentence(
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


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main(["data", *words, "--help"])
    assert exit_info.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    commands = help_of(capsys=capsys)
    for name in ("make", "import", "merge", "info", "verify", "cache-latents"):
        assert f"• {name} " in commands
    kinds = help_of("make", capsys=capsys)
    for name in MAKE:
        assert f"• {name} " in kinds
    data_sets = help_of("import", capsys=capsys)
    for name in IMPORTS:
        assert f"• {name} " in data_sets
    options = help_of("import", "coco", capsys=capsys)
    assert "data import coco" in options
    assert "--ignore-overlap" in options
    assert "--stuff" in help_of("import", "coco-panoptic", capsys=capsys)


def test_every_data_set_of_an_importer_has_a_command() -> None:
    assert set(KINDS) == set(MAKE)
    variants = {*LAYOUTS, *MOVI_VARIANTS, *(f"clevrtex-{name}" for name in CLEVRTEX_VARIANTS)}
    assert variants <= set(IMPORTS)
    for name, options in IMPORTS.items():
        assert options.kind in ("", name)


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import contextlib, sys; from latentslots.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(['data', 'import', '--help'])\n"
        "print(sorted({'torch', 'datasets', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "slotdiffusion-dump" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_latents_of_a_folder_have_the_key_that_training_needs(
    tmp_path: Path, tiny_vae_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(10):
        Image.new("RGB", (12, 12), (number, 0, 0)).save(photos / f"{number}.png")
    flags = ["--vae", str(tiny_vae_dir), "--resolution", "16", "--output-dir", str(tmp_path / "l")]
    assert main(["data", "cache-latents", str(photos), *flags]) == 0
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
