"""Streams: shares of the workers, samples, and resumed runs."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentslots.data import (
    DataError,
    ImageDataset,
    ImageStream,
    StoreWriter,
    build_loader,
    load_dataset,
)
from latentslots.data.loading import stream
from latentslots.data.loading.samples import Sample
from latentslots.data.loading.stream import ShardOrder

from .conftest import noise_image
from .server import Server

# Two warnings about the machine that runs the tests, not about the code.
workers = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create", "ignore:.*multi-threaded, use of fork"
)
ROWS = 230


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in several shards, each with several row groups; row i has the gray value i."""
    path = tmp_path_factory.mktemp("shards") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentslots.data.store.writer.ROW_GROUP_ROWS", 10)
        with StoreWriter(path, segmentation=True, shard_bytes=4000) as writer:
            for row in range(ROWS):
                gray = np.full((8, 8), row, np.uint8)
                writer.add(np.stack([gray] * 3, axis=2), segmentation=gray)
    return path


def load(source: ImageStream, count: int, **options: Any) -> list[Sample]:
    return list(itertools.islice(build_loader(source, **options), count))


def rows(batches: list[Sample]) -> list[int]:
    return torch.cat([batch["index"] for batch in batches]).tolist()


def test_the_store_has_several_shards_and_row_groups(shards: Path) -> None:
    opened = ImageStream(str(shards), resolution=8)
    assert len(opened) == ROWS
    assert len(opened.shards) > 3
    with opened._open(opened.shards[0]) as file:
        assert len(file.row_groups()) > 2


def test_samples_equal_those_of_the_memory_mapped_data_set(shards: Path) -> None:
    mapped = ImageDataset(load_dataset(shards), 4)
    (batch,) = load(
        ImageStream(str(shards), resolution=4), 1, batch_size=ROWS, random_flip=True, seed=5
    )
    assert sorted(batch["index"].tolist()) == list(range(ROWS))
    for place, index in enumerate(batch["index"].tolist()):
        for key, value in mapped[index].items():
            assert torch.equal(batch[key][place], value)


@pytest.mark.parametrize("num_streams", [1, 2, 3, 7])
def test_shares_are_equal_and_do_not_overlap(num_streams: int) -> None:
    shard_rows = [30, 1, 7, 55, 20]
    order = ShardOrder(shard_rows, batch_size=4, num_streams=num_streams, seed=1)
    left_out: list[tuple[int, int]] = []
    for epoch in range(20):
        read = set()
        for stream_index in range(num_streams):
            share = [
                (shard, row)
                for shard, start, stop in order.stretches(epoch, stream_index)
                for row in range(start, stop)
            ]
            assert len(share) == order.rows_per_epoch == 4 * order.batches_per_epoch
            assert not read & set(share)
            read |= set(share)
        assert all(row < shard_rows[shard] for shard, row in read)
        missing = {(s, row) for s in range(5) for row in range(shard_rows[s])} - read
        assert len(missing) < 4 * num_streams
        left_out += missing
    if left_out:
        assert len(set(left_out)) > 2 * len(left_out) / 20, "they differ from epoch to epoch"


def test_no_row_is_left_out_in_every_epoch(tmp_path: Path) -> None:
    with StoreWriter(tmp_path) as writer:
        for row in range(90):
            writer.add(np.full((4, 4, 3), row, np.uint8))
    batches = load(ImageStream(str(tmp_path), resolution=4), 30, batch_size=64)
    assert set(rows(batches)) == set(range(90))


