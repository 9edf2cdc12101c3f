import itertools
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from torch import Tensor

from latentslots.data import (
    DataError,
    ImageDataset,
    ResumableBatches,
    StoreWriter,
    build_loader,
    load_dataset,
)

from .conftest import NUCLEI, noise_image, truncate

# Two warnings about the machine that runs the tests, not about the code.
workers = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create", "ignore:.*multi-threaded, use of fork"
)


def take(batches: ResumableBatches, count: int) -> list[list[tuple[int, bool]]]:
    return list(itertools.islice(batches, count))


def load(count: int, dataset: ImageDataset, **options: Any) -> list[dict[str, Tensor]]:
    return list(itertools.islice(build_loader(dataset, **options), count))


def assert_equal(left: list[dict[str, Tensor]], right: list[dict[str, Tensor]]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_sample(nlvr: Dataset, arrays: dict[str, np.ndarray]) -> None:
    sample = ImageDataset(nlvr, 100)[3, False]
    assert sorted(sample) == ["index", "pixel_values", "segmentation"]
    pixels = torch.from_numpy(arrays["image"][3]).permute(2, 0, 1)
    torch.testing.assert_close(sample["pixel_values"], pixels / 127.5 - 1)
    assert torch.equal(sample["segmentation"], torch.from_numpy(arrays["mask"][3]).long())
    assert sample["index"] == 3


def test_images_and_masks_are_flipped(nlvr: Dataset) -> None:
    images = ImageDataset(nlvr, 32)
    plain, flipped = images[5, False], images[5, True]
    for key in ("pixel_values", "segmentation"):
        assert torch.equal(plain[key].flip(-1), flipped[key])
    assert torch.equal(images[5]["pixel_values"], plain["pixel_values"])


def test_16_bit_masks_are_read(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, segmentation=True) as writer:
        for mask in sorted((NUCLEI / "masks").iterdir()):
            image = NUCLEI / "images" / mask.name
            writer.add(image.read_bytes(), segmentation=mask.read_bytes())
    images = ImageDataset(load_dataset(tmp_path), 64)
    for index in range(len(images)):
        sample = images[index]
        assert sample["segmentation"].shape == (64, 64)
        assert sample["segmentation"].dtype == torch.int64
        assert sample["segmentation"].max() > 0
        inside = sample["segmentation"] > 0
        brightness = sample["pixel_values"].mean(0)
        # The nuclei in these images are brighter than the background.
        assert brightness[inside].mean() > brightness[~inside].mean()


def test_ignore_is_cropped_and_flipped_too(tmp_path: Path) -> None:
    ignore = np.zeros((8, 12), bool)
    ignore[:, 2:4] = True
    with StoreWriter(tmp_path, ignore=True) as writer:
        writer.add(np.zeros((8, 12, 3), np.uint8), ignore=ignore)
        writer.add(np.zeros((8, 12, 3), np.uint8))
    images = ImageDataset(load_dataset(tmp_path), 8)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:, :2] = True
    assert torch.equal(images[0, False]["ignore"], expected)
    assert torch.equal(images[0, True]["ignore"], expected.flip(-1))
    assert not images[1, False]["ignore"].any()


def test_an_epoch_has_every_row_once_and_half_are_flipped() -> None:
    batches = ResumableBatches(1000, batch_size=8, seed=3, random_flip=True)
    assert batches.batches_per_epoch == 125
    epochs = take(batches, 250)
    for epoch in (epochs[:125], epochs[125:]):
        rows, flips = zip(*itertools.chain(*epoch), strict=True)
        assert sorted(rows) == list(range(1000))
        assert 400 < sum(flips) < 600
    assert epochs[:125] != epochs[125:]


