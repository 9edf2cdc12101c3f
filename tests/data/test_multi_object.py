"""CLEVR with masks and the other data sets, from small streams in their layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tfrecord import example_pb2

from latentslots.cli.main import main
from latentslots.data import DataError, load_dataset
from latentslots.data.importers import multi_object
from latentslots.data.importers.multi_object import (
    CLEVR_CROP,
    LAYOUTS,
    MultiObjectOptions,
    import_multi_object,
)
from latentslots.data.store.attributes import read_attributes
from tests.data.records import example, write_records

ENTITIES = {
    "clevr-with-masks": 11,
    "multi-dsprites-binarized": 4,
    "multi-dsprites-colored-on-grayscale": 6,
    "multi-dsprites-colored-on-colored": 5,
    "objects-room": 7,
    "tetrominoes": 4,
}


def scene(kind: str, number: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """A record, its image, and its ids: two or three objects, and entities that do not exist."""
    layout, count = LAYOUTS[kind], ENTITIES[kind]
    height, width = layout.size
    random = np.random.default_rng(number)
    pixels = random.integers(0, 256, (height, width, layout.channels)).astype(np.uint8)
    background, num_objects = layout.num_background, 2 + number % 2
    ids = np.zeros((height, width), np.int64)
    entity = np.zeros((height, width), np.int64)
    entity[:, width // 2 :] = background - 1  # of Objects Room: another entity than the sky
    for k in range(num_objects):
        place = np.s_[4 + 9 * k : 10 + 9 * k, 3 + number % 4 : 12]
        ids[place], entity[place] = k + 1, background + k
    masks = (entity == np.arange(count)[:, None, None]) * 255
    if layout.entities_last:
        masks = masks.transpose(1, 2, 0)
    exists = np.arange(count) < background + num_objects
    values: dict[str, Any] = {
        "image": pixels.ravel(),
        "mask": masks.astype(np.uint8).ravel(),
    }
    for name, feature in layout.attributes.items():
        channels = 3 if hasattr(feature, "length") else 1
        numbers = random.normal(size=(count, channels)).astype(np.float32)
        if kind == "clevr-with-masks" and name in ("size", "material", "shape", "color"):
            values[name] = np.uint8(np.arange(count) % 3)
        elif name == "shape":
            values[name] = (np.arange(count) % 3).astype(np.float32)
        else:
            values[name] = numbers.ravel()
    if layout.attributes:
        values["visibility"] = exists.astype(np.float32)
    return values, pixels, ids


def stream(path: Path, kind: str, count: int) -> Path:
    records = [example(scene(kind, number)[0]) for number in range(count)]
    return write_records(path, records, zipped=True)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_images_masks_and_attributes_are_imported(kind: str, tmp_path: Path) -> None:
    source = stream(tmp_path / "all.tfrecords", kind, 3)
    counts = {"train": 2, "validation": 1}
    out = import_multi_object(
        source, tmp_path / "out", MultiObjectOptions(kind=kind), counts=counts
    )
    train, validation = (load_dataset(out, split=split) for split in counts)
    assert (len(train), len(validation)) == (2, 1)
    for number, row in enumerate([*train, *validation]):
        values, pixels, ids = scene(kind, number)
        image = np.asarray(row["image"])
        assert (image.reshape(pixels.shape) == pixels).all()
        assert (np.asarray(row["segmentation"]) == ids).all()
        if not LAYOUTS[kind].attributes:
            assert "attributes" not in row
            continue
        first = LAYOUTS[kind].num_background
        objects = slice(first, first + ids.max())
        attributes = row["attributes"]
        assert attributes["x"] == values["x"][objects].tolist()
        codes = [int(value) for value in values["shape"]]
        assert attributes["shape"] == codes[objects]
        (shape,) = read_attributes(train if number < 2 else validation, ["shape"])
        named = [shape.classes[i] for i in shape.values[number % 2]]
        assert named == [str(code) for code in codes[objects]]
        if "pixel_coords" in attributes:
            assert (
                attributes["pixel_coords"]
                == values["pixel_coords"].reshape(-1, 3)[objects].tolist()
            )
    assert json.loads((out / "dataset_info.json").read_text())["license"] == "Apache-2.0"


def test_the_test_records_are_valid_protocol_buffers() -> None:
    values, _, _ = scene("clevr-with-masks", 0)
    features = example_pb2.Example.FromString(example(values)).features.feature
    for name, length in (("mask", 844_800), ("image", 230_400)):
        assert len(features[name].bytes_list.value) == length
        assert b"".join(features[name].bytes_list.value) == values[name].tobytes()


def test_crop_and_resolution_of_clevr(tmp_path: Path) -> None:
    source = stream(tmp_path / "clevr", "clevr-with-masks", 1)
    options = MultiObjectOptions(kind="clevr-with-masks", crop=True)
    row = load_dataset(
        import_multi_object(source, tmp_path / "crop", options, counts={"train": 1})
    )[0]
    assert row["image"].size == row["segmentation"].size == (192, 192)
    left, upper, right, lower = CLEVR_CROP
    pixels = scene("clevr-with-masks", 0)[1]
    assert (np.asarray(row["image"]) == pixels[upper:lower, left:right]).all()
    small = MultiObjectOptions(kind="clevr-with-masks", crop=True, resolution=64)
    row = load_dataset(import_multi_object(source, tmp_path / "small", small, counts={"train": 1}))[
        0
    ]
    assert row["image"].size == (64, 64)


def test_images_with_many_objects_are_dropped(tmp_path: Path) -> None:
    source = stream(tmp_path / "all", "tetrominoes", 4)  # two objects, three, two, three
    options = MultiObjectOptions(kind="tetrominoes", max_objects=2)
    out = import_multi_object(source, tmp_path / "few", options, counts={"train": 4})
    rows = load_dataset(out)
    assert len(rows) == 2
    assert max(np.asarray(row["segmentation"]).max() for row in rows) == 2


def test_an_interrupted_import_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_object, "_BLOCK", 2)
    source = stream(tmp_path / "all", "tetrominoes", 8)
    options, counts = MultiObjectOptions(kind="tetrominoes"), {"train": 5, "validation": 3}
    whole = import_multi_object(source, tmp_path / "whole" / "t", options, counts=counts)
    out, row = tmp_path / "killed" / "t", multi_object.record_row
    made: list[int] = []

    def killed(*arguments: Any) -> Any:
        made.append(1)
        if len(made) == 4:
            raise KeyboardInterrupt
        return row(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(multi_object, "record_row", killed)
        with pytest.raises(KeyboardInterrupt):
            import_multi_object(source, out, options, counts=counts)
    assert [file.name for file in sorted(out.rglob("*.parquet"))] == ["0000000.parquet"]
    made.clear()

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return row(*arguments)

    monkeypatch.setattr(multi_object, "record_row", counted)
    import_multi_object(source, out, options, counts=counts)
    assert len(made) == 6, "two of eight were made before the interruption"
    contents = [
        {f.relative_to(store): f.read_bytes() for f in store.rglob("*") if f.is_file()}
        for store in (whole, out)
    ]
    assert contents[0] == contents[1]


def test_the_command_has_the_usual_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = stream(tmp_path / "all", "tetrominoes", 4)
    command = ["data", "import", "tetrominoes", str(source), str(tmp_path / "out")]
    assert main(command) == 2
    assert "has 4 records, fewer than the" in capsys.readouterr().err
    other = [*command[:-1], str(tmp_path / "other"), "--num-train", "3", "--num-validation", "1"]
    assert main(other) == 0
    assert len(load_dataset(tmp_path / "other", split="validation")) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--crop"], "crop applies to clevr-with-masks only, got tetrominoes"),
        (["--max-objects", "0"], "max_objects must be at least 1, got 0"),
        (["--num-train", "0", "--num-validation", "0"], "every split must have at least 1 record"),
        (["--num-train", "-1"], "every split must have at least 1 record"),
    ],
)
def test_bad_options(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = stream(tmp_path / "all", "tetrominoes", 1)
    out = tmp_path / "out"
    assert main(["data", "import", "tetrominoes", str(source), str(out), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_bad_streams(tmp_path: Path) -> None:
    options = MultiObjectOptions(kind="tetrominoes")
    with pytest.raises(DataError, match=r"kind must be one of clevr-with-masks, .*, got 'clevr'"):
        MultiObjectOptions(kind="clevr")
    with pytest.raises(DataError, match="there is no file /nowhere"):
        import_multi_object("/nowhere", tmp_path / "a", options, counts={"train": 1})
    other = stream(tmp_path / "other", "multi-dsprites-binarized", 1)
    with pytest.raises(
        DataError, match=r"record 0 of .*other is not of tetrominoes: an image of 35"
    ):
        import_multi_object(other, tmp_path / "b", options, counts={"train": 1})
    values, _, _ = scene("tetrominoes", 0)
    for name, message in (("mask", "it has no 'mask'"), ("color", "it has no 'color'")):
        rest = {key: value for key, value in values.items() if key != name}
        write_records(tmp_path / name, [example(rest)], zipped=True)
        with pytest.raises(DataError, match=f"record 0 of .* is not of tetrominoes: {message}"):
            import_multi_object(
                tmp_path / name, tmp_path / f"out-{name}", options, counts={"train": 1}
            )
    whole = stream(tmp_path / "whole", "tetrominoes", 3)
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(DataError, match="cut is damaged: its GZIP stream is truncated"):
        import_multi_object(cut, tmp_path / "c", options, counts={"train": 3})
    assert not (tmp_path / "c" / "train").exists()
    done = import_multi_object(whole, tmp_path / "d", options, counts={"train": 3})
    with pytest.raises(DataError, match=r"holds other data \(tetrominoes\)"):
        import_multi_object(whole, done, options, counts={"train": 2})