def test_an_epoch_is_shuffled_by_shard_group_and_buffer(shards: Path) -> None:
    opened = ImageStream(str(shards), resolution=4, shuffle_buffer=50)
    options = {"batch_size": 10, "seed": 3}
    first, second = rows(load(opened, 23, **options)), rows(load(opened, 46, **options))[ROWS:]
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert rows(load(opened, 23, **{**options, "seed": 4})) != first
    groups = [row // 10 for row in first[:46]]
    assert len(set(groups)) in (5, 6), "a buffer of 46 rows holds five groups of ten, or parts"
    assert groups != sorted(groups)
    plain = ImageStream(str(shards), resolution=4, shuffle_buffer=1)
    runs = [list(run) for _, run in itertools.groupby(rows(load(plain, 23, **options)), key=tens)]
    assert all(run == sorted(run) for run in runs), "a buffer of one row shuffles none"


def tens(row: int) -> int:
    return row // 10


def test_half_of_the_rows_are_flipped(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(8, dtype=np.uint8)[:, None] * 30, (8, 1, 3))
    with StoreWriter(tmp_path) as writer:
        for _ in range(100):
            writer.add(ramp)
    (batch,) = load(ImageStream(str(tmp_path), resolution=8), 1, batch_size=100, random_flip=True)
    left, right = (batch["pixel_values"][..., x].mean(dim=(1, 2)) for x in (0, -1))
    assert 30 < (left > right).sum() < 70


@workers
@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("start", [1, 5, 12, 13, 40])
def test_a_resumed_run_gets_the_same_batches(shards: Path, num_workers: int, start: int) -> None:
    opened = ImageStream(str(shards), resolution=4, shuffle_buffer=30)
    options: dict[str, Any] = {"batch_size": 6, "num_workers": num_workers, "random_flip": True}
    whole = load(opened, start + 8, **options)
    rest = load(opened, 8, **options, start_batch=start)
    for one, other in zip(rest, whole[start:], strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)


def test_a_resumed_run_reads_only_its_shuffle_buffer_again(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = stream._ShardFile.read

    def count(self: Any, group: int, columns: list[str]) -> Any:
        read.append(group)
        return original(self, group, columns)

    monkeypatch.setattr(stream._ShardFile, "read", count)
    opened = ImageStream(str(shards), resolution=4, shuffle_buffer=20)
    load(opened, 1, batch_size=10, start_batch=20)
    assert len(read) <= 3, "a buffer of 20 rows is in at most three groups"


@workers
def test_two_processes_of_two_workers_see_every_row_once(shards: Path) -> None:
    opened = ImageStream(str(shards), resolution=4, shuffle_buffer=20)
    options: dict[str, Any] = {"batch_size": 5, "num_workers": 2, "num_processes": 2}
    shares = [rows(load(opened, 22, **options, process_index=rank)) for rank in range(2)]
    assert [len(share) for share in shares] == [110, 110]
    assert len(set(shares[0]) | set(shares[1])) == 220


@workers
def test_streaming_over_http_survives_broken_connections(
    shards: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_WAIT_SECONDS", 0.01)
    for file in shards.rglob("*.*"):
        server.files[f"/store/{file.relative_to(shards)}"] = file.read_bytes()
    options: dict[str, Any] = {"batch_size": 10, "num_workers": 2}
    local = load(ImageStream(str(shards), resolution=4), 22, **options)
    server.errors = [503]
    remote = ImageStream(f"{server.url}/store", resolution=4)
    assert not server.errors
    server.drops = [100, 0, 500, 20]
    for one, other in zip(load(remote, 22, **options), local, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert not server.drops
    server.files.clear()
    with pytest.raises(DataError, match=r"part-0000\d.parquet is missing"):
        load(remote, 1, batch_size=10)
    with pytest.raises(DataError, match=r"only a store can be streamed, and http.* holds none"):
        ImageStream(f"{server.url}/store", resolution=4)


def test_an_epoch_over_http_fetches_every_byte_about_once(tmp_path: Path, server: Server) -> None:
    """Row groups are read in random order, and nothing is read ahead in vain."""
    draws = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentslots.data.store.writer.ROW_GROUP_ROWS", 10)
        with StoreWriter(tmp_path / "store") as writer:
            for _ in range(500):
                writer.add(draws.integers(0, 256, (32, 32, 3), np.uint8))
    for file in tmp_path.rglob("*.*"):
        server.files[f"/{file.relative_to(tmp_path)}"] = file.read_bytes()
    source = ImageStream(f"{server.url}/store", resolution=4, shuffle_buffer=50)
    load(source, 49, batch_size=10)
    stored = (tmp_path / "store" / "train" / "part-00000.parquet").stat().st_size
    assert stored > 1_000_000
    assert 0.95 * stored < server.num_sent < 1.3 * stored


def test_locations_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr(stream, "FIRST_WAIT_SECONDS", 0.001)
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:1/store cannot be read: "):
        ImageStream("http://127.0.0.1:1/store", resolution=4)
    with pytest.raises(DataError, match=r"cannot be read: .*install"):
        ImageStream("gs://bucket/store", resolution=4)
    server.files["/store/dataset_info.json"] = b"{"
    with pytest.raises(DataError, match="is damaged, or not the manifest of a store"):
        ImageStream(f"{server.url}/store", resolution=4)


def test_a_shard_that_differs_from_the_manifest(shards: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(shards, tmp_path / "copy")
    opened = ImageStream(str(copy), resolution=4)
    opened.shards = tuple(replace(shard, num_rows=shard.num_rows + 1) for shard in opened.shards)
    with pytest.raises(DataError, match=r"has \d+ rows, but dataset_info\.json lists \d+"):
        load(opened, 1, batch_size=10)


def test_a_buffer_is_freed_before_the_next_one(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, most = [0], [0]

    class Cells(dict[str, Any]):
        def __init__(self, cells: dict[str, Any]) -> None:
            super().__init__(cells)
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self) -> None:
            alive[0] -= 1

    original = ImageStream.rows

    def counted(self: ImageStream, *args: Any, **options: Any) -> Any:
        return ((index, Cells(cells)) for index, cells in original(self, *args, **options))

    monkeypatch.setattr(ImageStream, "rows", counted)
    load(ImageStream(str(shards), resolution=4, shuffle_buffer=60), 20, batch_size=10)
    assert 50 <= most[0] <= 61


def test_a_bad_row_is_named_or_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    noise_image(good)
    noise_image(bad)
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2] + content[-12:])  # complete but for its middle
    with StoreWriter(tmp_path / "store") as writer:
        for row in range(6):
            writer.add(bad.read_bytes() if row == 4 else good.read_bytes())
    path = str(tmp_path / "store")
    with pytest.raises(DataError, match="row 4"):
        load(ImageStream(path, resolution=8), 1, batch_size=6)
    skipping = ImageStream(path, resolution=8, on_bad_sample="skip")
    for batch in load(skipping, 3, batch_size=6):
        assert set(batch["index"].tolist()) == {0, 1, 2, 3, 5}
        assert batch["num_skipped"].sum() == 1
    assert caplog.text.count("skipped: row 4") == 1, "logged once, not in every epoch"
    measured = ImageStream(path, resolution=8, on_bad_sample="skip").spread(6)
    assert [int(sample["index"]) for sample in measured] == [0, 1, 2, 3, 5]
    alone = ImageStream(path, resolution=8, on_bad_sample="skip", shuffle_buffer=1)
    with pytest.raises(DataError, match="none of the 1 images in the shuffle buffer can be used"):
        load(alone, 1, batch_size=6)


def test_samples_for_statistics_are_spread_over_the_shards(shards: Path) -> None:
    opened = ImageStream(str(shards), resolution=4)
    samples = opened.spread(12)
    assert len(samples) == 12
    indices = [int(sample["index"]) for sample in samples]
    assert len(set(indices)) == 12
    assert max(indices) > ROWS / 2


def test_errors_are_one_sentence(shards: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="only a store can be streamed"):
        ImageStream(str(photos), resolution=4)
    with pytest.raises(DataError, match="has no split 'validation'"):
        ImageStream(str(shards), split="validation", resolution=4)
    with pytest.raises(DataError, match="shuffle_buffer must be at least 1, got 0"):
        ImageStream(str(shards), resolution=4, shuffle_buffer=0)
    with pytest.raises(DataError, match="on_bad_sample must be 'error' or 'skip', got 'no'"):
        ImageStream(str(shards), resolution=4, on_bad_sample="no")
    opened = ImageStream(str(shards), resolution=4)
    with pytest.raises(DataError, match="230 rows, which do not fill one batch of 60 in each of 4"):
        build_loader(opened, batch_size=60, num_processes=4)
    with pytest.raises(DataError, match=r"process_index must be in 0\.\.1, got 2"):
        build_loader(opened, batch_size=6, num_processes=2, process_index=2)
    with pytest.raises(DataError, match="start_batch must be at least 0, got -1"):
        build_loader(opened, batch_size=6, start_batch=-1)
    with pytest.raises(DataError, match="batch_size must be at least 1, got 0"):
        build_loader(opened, batch_size=0)


def test_a_damaged_shard_is_named(shards: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(shards, tmp_path / "copy")
    opened = ImageStream(str(copy), resolution=4)
    for file in copy.rglob("*.parquet"):
        content = bytearray(file.read_bytes())
        content[:-100] = bytes(len(content) - 100)
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"part-0000\d.parquet cannot be read"):
        load(opened, 1, batch_size=10)
