"""CLEVR without masks, and FFHQ, from small folders in their layouts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.data import DataError, load_dataset
from latentslots.data.importers.clevr import FEATURES, import_clevr
from latentslots.data.importers.ffhq import import_ffhq


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def thing(k: int) -> dict[str, Any]:
    return {
        "shape": ("cube", "cylinder", "sphere")[k % 3],
        "size": "large",
        "material": "rubber",
        "color": ("cyan", "gray")[k % 2],
        "rotation": 10.0 * k,
        "3d_coords": [1.0, 2.0, float(k)],
        "pixel_coords": [5.0, 6.0, 7.0],
    }


def clevr(folder: Path) -> Path:
    (folder / "scenes").mkdir(parents=True)
    for name, count in (("train", 3), ("val", 2), ("test", 1)):
        (folder / "images" / name).mkdir(parents=True)
        scenes = []
        for number in range(count):
            file = f"CLEVR_{name}_{number:06d}.png"
            Image.fromarray(pixels(number)).save(folder / "images" / name / file)
            objects = [thing(k) for k in range(number + 1)]
            scenes.append({"image_filename": file, "objects": objects})
        if name != "test":
            path = folder / "scenes" / f"CLEVR_{name}_scenes.json"
            path.write_text(json.dumps({"info": {}, "scenes": scenes[::-1]}))
    return folder


def test_images_and_attributes_are_imported(tmp_path: Path) -> None:
    source = clevr(tmp_path / "CLEVR_v1.0")
    out = import_clevr(source, tmp_path / "out", splits=["train", "validation", "test"], workers=1)
    rows = load_dataset(out, split="train")
    assert "segmentation" not in rows.column_names
    for number, row in enumerate(rows):
        assert (np.asarray(row["image"]) == pixels(number)).all()
        objects = [thing(k) for k in range(number + 1)]
        for name, feature in FEATURES.items():
            found = row["attributes"][name]
            if hasattr(feature, "names"):
                found = [feature.names[label] for label in found]
            assert found == [one[name] for one in objects]
    assert load_dataset(out, split="test").column_names == ["image"]
    assert len(load_dataset(out, split="validation")) == 2
    small = ["data", "import", "clevr", str(source), str(tmp_path / "8"), "--resolution", "8"]
    assert main([*small, "--workers", "1"]) == 0
    assert load_dataset(tmp_path / "8", split="train")[0]["image"].size == (8, 8)


def test_incomplete_clevr(tmp_path: Path) -> None:
    def fails(message: str, **options: Any) -> None:
        with pytest.raises(DataError, match=message):
            import_clevr(source, tmp_path / "never", workers=1, **options)
        assert not (tmp_path / "never").exists()

    source = clevr(tmp_path / "a")
    fails("CLEVR has no split 'val', only train, validation, test", splits=["val"])
    (source / "images/train/CLEVR_train_000001.png").unlink()
    fails(r"CLEVR_train_000001\.png is not in .*images/train")
    file = source / "scenes" / "CLEVR_train_scenes.json"
    file.write_text('{"scenes": []}')
    fails(r"CLEVR_train_000000\.png is not in .*_scenes\.json, nor are 1 others")
    file.write_text('{"scenes": [{"objects": []}]}')
    fails("is not a file of CLEVR's scenes: KeyError")
    file.unlink()
    fails(r"there is no file .*CLEVR_train_scenes\.json")
    source = tmp_path
    fails("holds no images such as CLEVR_train_000000.png")


@pytest.mark.parametrize("nested", [False, True])
def test_faces_are_split_by_their_numbers(nested: bool, tmp_path: Path) -> None:
    for number in range(5):
        folder = tmp_path / "faces" / (f"{number // 2:05d}" if nested else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(folder / f"{number:05d}.png")
    (tmp_path / "faces" / "LICENSE.txt").write_text("CC")
    command = ["data", "import", "ffhq", str(tmp_path / "faces"), str(tmp_path / "out")]
    assert main([*command, "--num-train", "3", "--workers", "1"]) == 0
    for split, first in (("train", 0), ("validation", 3)):
        for number, row in enumerate(load_dataset(tmp_path / "out", split=split), start=first):
            assert (np.asarray(row["image"]) == pixels(number)).all()
    assert len(load_dataset(tmp_path / "out", split="validation")) == 2
    cut = import_ffhq(tmp_path / "faces", tmp_path / "8", resolution=8, workers=1)
    assert load_dataset(cut)[0]["image"].size == (8, 8)


def test_folders_that_are_not_ffhq(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder /nowhere"):
        import_ffhq("/nowhere", tmp_path / "never")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"holds no images named by numbers"):
        import_ffhq(tmp_path / "a", tmp_path / "never")
    for folder in ("x", "y"):
        (tmp_path / "a" / folder).mkdir()
        Image.fromarray(pixels(0)).save(tmp_path / "a" / folder / "00007.png")
    with pytest.raises(DataError, match="holds number 7 twice"):
        import_ffhq(tmp_path / "a", tmp_path / "never")
    assert not (tmp_path / "never").exists()
