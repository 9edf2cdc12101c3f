"""`evaluate-masks` on folders and arrays, and `compare` on reports."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentslots.cli.main import main
from latentslots.metrics import overlap
from tests.reference.segmentation import random_scenes

Text = pytest.CaptureFixture[str]


@pytest.fixture
def scenes() -> tuple[np.ndarray, np.ndarray]:
    pred, target = random_scenes(6)
    return pred.numpy().astype(np.uint8), target.numpy().astype(np.uint8)


def folder_of(arrays: np.ndarray, folder: Path, suffix: str = ".png") -> Path:
    folder.mkdir()
    for i, array in enumerate(arrays):
        if suffix == ".png":
            Image.fromarray(array).save(folder / f"{i}.png")
        else:
            np.save(folder / f"{i}.npy", array)
    return folder


def soft(ids: np.ndarray, num_slots: int) -> np.ndarray:
    """Soft masks with the same argmax."""
    hard = np.moveaxis(np.eye(num_slots)[ids], -1, 1)
    return 0.7 * hard + 0.3 / num_slots


def scored(capsys: Text, *words: object) -> dict[str, dict[str, float]]:
    assert main(["evaluate-masks", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["segmentation"]


def test_folders_and_arrays_score_alike(
    scenes: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: Text
) -> None:
    pred, target = scenes
    np.save(tmp_path / "pred.npy", pred)
    np.savez(tmp_path / "target.npz", anything=target)
    np.save(tmp_path / "soft.npy", soft(pred, int(pred.max()) + 1))
    first = folder_of(pred, tmp_path / "pred")
    second = folder_of(target, tmp_path / "target")
    third = folder_of(soft(pred, int(pred.max()) + 1), tmp_path / "soft", ".npy")
    expected = scored(capsys, first, second)
    for convention, scores in expected.items():
        tensors = torch.from_numpy(pred).long(), torch.from_numpy(target).long()
        means = overlap(*tensors, convention=convention).means()
        assert {name: scores[name] for name in means} == pytest.approx(means)
    for found in (tmp_path / "pred.npy", tmp_path / "soft.npy", third):
        for truth in (tmp_path / "target.npz", second):
            assert scored(capsys, found, truth) == expected


def test_soft_masks_include_slots_without_pixels(tmp_path: Path, capsys: Text) -> None:
    """Under `lsd`, objects can be matched to them, and score 0."""
    target = np.zeros((1, 8, 8), np.uint8)
    target[0, :2], target[0, 2:4], target[0, 4:6] = 1, 2, 3
    pred = np.zeros_like(target)
    np.save(tmp_path / "ids.npy", pred)
    np.save(tmp_path / "soft.npy", soft(pred, 7))
    truth = folder_of(target, tmp_path / "target")
    ids, masks = (
        scored(capsys, tmp_path / f"{name}.npy", truth)["lsd"]["miou_objects"]
        for name in ("ids", "soft")
    )
    assert ids == pytest.approx(1 / 4)
    assert masks == pytest.approx(1 / 12)


def test_one_convention_on_request(
    scenes: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: Text
) -> None:
    folders = [folder_of(part, tmp_path / str(i)) for i, part in enumerate(scenes)]
    assert list(scored(capsys, *folders, "--convention", "lsd")) == ["lsd"]
    assert list(scored(capsys, *folders)) == ["iou", "lsd", "with-background"]


def test_ignored_ids_do_not_count(tmp_path: Path, capsys: Text) -> None:
    target = np.zeros((1, 8, 8), np.uint8)
    target[:, 2:6, 2:6] = 1
    pred = target.copy()
    pred[:, :2] = 3
    target[:, :2] = 255
    folders = [folder_of(pred, tmp_path / "p"), folder_of(target, tmp_path / "t")]
    assert scored(capsys, *folders, "--ignore-id", 255)["iou"]["ari"] == 1
    assert scored(capsys, *folders)["iou"]["miou_objects"] == 1  # row 3 is an object then
    target[:, 1] = 0
    other = folder_of(target, tmp_path / "o")
    assert scored(capsys, folders[0], other, "--ignore-id", 255)["iou"]["ari"] < 1


def test_the_report_has_a_page_and_figures(tmp_path: Path, capsys: Text) -> None:
    target = np.zeros((3, 32, 40), np.uint8)
    target[:, 2:20, 2:20] = 1
    target[:, 30] = 255
    pred = target % 255
    pred[1] = 0  # the worst
    pred[2, 10:] = 0
    folders = [str(folder_of(part, tmp_path / name)) for part, name in ((pred, "p"), (target, "t"))]
    out = tmp_path / "report"
    words = ["--ignore-id", "255", "--output-dir", str(out)]
    assert main(["evaluate-masks", *folders, *words]) == 0
    page = (out / "index.html").read_text()
    assert page.count("<img") == 3
    assert f"evaluate-masks {folders[0]}" in page
    worst, best = (np.asarray(Image.open(out / f"{name}.png")) for name in ("worst", "best"))
    scale, top = 3, worst.shape[0] - 96  # below the caption
    truth, found = worst[top:, : 40 * scale], worst[top:, 40 * scale + 2 :]
    assert (truth[30 * scale] == 0).all(), "ignored pixels are black"
    assert (found[30 * scale] == 0).all()
    assert len(np.unique(found[: 30 * scale].reshape(-1, 3), axis=0)) == 1, "image 1, one segment"
    truth, found = best[top:, : 40 * scale], best[top:, 40 * scale + 2 :]
    assert (truth == found).all(), "image 0"
    assert len(np.unique(truth.reshape(-1, 3), axis=0)) == 3


def test_large_masks_are_drawn_small(tmp_path: Path, capsys: Text) -> None:
    ids = np.zeros((1, 900, 1800), np.uint8)
    ids[:, 200:600, 300:900] = 1
    folders = [str(folder_of(ids, tmp_path / name)) for name in ("p", "t")]
    assert main(["evaluate-masks", *folders, "--output-dir", str(tmp_path / "r")]) == 0
    with Image.open(tmp_path / "r" / "examples.png") as drawn:
        assert drawn.width == 2 * 512 + 2
        assert 256 < drawn.height < 300


def test_predictions_are_resized_to_the_ground_truth(tmp_path: Path, capsys: Text) -> None:
    small = np.zeros((2, 8, 8), np.uint8)
    small[:, 2:6, 2:6] = 1
    large = small.repeat(3, axis=1).repeat(3, axis=2)
    truth = folder_of(large, tmp_path / "truth")
    assert scored(capsys, folder_of(small, tmp_path / "ids"), truth)["iou"]["ari"] == 1
    masks = folder_of(soft(small, 2), tmp_path / "masks", ".npy")
    assert 0.8 < scored(capsys, masks, truth)["iou"]["ari"] <= 1


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        ("nowhere", "t", "nowhere is neither a folder of masks nor a file ending in .npy or .npz"),
        ("p", "t.txt", "t.txt is neither a folder of masks nor a file"),
        ("empty", "t", "empty holds no masks: files ending in .png"),
        ("few", "t", "few lacks image 2, which"),
        ("p", "few", "few lacks image 2, which"),
        ("broken", "t", "broken/1.png cannot be read as a segmentation"),
        ("leaky", "t", "must be 0 or above and sum to 1 over slots at every pixel, got a sum of"),
        ("p", "soft", "must hold ids [H, W], got [2, 16, 16]"),
        ("two.npz", "t", "two.npz must hold one array, got 2: a, b"),
        ("flat.npy", "t", "flat.npy must hold ids [I, H, W] or masks [I, K, H, W], got shape [5]"),
        ("color", "t", "image 0 of"),
        ("far", "t", "far must be from 0 to 65535, got 70000"),
        ("p", "below", "below must be from 0 to 65535, got -1"),
    ],
)
def test_invalid_masks_are_one_sentence(
    pred: str, target: str, message: str, tmp_path: Path, capsys: Text
) -> None:
    ids = np.zeros((3, 16, 16), np.uint8)
    ids[:, 4:9, 4:9] = 1
    folder_of(ids, tmp_path / "p")
    folder_of(ids, tmp_path / "t")
    folder_of(ids[:2], tmp_path / "few")
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.txt").write_text("x")
    folder_of(ids, tmp_path / "broken")
    (tmp_path / "broken" / "1.png").write_bytes(b"not an image")
    folder_of(soft(ids, 2), tmp_path / "soft", ".npy")
    folder_of(1.1 * soft(ids, 2), tmp_path / "leaky", ".npy")
    folder_of(np.zeros((3, 16, 16), np.float32), tmp_path / "color", ".npy")
    folder_of(70_000 * ids.astype(np.int32), tmp_path / "far", ".npy")
    folder_of(-ids.astype(np.int32), tmp_path / "below", ".npy")
    np.savez(tmp_path / "two.npz", a=ids, b=ids)
    np.save(tmp_path / "flat.npy", np.zeros(5))
    assert main(["evaluate-masks", str(tmp_path / pred), str(tmp_path / target)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_two_reports_are_compared(
    scenes: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: Text
) -> None:
    _, target = scenes
    truth = folder_of(target, tmp_path / "truth")
    noisy = target.copy()
    noisy[:, ::2] = 0
    for name, pred in (("good", target), ("bad", noisy)):
        words = [str(folder_of(pred, tmp_path / name)), str(truth)]
        out = str(tmp_path / f"report-{name}")
        assert main(["evaluate-masks", *words, "--output-dir", out]) == 0
    capsys.readouterr()
    reports = [str(tmp_path / "report-good"), str(tmp_path / "report-bad" / "report.json")]
    assert main(["compare", *reports, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ari"]["first"] == 1
    assert found["ari"]["low"] > 0
    assert found["ari"]["more_than_noise"]
    assert main(["compare", *reports, "--convention", "lsd"]) == 0
    table = capsys.readouterr().out
    assert "| ARI | 1.0000 |" in table
    assert "another training may differ more" in table
    assert main(["compare", reports[0], reports[0], "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["ari"]["more_than_noise"]


def test_reports_that_cannot_be_compared_are_refused(
    scenes: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: Text
) -> None:
    pred, target = scenes
    for name, part in (("a", target), ("b", target[::-1])):
        words = [str(folder_of(pred, tmp_path / f"pred-{name}"))]
        words += [str(folder_of(part, tmp_path / name)), "--convention", "iou"]
        assert main(["evaluate-masks", *words, "--output-dir", str(tmp_path / f"r{name}")]) == 0

    def refused(first: str, second: str, *words: str) -> str:
        capsys.readouterr()
        assert main(["compare", str(tmp_path / first), str(tmp_path / second), *words]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "different images cannot be compared: data_hash is" in refused("ra", "rb")
    assert "holds no scores of the convention 'lsd'" in refused("ra", "ra", "--convention", "lsd")
    assert "there is no report" in refused("ra", "nowhere")
    content = json.loads((tmp_path / "rb" / "report.json").read_text())
    (tmp_path / "rb" / "report.json").write_text(json.dumps({**content, "format": 1}))
    assert "has format 1, and only format 2 can be read" in refused("ra", "rb")
    (tmp_path / "rb" / "report.json").write_text("{}")
    assert "the field 'format' is missing" in refused("ra", "rb")
    (tmp_path / "rb" / "report.json").write_text('{"format": 2}')
    assert "the field 'conditions' is missing" in refused("ra", "rb")
    words = [str(tmp_path / "pred-a"), str(tmp_path / "a"), "--convention", "iou"]
    words += ["--ignore-id", "0", "--output-dir", str(tmp_path / "rc")]
    assert main(["evaluate-masks", *words]) == 0
    assert "ignore_id is None" in refused("ra", "rc")
    (tmp_path / "ra" / "images.parquet").unlink()
    assert "images.parquet is missing" in refused("ra", "ra")
