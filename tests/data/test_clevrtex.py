"""CLEVRTex from a small folder in its layout: palette ids, labels, splits, crops."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.data import DataError, load_dataset
from latentslots.data.importers.clevrtex import CROPS, ClevrTexOptions, import_clevrtex

FULL = ClevrTexOptions(variant="full")
SHAPES, MATERIALS = ("cube", "sphere", "cylinder", "monkey"), ("poliigonbricks01", "whitemarble")


def scene(number: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Image, ids and JSON of a scene; its objects are listed in another order than their ids."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 256, (240, 320, 3)).astype(np.uint8)
    ids = np.zeros((240, 320), np.uint8)
    objects = []
    for k in range(3 + number % 2):
        ids[60 + 30 * k : 80 + 30 * k, 100 + 5 * number % 50 : 160] = k + 1
        objects.append(
            {
                "shape": SHAPES[(k + number) % 4],
                "size": ("large", "medium", "small")[k % 3],
                "rotation": float(random.uniform(0, 360)),
                "3d_coords": random.normal(size=3).tolist(),
                "pixel_coords": [130.0, 70.0 + 30 * k, 9.0],
                "index": k + 1,
                "color": "none",
                "material": MATERIALS[k % 2],
            }
        )
    content = {
        "num_objects": len(objects),
        "image_index": number,
        "ground_material": "whitemarble",
        "objects": objects[::-1],
    }
    return pixels, ids, content


def write_scene(folder: Path, number: int, variant: str = "full") -> Path:
    place = folder / str(number // 5)
    place.mkdir(parents=True, exist_ok=True)
    pixels, ids, content = scene(number)
    stem = f"CLEVRTEX_{variant}_{number:06d}"
    Image.fromarray(pixels).save(place / f"{stem}.png")
    mask = Image.fromarray(ids).convert("P")
    mask.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    restored = Image.frombytes("P", mask.size, ids.tobytes())
    restored.putpalette(mask.getpalette())
    restored.save(place / f"{stem}_flat.png")
    Image.fromarray(pixels).save(place / f"{stem}_albedo_0001.png")  # not imported
    (place / f"{stem}.json").write_text(json.dumps(content))
    return place / f"{stem}.json"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clevrtex") / "clevrtex_full"
    for number in range(20):
        write_scene(folder, number)
    return folder


def test_images_ids_and_labels_are_imported(source: Path, tmp_path: Path) -> None:
    out = import_clevrtex(source, tmp_path / "out", FULL, workers=1)
    rows = {split: load_dataset(out, split=split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in rows.items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    names = json.loads((out / "dataset_info.json").read_text())["class_names"]
    assert names["material"] == sorted(MATERIALS)
    assert names["shape"] == sorted(SHAPES)
    for first, part in ((0, rows["test"]), (2, rows["validation"]), (4, rows["train"])):
        for number, row in enumerate(part, start=first):
            pixels, ids, content = scene(number)
            assert (np.asarray(row["image"]) == pixels).all()
            assert (np.asarray(row["segmentation"]) == ids).all()
            things = sorted(content["objects"], key=lambda thing: thing["index"])
            attributes = row["attributes"]
            for name in ("shape", "material", "size"):
                found = [names[name][label] for label in attributes[name]]
                assert found == [thing[name] for thing in things]
            for name in ("rotation", "3d_coords", "pixel_coords"):
                expected = [thing[name] for thing in things]
                np.testing.assert_allclose(attributes[name], expected, rtol=1e-5)
            assert row["ground_material"] == "whitemarble"
    encoded = rows["test"].data.column("image").to_pylist()[0]["bytes"]
    assert encoded == (source / "0" / "CLEVRTEX_full_000000.png").read_bytes()


@pytest.mark.parametrize("crop", CROPS)
def test_crops_and_sizes(crop: Any, source: Path, tmp_path: Path) -> None:
    options = ClevrTexOptions(variant="full", crop=crop)
    row = load_dataset(import_clevrtex(source, tmp_path / "a", options, workers=1), split="test")[0]
    left, upper, right, lower = CROPS[crop]
    assert row["image"].size == (192, 192)
    assert (np.asarray(row["image"]) == scene(0)[0][upper:lower, left:right]).all()
    assert (np.asarray(row["segmentation"]) == scene(0)[1][upper:lower, left:right]).all()
    small = ClevrTexOptions(variant="full", crop=crop, resolution=128)
    row = load_dataset(import_clevrtex(source, tmp_path / "b", small, workers=1), split="test")[0]
    assert row["segmentation"].size == (128, 128)


def test_out_of_distribution_scenes_are_the_test_split(tmp_path: Path) -> None:
    for number in range(3):
        write_scene(tmp_path / "outd", number, "outd")
    out = import_clevrtex(
        tmp_path / "outd", tmp_path / "out", ClevrTexOptions(variant="outd"), workers=1
    )
    assert len(load_dataset(out, split="test")) == 3
    assert [entry.name for entry in out.iterdir() if entry.is_dir()] == ["test"]


def test_the_command(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["data", "import", "clevrtex-full", str(source), str(out), "--resolution", "64"]
    assert main([*command, "--workers", "1"]) == 0
    assert load_dataset(out, split="test")[0]["image"].size == (64, 64)


def test_bad_input(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(folder: Path, message: str, options: ClevrTexOptions = FULL) -> None:
        with pytest.raises(DataError, match=message):
            import_clevrtex(folder, tmp_path / "never", options, workers=1)
        assert not list((tmp_path / "never").glob("t*"))

    fails(Path("/nowhere"), "there is no folder /nowhere")
    camo = ClevrTexOptions(variant="camo")
    fails(source, "holds no scenes of clevrtex-camo, such as CLEVRTEX_camo_000000", camo)
    with pytest.raises(DataError, match=r"variant must be one of full, .*, got 'red'"):
        ClevrTexOptions(variant="red")
    lone = write_scene(tmp_path / "lone", 0)
    lone.with_name("CLEVRTEX_full_000000_flat.png").unlink()
    fails(tmp_path / "lone", "has no CLEVRTEX_full_000000_flat.png beside it")
    lone = write_scene(tmp_path / "orphan", 0)
    write_scene(tmp_path / "orphan", 1).unlink()
    fails(tmp_path / "orphan", r"000001(_flat)?.png has no CLEVRTEX_full_000001.json beside it")
    for number in (0, 2):
        write_scene(tmp_path / "gap", number)
    fails(tmp_path / "gap", "lacks scene 000001 of 2 and more")
    gray = write_scene(tmp_path / "gray", 0).with_name("CLEVRTEX_full_000000_flat.png")
    Image.open(gray).convert("RGB").save(gray)
    fails(tmp_path / "gray", "must be a palette PNG, got mode RGB: a conversion has lost its ids")
    odd = write_scene(tmp_path / "odd", 0)
    content = json.loads(odd.read_text())
    content["objects"].pop()
    odd.write_text(json.dumps(content))
    fails(tmp_path / "odd", "has the id 1, which CLEVRTEX_full_000000.json does not list")
    odd.write_text("{")
    fails(tmp_path / "odd", "000000.json is not a scene of CLEVRTex")
    twice = tmp_path / "twice"
    write_scene(twice / "a", 0)
    write_scene(twice / "b", 0)
    fails(twice, "holds scene 000000 twice")
    cut = write_scene(tmp_path / "cut", 0).with_suffix(".png")
    cut.write_bytes(cut.read_bytes()[:500])
    fails(tmp_path / "cut", r"CLEVRTEX_full_000000\.png cannot be decoded")
    tall = write_scene(tmp_path / "tall", 0)
    for file in (tall.with_suffix(".png"), tall.with_name("CLEVRTEX_full_000000_flat.png")):
        Image.open(file).crop((0, 0, 200, 200)).save(file)
    fails(
        tmp_path / "tall", "is 200x200, not 320x240", ClevrTexOptions(variant="full", crop="clevr")
    )


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_crop() -> None:
    with pytest.raises(DataError, match="crop must be one of center, clevr, got 'left'"):
        ClevrTexOptions(variant="full", crop="left")  # type: ignore[arg-type]  # on purpose