def test_without_flip_the_order_is_the_same() -> None:
    flipped = take(ResumableBatches(20, batch_size=4, random_flip=True), 9)
    plain = take(ResumableBatches(20, batch_size=4), 9)
    assert [[row for row, _ in batch] for batch in flipped] == [
        [row for row, _ in batch] for batch in plain
    ]
    assert not any(flip for batch in plain for _, flip in batch)


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6, 23])
def test_a_resumed_run_gets_the_same_batches(start: int) -> None:
    options = {"batch_size": 4, "seed": 7, "random_flip": True}
    whole = take(ResumableBatches(22, **options), 30)
    rest = take(ResumableBatches(22, **options, start_batch=start), 30 - start)
    assert rest == whole[start:]


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_together_get_the_batches_of_one(num_processes: int) -> None:
    options = {"seed": 7, "random_flip": True, "start_batch": 2}
    ranks = [
        take(
            ResumableBatches(
                26, batch_size=4, num_processes=num_processes, process_index=rank, **options
            ),
            9,
        )
        for rank in range(num_processes)
    ]
    one = take(ResumableBatches(26, batch_size=4 * num_processes, **options), 9)
    assert [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == one


def test_another_seed_gives_another_order() -> None:
    first = take(ResumableBatches(50, batch_size=5, seed=0), 10)
    assert take(ResumableBatches(50, batch_size=5, seed=1), 10) != first
    # Seed 0 in epoch 1 must not be seed 1 in epoch 0.
    assert take(ResumableBatches(50, batch_size=5, seed=0), 20)[10:] != take(
        ResumableBatches(50, batch_size=5, seed=1), 10
    )


def test_skipping_batches_is_free() -> None:
    batches = ResumableBatches(10, batch_size=2, start_batch=10**15)
    assert len(take(batches, 1)[0]) == 2


@pytest.mark.parametrize(
    ("num_rows", "options", "message"),
    [
        (7, {"batch_size": 8}, r"has 7 rows, which do not fill one batch of 8$"),
        (15, {"batch_size": 8, "num_processes": 2}, "one batch of 8 on each of 2 processes"),
        (8, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (8, {"batch_size": 2, "start_batch": -1}, "start_batch must be at least 0, got -1"),
        (8, {"batch_size": 2, "process_index": 1}, r"process_index must be in 0\.\.0, got 1"),
    ],
)
def test_invalid_batches(num_rows: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ResumableBatches(num_rows, **options)


@workers
def test_the_number_of_workers_changes_nothing(nlvr: Dataset) -> None:
    images = ImageDataset(nlvr, 16)
    options = {"batch_size": 4, "seed": 1, "random_flip": True}
    here = load(7, images, **options)
    assert_equal(here, load(7, images, num_workers=2, **options))
    assert_equal(here[4:], load(3, images, num_workers=2, start_batch=4, **options))
    assert here[0]["pixel_values"].shape == (4, 3, 16, 16)


def test_iterating_does_not_use_the_global_generator(nlvr: Dataset) -> None:
    before = torch.get_rng_state()
    load(2, ImageDataset(nlvr, 16), batch_size=4, random_flip=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Eight images: 2 is a truncated JPEG, 3 a truncated PNG, 5 is text."""
    for row in range(8):
        suffix = "png" if row == 3 else "jpg"
        noise_image(tmp_path / f"{row}.{suffix}", seed=row)
    truncate(tmp_path / "2.jpg")
    truncate(tmp_path / "3.png")
    (tmp_path / "5.jpg").write_text("this is not an image")
    return tmp_path


@pytest.mark.parametrize(
    ("row", "name", "reason"),
    [
        (2, "2.jpg", "[Tt]runcated"),
        (3, "3.png", ""),
        (5, "5.jpg", "not an image of a known format"),
    ],
)
def test_a_bad_file_is_named(broken: Path, row: int, name: str, reason: str) -> None:
    images = ImageDataset(load_dataset(broken), 16)
    with pytest.raises(DataError, match=rf"row {row}, image \(.*{name}\) cannot be dec.*{reason}"):
        images[row]


def test_a_missing_file_is_named(broken: Path) -> None:
    images = ImageDataset(load_dataset(broken), 16)
    (broken / "0.jpg").unlink()
    with pytest.raises(DataError, match=r"0\.jpg\) cannot be decoded: the file does not exist"):
        images[0]


@workers
def test_an_error_in_a_worker_is_one_sentence(broken: Path) -> None:
    images = ImageDataset(load_dataset(broken), 16)
    with pytest.raises(DataError) as error:
        load(4, images, batch_size=2, num_workers=1)
    assert str(error.value).startswith("row ")
    assert "\n" not in str(error.value)


def test_bad_rows_are_replaced_counted_and_named_once(
    broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = ImageDataset(load_dataset(broken), 16, on_bad_sample="skip")
    assert [int(images[row]["index"]) for row in range(8)] == [0, 1, 4, 4, 4, 6, 6, 7]
    assert [int(images[row]["num_skipped"]) for row in range(8)] == [0, 0, 2, 1, 0, 1, 0, 0]
    assert torch.equal(images[2]["pixel_values"], images[4]["pixel_values"])
    assert images.bad_rows == [2, 3, 5]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert all("skipped: row" in record.message for record in caplog.records)


@workers
def test_workers_skip_the_same_rows_and_report_them(broken: Path) -> None:
    options = {"batch_size": 4, "seed": 2, "random_flip": True}
    outside = ImageDataset(load_dataset(broken), 16, on_bad_sample="skip")
    inside = ImageDataset(load_dataset(broken), 16, on_bad_sample="skip")
    here = load(4, outside, **options)
    assert_equal(here, load(4, inside, num_workers=2, **options))
    assert inside.bad_rows == outside.bad_rows == [2, 3, 5]
    assert sum(int(batch["num_skipped"].sum()) for batch in here) == 2 * 4


def test_only_bad_rows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("x")
    images = ImageDataset(load_dataset(tmp_path), 16, on_bad_sample="skip")
    with pytest.raises(DataError, match="none of the 1 images can be used"):
        images[0]


def test_a_mask_of_another_size_is_a_bad_row() -> None:
    cells = [np.zeros(size, np.uint8) for size in ((8, 8), (8, 9))]
    features = Features({"image": Image(), "segmentation": Image()})
    rows = Dataset.from_dict({"image": cells[:1], "segmentation": cells[1:]}, features=features)
    with pytest.raises(DataError, match="row 0 cannot be used: the segmentation is 9x8 pixels"):
        ImageDataset(rows, 8)[0]


def test_a_missing_mask_or_image_is_a_bad_row() -> None:
    features = Features({"image": Image(), "segmentation": Image()})
    cell = np.zeros((8, 8), np.uint8)
    rows = Dataset.from_dict(
        {"image": [cell, None], "segmentation": [None, cell]}, features=features
    )
    with pytest.raises(DataError, match="row 0 has no segmentation"):
        ImageDataset(rows, 8)[0]
    with pytest.raises(DataError, match="row 1 has no image"):
        ImageDataset(rows, 8)[1]


def test_data_sets_that_cannot_be_trained_on(nlvr: Dataset, store: Path) -> None:
    with pytest.raises(DataError, match="load it without streaming"):
        ImageDataset(load_dataset(store, streaming=True), 16)
    with pytest.raises(DataError, match="needs an image column 'image', got \\['id'\\]"):
        ImageDataset(nlvr.select_columns(["id"]), 16)
    strings = Dataset.from_dict({"image": ["a"]}, features=Features({"image": Value("string")}))
    with pytest.raises(DataError, match="needs an image column"):
        ImageDataset(strings, 16)
    with pytest.raises(DataError, match="'error' or 'skip', got 'ignore'"):
        ImageDataset(nlvr, 16, on_bad_sample="ignore")


def test_a_format_or_a_selection_does_not_matter(nlvr: Dataset) -> None:
    images = ImageDataset(nlvr.with_format("torch").select([4, 2]), 16)
    assert torch.equal(images[1]["pixel_values"], ImageDataset(nlvr, 16)[2]["pixel_values"])


def test_it_can_be_pickled(store: Path, tmp_path: Path) -> None:
    rows = load_dataset(shutil.copytree(store, tmp_path / "store"))
    images = pickle.loads(pickle.dumps(ImageDataset(rows, 16)))
    assert images[0]["pixel_values"].shape == (3, 16, 16)
