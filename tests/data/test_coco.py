"""COCO on real annotations, and on regions that overlap, crowd, or are missing."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from latentslots.cli.main import main
from latentslots.data import DataError, StoreWriter, load_dataset
from latentslots.data.importers.coco import CocoOptions, import_coco
from latentslots.evaluation import evaluate
from latentslots.evaluation.predictions import predict_with
from latentslots.evaluation.probing import object_classes
from latentslots.evaluation.segmentation import score
from tests.tiny import tiny_lsd

REAL = Path(__file__).parent / "coco"
PANOPTIC = CocoOptions(kind="panoptic")


def arrays(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(row["segmentation"]).astype(int), np.asarray(row["ignore"]).astype(bool)


class TestPanoptic:
    def test_every_segment_is_an_object_of_its_published_area(self, tmp_path: Path) -> None:
        out = import_coco(REAL, tmp_path / "out", PANOPTIC, splits=["train"], workers=1)
        content = json.loads((REAL / "annotations" / "panoptic_train2017.json").read_text())
        names = json.loads((out / "dataset_info.json").read_text())["class_names"]["category"]
        known = {category["id"]: category for category in content["categories"]}
        assert len(names) == 133
        rows = load_dataset(out, split="train")
        assert len(rows) == 2
        for row, number in zip(rows, (30, 257), strict=True):
            ids, ignore = arrays(row)
            (annotation,) = (a for a in content["annotations"] if a["image_id"] == number)
            objects = [s for s in annotation["segments_info"] if not s["iscrowd"]]
            attributes = row["attributes"]
            assert attributes["area"] == [segment["area"] for segment in objects]
            for k, segment in enumerate(objects):
                category = known[segment["category_id"]]
                assert (ids == k + 1).sum() == segment["area"]
                assert names[attributes["category"][k]] == category["name"]
                assert attributes["is_thing"][k] == bool(category["isthing"])
                x, y, width, height = segment["bbox"]
                expected = [y, x, y + height, x + width]
                size = [*ids.shape, *ids.shape]
                assert np.multiply(attributes["bboxes"][k], size) == pytest.approx(expected, abs=1)
            # Pixels without a segment, and crowds, are not scored.
            assert (ignore == (ids == 0)).all()
            crowds = [s["area"] for s in annotation["segments_info"] if s["iscrowd"]]
            assert ignore.sum() >= sum(crowds)
            assert row["license"].startswith("Attribution")
        assert len([s for a in content["annotations"] for s in a["segments_info"] if s["iscrowd"]])

    def test_the_bytes_of_images_are_unchanged(self, tmp_path: Path) -> None:
        out = import_coco(REAL, tmp_path / "out", PANOPTIC, splits=["train"], workers=1)
        cell = load_dataset(out, split="train").data.column("image").to_pylist()[0]
        assert cell["bytes"] == (REAL / "train2017" / "000000000030.jpg").read_bytes()
        small = CocoOptions(kind="panoptic", resolution=64)
        row = load_dataset(import_coco(REAL, tmp_path / "s", small, splits=["train"], workers=1))[0]
        assert row["image"].size == row["segmentation"].size == row["ignore"].size == (64, 64)

    def test_stuff_can_be_background(self, tmp_path: Path) -> None:
        options = CocoOptions(kind="panoptic", stuff=False, crowd="keep")
        rows = load_dataset(import_coco(REAL, tmp_path / "o", options, splits=["train"], workers=1))
        for row in rows:
            assert all(row["attributes"]["is_thing"])
            assert arrays(row)[0].max() == len(row["attributes"]["area"])

    def test_a_model_is_evaluated_on_it(self, tmp_path: Path) -> None:
        options = CocoOptions(kind="panoptic", resolution=32)
        out = import_coco(REAL, tmp_path / "out", options, splits=["train"], workers=1)
        report = evaluate(tiny_lsd().to_pipeline(), load_dataset(out), progress=False)
        assert -1 <= report.fg_ari <= 1

    def test_all_things_of_a_category_are_one_region_for_mbo_of_classes(
        self, tmp_path: Path
    ) -> None:
        """For predictions of four quarters, compared with sets of pixels."""
        options = CocoOptions(kind="panoptic", resolution=32)
        rows = load_dataset(
            import_coco(REAL, tmp_path / "out", options, splits=["train"], workers=1)
        )
        quarters = np.add.outer(2 * (np.arange(32) >= 16), np.arange(32) >= 16).astype(int)
        predictions = predict_with(lambda _: torch.from_numpy(quarters), rows, resolution=32)
        classes = object_classes(predictions, rows, "category")
        expected = []
        for row in rows:
            ids, ignore = arrays(row)
            categories = [None, *row["attributes"]["category"]]
            named = np.array(categories, dtype=object)[ids]
            best = []
            for category in {*named[~ignore]} - {None}:
                region = {*np.flatnonzero((named == category) & ~ignore)}
                parts = [{*np.flatnonzero((quarters == k) & ~ignore)} for k in range(4)]
                best.append(max(len(region & part) / len(region | part) for part in parts))
            expected.append(np.mean(best))
        assert any(
            len(set(row["attributes"]["category"])) < len(row["attributes"]["category"])
            for row in rows
        ), "some category has several things"
        found = score(predictions, classes=classes)
        assert found.mbo_classes == pytest.approx(np.mean(expected), abs=1e-6)
        assert found.mbo_classes != pytest.approx(found.mbo_images, abs=1e-3)


class TestInstances:
    def test_polygons_have_their_published_area(self, tmp_path: Path) -> None:
        file = REAL / "fruits" / "trainval.json"
        command = ["data", "import", "coco", str(REAL / "fruits"), str(tmp_path / "out"),
                   "--annotations", str(file), "--splits", "train", "--workers", "1"]  # fmt: skip
        assert main(command) == 0
        content = json.loads(file.read_text())
        (row,) = load_dataset(tmp_path / "out", split="train")
        ids, ignore = arrays(row)
        assert not ignore.any()
        assert row["attributes"]["category"] == [
            annotation["category_id"] - 1 for annotation in content["annotations"]
        ]
        for area, annotation in zip(row["attributes"]["area"], content["annotations"], strict=True):
            assert area == pytest.approx(annotation["area"], rel=0.03)
        assert ids.max() == 6


def write_coco(folder: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """A data set in COCO's format: one gray image of 20 x 30 pixels, three categories."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images" / "val2017").mkdir(parents=True)
    Image.new("RGB", (30, 20), (90, 90, 90)).save(folder / "images" / "val2017" / "7.jpg")
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "height": 20, "width": 30}],
        "categories": [
            {"id": n, "name": name} for n, name in ((1, "cat"), (3, "dog"), (90, "cup"))
        ],
        "annotations": [{"image_id": 7, "iscrowd": 0, **one} for one in annotations],
        **changes,
    }
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder


def square(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(left: int, right: int) -> dict[str, Any]:
    """A region of whole columns as uncompressed run lengths, which go down the columns."""
    return {"size": [20, 30], "counts": [20 * left, 20 * (right - left), 20 * (30 - right)]}


TWO = [
    {"id": 1, "category_id": 1, "segmentation": square(0, 0, 10, 10)},
    {"id": 2, "category_id": 90, "segmentation": square(5, 5, 20, 15)},
]
CROWD = {"id": 3, "category_id": 3, "iscrowd": 1, "segmentation": runs(8, 28)}


class TestOptions:
    def row(self, folder: Path, annotations: list[dict[str, Any]], **options: Any) -> Any:
        write_coco(folder / "in", annotations)
        out = import_coco(
            folder / "in",
            folder / "out",
            CocoOptions(**options),
            splits=["validation"],
            workers=1,
        )
        return load_dataset(out, split="validation")[0]

    def test_overlapping_instances(self, tmp_path: Path) -> None:
        first = self.row(tmp_path / "a", TWO)
        ids, ignore = arrays(first)
        assert ids[7, 7] == 1
        assert not ignore.any()
        assert first["attributes"]["area"] == [100, 150 - 25]
        last = self.row(tmp_path / "b", TWO, overlap="last", ignore_overlap=True)
        ids, ignore = arrays(last)
        assert ids[7, 7] == 2
        assert ignore.sum() == 25
        assert ignore[5:10, 5:10].all()
        assert last["attributes"]["category"] == [0, 2]

    def test_crowds(self, tmp_path: Path) -> None:
        ids, ignore = arrays(self.row(tmp_path / "a", [*TWO, CROWD]))
        assert ids.max() == 2
        claimed = np.zeros((20, 30), bool)
        claimed[:, 8:28] = True
        assert (ignore == (claimed & (ids == 0))).all()
        kept = self.row(tmp_path / "b", [*TWO, CROWD], crowd="keep")
        ids, ignore = arrays(kept)
        assert ids[19, 27] == 3
        assert not ignore.any()
        assert kept["attributes"]["category"] == [0, 2, 1]
        dropped = self.row(tmp_path / "c", [*TWO, CROWD], crowd="drop")
        assert arrays(dropped)[0].max() == 2
        assert not arrays(dropped)[1].any()

    def test_compressed_run_lengths(self, tmp_path: Path) -> None:
        packed = coco_mask.frPyObjects(runs(2, 9), 20, 30)
        packed["counts"] = packed["counts"].decode()
        row = self.row(tmp_path, [{"id": 1, "category_id": 3, "segmentation": packed}])
        assert (arrays(row)[0][:, 2:9] == 1).all()
        assert row["attributes"]["area"] == [140]

    def test_an_image_without_objects_is_background(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        row = self.row(tmp_path, [])
        assert not arrays(row)[0].any()
        assert row["attributes"]["category"] == []
        assert "1 of 1 images have no annotation: all background" in caplog.text


class TestBadInput:
    def fails(self, folder: Path, message: str, **options: Any) -> None:
        with pytest.raises(DataError, match=message):
            import_coco(folder, folder / "never", splits=["validation"], workers=1, **options)
        assert not (folder / "never").exists()

    def test_missing_files(self, tmp_path: Path) -> None:
        self.fails(tmp_path, r"there is no file .*instances_val2017.json|there is no folder")
        folder = write_coco(tmp_path / "a", TWO)
        (folder / "images" / "val2017" / "7.jpg").unlink()
        self.fails(folder, r"lists the image .*7.jpg, which does not exist")
        with pytest.raises(DataError, match="COCO has no split 'test', only train, validation"):
            import_coco(folder, folder / "never", splits=["test"])
        with pytest.raises(DataError, match="splits must be a single one if annotations are given"):
            import_coco(folder, folder / "never", annotations=folder / "x.json")
        shutil.copytree(REAL, tmp_path / "real")
        (tmp_path / "real/annotations/panoptic_train2017/000000000030.png").unlink()
        with pytest.raises(
            DataError, match=r"lists the segmentation .*30.png, which does not exist"
        ):
            import_coco(tmp_path / "real", tmp_path / "n", PANOPTIC, splits=["train"])

    def test_invalid_annotations(self, tmp_path: Path) -> None:
        stray = [{"id": 1, "category_id": 1, "image_id": 8, "segmentation": square(0, 0, 5, 5)}]
        self.fails(
            write_coco(tmp_path / "a", stray), "annotation of the image 8, but no such image"
        )
        odd = [{"id": 1, "category_id": 2, "segmentation": square(0, 0, 5, 5)}]
        self.fails(write_coco(tmp_path / "b", odd), "has the category 2, which it does not list")
        for number, part in enumerate(("images", "categories")):
            folder = write_coco(tmp_path / f"lacks-{number}", TWO)
            file = folder / "annotations" / "instances_val2017.json"
            content = json.loads(file.read_text())
            del content[part][0]["id"]
            file.write_text(json.dumps(content))
            self.fails(folder, "an entry lacks 'id'")
        size = {"images": [{"id": 7, "file_name": "7.jpg", "height": 30, "width": 20}]}
        self.fails(
            write_coco(tmp_path / "d", TWO, **size), "30x20 pixels after its EXIF rotation, but"
        )
        twice = {
            "images": [{"id": n, "file_name": "7.jpg", "height": 20, "width": 30} for n in (7, 8)]
        }
        self.fails(write_coco(tmp_path / "e", TWO, **twice), r"lists the image .*7.jpg twice")
        self.fails(write_coco(tmp_path / "f", TWO, images=[]), "annotation of the image 7")
        self.fails(write_coco(tmp_path / "g", [], images=[]), "lists no image")
        folder = write_coco(tmp_path / "h", TWO)
        (folder / "annotations" / "instances_val2017.json").write_text("[]")
        self.fails(folder, "is not a file of COCO's annotations")

    def test_invalid_panoptic_images(self, tmp_path: Path) -> None:
        shutil.copytree(REAL, tmp_path / "real")
        png = tmp_path / "real/annotations/panoptic_train2017/000000000030.png"
        whole = Image.open(png).copy()

        def fails(message: str) -> None:
            with pytest.raises(DataError, match=message):
                import_coco(
                    tmp_path / "real", tmp_path / "n", PANOPTIC, splits=["train"], workers=1
                )

        whole.convert("L").save(png)
        fails("must be an RGB image of .* pixels, got L of")
        other = np.array(whole)
        other[0, 0] = (1, 2, 3)
        Image.fromarray(other).save(png)
        fails(f"has the segment {1 + 256 * 2 + 65536 * 3}, which is not listed")
        file = tmp_path / "real/annotations/panoptic_train2017.json"
        content = json.loads(file.read_text())
        content["annotations"] = content["annotations"][:1]
        file.write_text(json.dumps(content))
        fails("has no annotation of the image")

    @pytest.mark.parametrize("resolution", [None, 16])
    def test_more_regions_than_ids(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolution: int | None
    ) -> None:
        """A PNG of 16 bits holds ids up to 65,535."""
        from latentslots.data.importers import coco

        folder = write_coco(tmp_path, TWO)
        ids = np.full((20, 30), 65_536)
        nothing = np.zeros((20, 30), bool)
        monkeypatch.setattr(coco, "_combine", lambda *_: (ids, nothing, []))
        with pytest.raises(DataError, match=r"ids of a segmentation must be in 0\.\.65535, got "):
            import_coco(
                folder,
                tmp_path / "out",
                CocoOptions(resolution=resolution),
                splits=["validation"],
                workers=1,
            )


def test_a_folder_of_images_requires_annotations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="other data in COCO's format: give annotations, too"):
        import_coco(write_coco(tmp_path / "in", TWO), tmp_path / "out", images=tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_unknown_options() -> None:
    with pytest.raises(DataError, match="overlap must be one of first, last, got 'smallest'"):
        CocoOptions(overlap="smallest")  # type: ignore[arg-type]  # on purpose


def test_photographs_with_exif_rotation(tmp_path: Path) -> None:
    """Their annotations are of the rotated image."""
    folder = write_coco(tmp_path / "in", TWO)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    lying = Image.new("RGB", (20, 30), (90, 90, 90))
    lying.save(folder / "images" / "val2017" / "7.jpg", exif=exif)
    for resolution in (None, 20):
        options = CocoOptions(resolution=resolution)
        out = import_coco(folder, tmp_path / str(resolution), options, splits=["validation"])
        row = load_dataset(out, split="validation")[0]
        assert row["segmentation"].size == ((30, 20) if resolution is None else (20, 20))


def test_boxes_and_areas_are_those_of_the_stored_masks(tmp_path: Path) -> None:
    """Cropped to the columns 5 to 25, half of the first object is gone."""
    folder = write_coco(tmp_path / "in", TWO)
    out = import_coco(folder, tmp_path / "out", CocoOptions(resolution=20), splits=["validation"])
    row = load_dataset(out, split="validation")[0]
    ids = arrays(row)[0]
    assert row["attributes"]["area"] == [int((ids == n).sum()) for n in (1, 2)] == [50, 125]
    assert row["attributes"]["bboxes"][0] == [0, 0, 0.5, 0.25]


def test_an_import_is_not_resumed_with_other_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    folder, out = write_coco(tmp_path / "in", TWO), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "add_block", killed)
        with pytest.raises(KeyboardInterrupt):
            import_coco(folder, out, splits=["validation"], workers=1)
    file = folder / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 2, "name": "bear"})
    file.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match="unfinished split 'validation' with other columns or classes"
    ):
        import_coco(folder, out, splits=["validation"], workers=1)
