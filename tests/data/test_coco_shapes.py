"""Polygons and run lengths of COCO, and annotations as the tools of others write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from latentslots.cli.main import main
from latentslots.data import DataError, load_dataset
from latentslots.data.importers.coco import CocoOptions, import_coco
from latentslots.data.importers.coco_annotations import read_annotations
from latentslots.data.importers.coco_shapes import Shape, decode_shape, parse_shape
from tests.data.test_coco import REAL, TWO, runs, square, write_coco


def import_one(folder: Path, annotations: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The only row of the store."""
    write_coco(folder / "in", annotations, **changes)
    out = import_coco(folder / "in", folder / "out", splits=["validation"], workers=1)
    return load_dataset(out, split="validation")[0]


class TestRunLengths:
    @pytest.mark.parametrize("seed", range(20))
    def test_compressed_ones_are_read_as_pycocotools_reads_them(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        height, width = rng.integers(1, 400, 2).tolist()
        mask = np.asfortranarray(rng.random((height, width)) < rng.random() ** 4)
        packed = coco_mask.encode(mask.astype(np.uint8))
        shape = {"size": packed["size"], "counts": packed["counts"].decode()}
        parsed = parse_shape(shape, height, width)
        assert (decode_shape(parsed, height, width) == mask).all()
        assert parse_shape([shape], height, width) == parsed, "in a list, as some tools write it"

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ({**runs(2, 9), "counts": [40, 100]}, "must fill the 600 pixels of .*, they have 140"),
            ({**runs(2, 9), "counts": [601]}, "must fill the 600 pixels"),
            ({**runs(2, 9), "counts": [601, -1]}, "must be integers of 0 or more, got -1"),
            ({**runs(2, 9), "counts": [600.0]}, "must be integers of 0 or more, got 600.0"),
            ({**runs(2, 9), "counts": [True, 599]}, "must be integers of 0 or more, got True"),
            ({**runs(2, 9), "counts": "0~"}, "have the letter '~'"),
            ({**runs(2, 9), "counts": "P"}, "run lengths are cut off"),
            ({**runs(2, 9), "counts": "0000"}, "they have 0"),
            ({**runs(2, 9), "counts": None}, "must be a text or a list of numbers, got None"),
            ({**runs(2, 9), "size": [30, 20]}, r"must have the size \[20, 30\]"),
            ({"counts": [600]}, r"must have the size \[20, 30\] of the image, got None"),
            ([runs(2, 9), {"size": [20, 30], "counts": [3]}], "they have 3"),
            ("0P", "must be polygons or run lengths, got str"),
        ],
    )
    def test_those_that_do_not_fit_are_refused(self, shape: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            parse_shape(shape, 20, 30)


class TestPolygons:
    @pytest.mark.parametrize(
        ("polygon", "message"),
        [
            ([0, 0, 5, 5, float("nan"), 5], "x nan, far outside of the image of 30x20 pixels"),
            ([0, 0, 5, 5, 5, float("inf")], "y inf, far outside"),
            ([0, 0, 5, 5, 5, 41], "y 41, far outside"),
            ([0, 0, 5, 5, 1e300, 5], r"x 1e\+300, far outside"),
            ([0, 0, 5, 5, -31, 5], "x -31, far outside"),
            ([0, 0, 5, 5, 5], "an x and a y for each point, got 5"),
            ([0, 0, 5, 5, 5, "6"], "coordinates of a polygon must be numbers, got '6'"),
            ([0, 0, 5, 5, 5, None], "must be numbers, got None"),
            ([0, 0, 5, 5, 5, True], "must be numbers, got True"),
            (7, "must be a list of numbers, got 7"),
        ],
    )
    def test_those_that_c_code_cannot_read_are_refused(self, polygon: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            parse_shape([polygon], 20, 30)

    def test_points_a_little_outside_are_cut(self) -> None:
        shape = parse_shape([[-5, -5, 8, -5, 8, 25, -5, 25]], 20, 30)
        mask = decode_shape(shape, 20, 30)
        assert mask[:, :8].all()
        assert not mask[:, 9:].any()

    @pytest.mark.parametrize("shape", [None, [], {}, [[]], [[3, 4]], [[3, 4, 5, 6]]])
    def test_a_box_is_no_mask(self, shape: Any) -> None:
        assert not parse_shape(shape, 20, 30)

    def test_polygons_and_run_lengths_are_united(self) -> None:
        shape = parse_shape([*square(0, 0, 4, 4), runs(20, 22), [1, 2]], 20, 30)
        assert shape == Shape(
            ((0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0),), ((400, 40, 160),), num_left_out=1
        )
        expected = np.zeros((20, 30), bool)
        expected[:4, :4] = expected[:, 20:22] = True
        assert (decode_shape(shape, 20, 30) == expected).all()


class TestAnnotations:
    def test_boxes_are_left_out_and_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        box = {"id": 3, "category_id": 3, "bbox": [1, 1, 5, 5], "segmentation": []}
        thin = {"id": 4, "category_id": 3, "segmentation": [[1, 1, 5, 5], *square(20, 5, 25, 9)]}
        row = import_one(tmp_path, [TWO[0], box, TWO[1], thin])
        assert row["attributes"]["category"] == [0, 2, 1]
        assert (np.asarray(row["segmentation"])[5:9, 20:25] == 3).all()
        assert "1 of 4 annotations have no mask: left out" in caplog.text
        assert "1 polygons have fewer than three points: left out" in caplog.text

    def test_the_message_names_file_annotation_and_image(self, tmp_path: Path) -> None:
        folder = write_coco(tmp_path / "in", [TWO[0], {**TWO[1], "segmentation": runs(2, 40)}])
        with pytest.raises(
            DataError, match=r"val2017.json: the annotation 2 of 7.jpg cannot be read: run lengths"
        ):
            import_coco(folder, tmp_path / "never", splits=["validation"], workers=1)
        assert not (tmp_path / "never").exists()

    @pytest.mark.parametrize("part", ["images", "categories", "annotations"])
    def test_ids_are_unique(self, tmp_path: Path, part: str) -> None:
        folder = write_coco(tmp_path, TWO)
        file = folder / "annotations" / "instances_val2017.json"
        content = json.loads(file.read_text())
        content[part].append({**content[part][0]})
        file.write_text(json.dumps(content))
        with pytest.raises(DataError, match=f"has two {part} with the id"):
            read_annotations(file)

    def test_text_and_number_are_one_id(self, tmp_path: Path) -> None:
        images = [{"id": "7", "file_name": "7.jpg", "height": 20, "width": 30}]
        objects = [{**TWO[0], "category_id": 1.0}, {**TWO[1], "category_id": "90"}]
        row = import_one(tmp_path / "a", objects, images=images)
        assert row["attributes"]["category"] == [0, 2]
        twice = [{**images[0], "id": 7}, images[0]]
        with pytest.raises(DataError, match="has two images with the id 7"):
            import_one(tmp_path / "b", objects, images=twice)
        with pytest.raises(DataError, match="image 7, but no such image"):
            import_one(tmp_path / "c", objects, images=[{**images[0], "id": "007"}])
        with pytest.raises(DataError, match="id must be a number or a text, got True"):
            import_one(tmp_path / "d", objects, images=[{**images[0], "id": True}])

    def test_categories_of_one_name_become_one(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As in exports with a root category that is named like its only child."""
        names = {0: "cat", 1: "cat", 90: "cup"}
        categories = [{"id": number, "name": name} for number, name in names.items()]
        row = import_one(tmp_path, TWO, categories=categories)
        assert row["attributes"]["category"] == [0, 1]
        assert "2 categories of" in caplog.text
        assert "are named 'cat': they become one" in caplog.text

    @pytest.mark.parametrize("side", [0, -3, 20.5, "20", None, True])
    def test_sizes_are_numbers_of_pixels(self, tmp_path: Path, side: Any) -> None:
        images = [{"id": 7, "file_name": "7.jpg", "height": side, "width": 30}]
        with pytest.raises(DataError, match="the height of the image 7 must be a number of pixels"):
            import_one(tmp_path, TWO, images=images)

    def test_segments_of_panoptic_images_have_ids_of_their_own(self, tmp_path: Path) -> None:
        content = json.loads((REAL / "annotations" / "panoptic_train2017.json").read_text())
        folder = tmp_path / "annotations"
        folder.mkdir()
        file = folder / "panoptic_train2017.json"
        segments = content["annotations"][0]["segments_info"]
        for number, message in ((segments[1]["id"], "two segments with"), ("x", "a segment with")):
            segments[0]["id"] = number
            file.write_text(json.dumps(content))
            (tmp_path / "train2017").mkdir(exist_ok=True)
            with pytest.raises(DataError, match=f"has {message} the id {number!r}"):
                import_coco(
                    tmp_path, tmp_path / "o", CocoOptions(kind="panoptic"), splits=["train"]
                )


class TestText:
    def test_a_byte_order_mark_is_allowed(self, tmp_path: Path) -> None:
        folder = write_coco(tmp_path / "in", TWO)
        file = folder / "annotations" / "instances_val2017.json"
        file.write_text(file.read_text(), encoding="utf-8-sig")
        assert import_coco(folder, tmp_path / "out", splits=["validation"], workers=1).is_dir()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                b'{"images": "\xff' + b"x" * 100_000,
                "is not text in UTF-8: invalid start byte at byte",
            ),
            (b'{"images": ' + b"x" * 100_000, "is not JSON: Expecting value: line 1 column 12"),
            (b"[" * 100_000, "is nested too deeply"),
        ],
    )
    def test_a_message_does_not_repeat_the_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
    ) -> None:
        folder = write_coco(tmp_path / "in", TWO)
        (folder / "annotations" / "instances_val2017.json").write_bytes(content)
        command = ["data", "import", "coco", str(folder), str(tmp_path / "never")]
        assert main([*command, "--splits", "validation"]) == 2
        text = capsys.readouterr().err
        assert message in text
        assert len(text) < 400


def test_a_photograph_whose_name_has_the_other_form_of_unicode(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "in", TWO, images=[
        {"id": 7, "file_name": "caf\u00e9.jpg", "height": 20, "width": 30}
    ])  # fmt: skip
    (folder / "images/val2017/7.jpg").rename(folder / "images/val2017/cafe\u0301.jpg")
    out = import_coco(folder, tmp_path / "out", splits=["validation"], workers=1)
    assert len(load_dataset(out, split="validation")) == 1
