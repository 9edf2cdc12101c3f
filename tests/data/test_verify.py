"""Verifying stores that are valid, damaged, or have inconsistent labels."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image as ImageFeature

from latentslots.cli.main import main
from latentslots.data import DataError, StoreWriter
from latentslots.data.store.encoding import encode_ids, encode_image
from latentslots.data.store.manifest import read_manifest, write_manifest
from latentslots.data.store.verify import verify
from tests.tiny import write_squares


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "store", num_train=6, num_validation=3)


def rewrite(store: Path, change: dict[str, object]) -> None:
    """Change the third row of `train`, with the hash that matches."""
    from dataclasses import replace
    from hashlib import sha256

    file = store / "train" / "part-00000.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[2].update(change)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    manifest = read_manifest(str(store))
    split = manifest.splits["train"]
    content = file.read_bytes()
    shard = replace(split.shards[0], sha256=sha256(content).hexdigest(), num_bytes=len(content))
    write_manifest(
        store,
        replace(manifest, splits={**manifest.splits, "train": replace(split, shards=(shard,))}),
    )


def test_a_valid_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(store) == []
    assert main(["data", "verify", str(store)]) == 0
    assert capsys.readouterr().out == f"{store}: no errors\n"


def test_damage_is_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = store / "train" / "part-00000.parquet"
    whole = file.read_bytes()
    bent = bytearray(whole)
    bent[len(bent) // 2] ^= 1
    file.write_bytes(bytes(bent))
    assert main(["data", "verify", str(store)]) == 2
    printed = capsys.readouterr().err
    assert "train/part-00000.parquet: its content has changed since it was written" in printed
    file.unlink()
    assert verify(store) == ["train/part-00000.parquet: it is missing"]
    shutil.rmtree(store)
    with pytest.raises(DataError, match="there is no store at"):
        verify(store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": {"bytes": b"nothing", "path": None}}, "row 2, image cannot be decoded"),
        (
            {"segmentation": {"bytes": encode_ids(np.full((32, 32), 9)), "path": None}},
            "row 2: it has the id 9, but attributes of",
        ),
        (
            {"segmentation": {"bytes": encode_ids(np.full((16, 16), 1)), "path": None}},
            "row 2, segmentation: the segmentation is 16x16 pixels, but its image is 32x32",
        ),
        (
            {
                "segmentation": {
                    "bytes": encode_image(np.zeros((32, 32, 3), np.uint8)),
                    "path": None,
                }
            },
            "row 2, segmentation: a segmentation must have one channel",
        ),
        (
            {"attributes": {"color_label": [1], "side": [1.0, 2.0]}},
            "row 2: its attributes have different lengths",
        ),
    ],
)
def test_invalid_rows(store: Path, change: dict[str, object], message: str) -> None:
    rewrite(store, change)
    (found,) = verify(store)
    assert message in found


def test_further_image_columns_are_decoded(tmp_path: Path) -> None:
    image = encode_image(np.zeros((8, 8, 3), np.uint8))
    depth = {"bytes": image[:-30] + image[-16:], "path": None}
    with StoreWriter(tmp_path / "store", columns={"depth": ImageFeature()}) as writer:
        writer.add(image, depth=depth)
    (found,) = verify(tmp_path / "store")
    assert "row 0, depth cannot be decoded" in found
