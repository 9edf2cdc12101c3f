import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image

from latentslots.evaluation import SegmentationReport, evaluate, evaluate_predictions
from latentslots.evaluation.report.examples import draw_examples
from latentslots.metrics import CONVENTIONS, Convention, adjusted_rand_index, overlap
from tests.evaluation.squares import ColorPipeline, Scene, png, squares
from tests.reference.segmentation import random_scenes


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return squares(9)


def test_a_pipeline_that_segments_every_object_scores_one(dataset: Dataset) -> None:
    report = evaluate(ColorPipeline(), dataset, progress=False)
    assert report == SegmentationReport(
        convention="iou",
        resolution=32,
        scoring_resolution=32,
        seed=0,
        num_images=9,
        num_images_without_objects=1,
        num_videos=9,
        fg_ari=1.0,
        ari=1.0,
        miou_objects=1.0,
        mbo_objects=1.0,
        miou_images=1.0,
        mbo_images=1.0,
        intervals={},
        images=report.images,
    )
    assert report.images.values()[:8] == pytest.approx(1)
    assert np.isnan(report.images.values()[8, 0])  # an image without objects has no FG-ARI
    assert report.intervals["ari"] == (1, 1)


@pytest.mark.parametrize("convention", ["iou", "lsd", "with-background"])
def test_the_batch_size_changes_no_number(dataset: Dataset, convention: str) -> None:
    pipe = ColorPipeline(noise=0.3)
    reports = [
        evaluate(pipe, dataset, convention=convention, batch_size=size, progress=False).to_dict()
        for size in (1, 4, 32)
    ]
    assert reports[0]["ari"] < 0.9
    assert reports[1] == reports[0]
    assert reports[2] == reports[0]


def test_another_seed_draws_other_slots(dataset: Dataset) -> None:
    pipe = ColorPipeline(noise=0.3)
    first, second = (evaluate(pipe, dataset, seed=seed, progress=False) for seed in (0, 100))
    assert first.ari != second.ari
    assert (first.seed, second.seed) == (0, 100)


def test_image_i_draws_with_the_seed_plus_i(dataset: Dataset) -> None:
    pipe = ColorPipeline(noise=0.3)
    alone = evaluate(pipe, dataset.select([3]), seed=3, progress=False)
    four = evaluate(pipe, dataset, num_images=4, progress=False)
    three = evaluate(pipe, dataset, num_images=3, progress=False)
    assert 4 * four.ari - 3 * three.ari == pytest.approx(alone.ari)


def test_the_truth_is_cropped_like_the_image(dataset: Dataset) -> None:
    # The images are 48 x 32: a segmentation resized without cropping would not fit.
    assert evaluate(ColorPipeline(resolution=16), dataset, progress=False).miou_objects > 0.75


def test_masks_can_be_scored_at_another_size(dataset: Dataset) -> None:
    report = evaluate(ColorPipeline(), dataset, scoring_resolution=64, progress=False)
    assert (report.resolution, report.scoring_resolution) == (32, 64)
    assert 0.9 < report.miou_objects <= 1


def test_masks_can_be_scored_at_the_size_of_the_truth() -> None:
    small, large = squares(3), squares(3, width=100, height=64)
    rows = [*small, *large]
    mixed = Dataset.from_list(rows, features=small.features)
    native = evaluate(ColorPipeline(), mixed, scoring_resolution="native", progress=False)
    assert native.scoring_resolution is None
    parts = [
        evaluate(ColorPipeline(), part, scoring_resolution=size, seed=start, progress=False)
        for start, (part, size) in zip((0, 3), ((small, 32), (large, 64)), strict=True)
    ]
    assert native.ari == pytest.approx((parts[0].ari + parts[1].ari) / 2, abs=1e-12)
    assert parts[0].ari == 1
    assert parts[1].ari < 1  # the model saw 32 px: at 64 px its edges are soft


class RecordingPipeline(ColorPipeline):
    """Records the sizes of the images that it encodes."""

    def __init__(self, sizes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.sizes = sizes

    def encode_pixel_values(
        self, pixel_values: torch.Tensor, *, generator: list[torch.Generator]
    ) -> Scene:
        self.sizes.append(tuple(pixel_values.shape[2:]))
        return super().encode_pixel_values(pixel_values, generator=generator)


def test_images_can_be_encoded_at_another_size(dataset: Dataset) -> None:
    sizes: list[tuple[int, ...]] = []
    report = evaluate(RecordingPipeline(sizes), dataset, resolution=24, progress=False)
    assert set(sizes) == {(24, 24)}
    assert (report.resolution, report.scoring_resolution) == (24, 24)


def test_examples_are_drawn_at_the_size_at_which_images_were_encoded(dataset: Dataset) -> None:
    sizes: list[tuple[int, ...]] = []
    draw_examples(RecordingPipeline(sizes), dataset, images=[0], resolution=48)
    draw_examples(RecordingPipeline(sizes), dataset, images=[0])
    assert sizes == [(48, 48), (32, 32)]


def test_frames_of_one_video_are_resampled_together(dataset: Dataset) -> None:
    pipe = ColorPipeline(noise=0.3)
    videos = dataset.add_column("video", ["a", "a", "b", "b", "c", "c", "c", "d", "d"])
    alone, together = (evaluate(pipe, one, progress=False) for one in (dataset, videos))
    assert (alone.num_videos, together.num_videos) == (9, 4)
    assert alone.ari == together.ari
    assert alone.intervals != together.intervals
    assert "intervals over 4 videos" in together.to_markdown()
    assert "videos" not in alone.to_markdown()


def test_ignored_pixels_do_not_count(dataset: Dataset) -> None:
    left = np.zeros((32, 48), dtype=np.uint8)
    left[:, :24] = 1
    masks = [png(left), None, png(0 * left)]
    dataset = dataset.select(range(3))
    ignoring = dataset.add_column("ignore", masks, feature=Image())
    pipe = ColorPipeline(noise=0.3)
    for index, is_equal in enumerate([False, True, True]):
        one, two = (evaluate(pipe, d.select([index]), progress=False) for d in (dataset, ignoring))
        assert (one == two) == is_equal
    assert evaluate(pipe, ignoring, progress=False).num_images == 3


def test_ignored_pixels_may_be_wrong(dataset: Dataset) -> None:
    truth = np.asarray(dataset[0]["segmentation"])
    wrong = truth.copy()
    wrong[:16] = 3
    mask = np.zeros_like(truth)
    mask[:16] = 255
    row = {"image": dataset[0]["image"], "segmentation": png(wrong), "ignore": png(mask)}
    features = Features(image=Image(), segmentation=Image(), ignore=Image())
    report = evaluate(ColorPipeline(), Dataset.from_list([row], features=features), progress=False)
    assert report.ari == 1


def test_only_the_first_images_on_request(dataset: Dataset) -> None:
    assert evaluate(ColorPipeline(), dataset, num_images=5, progress=False).num_images == 5
    assert evaluate(ColorPipeline(), dataset, num_images=500, progress=False).num_images == 9
    with pytest.raises(ValueError, match=r"there is no image to score: .* num_images is 0; both"):
        evaluate(ColorPipeline(), dataset, num_images=0)


def test_progress_goes_to_stderr(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(ColorPipeline(), dataset, batch_size=4)
    out, err = capsys.readouterr()
    assert out == ""
    assert "9/9" in err


def test_refuses_a_data_set_without_masks(dataset: Dataset) -> None:
    message = (
        r"a data set without masks has no segmentation metrics: the columns 'image' and "
        r"'segmentation' are needed, but there are only \['image'\]"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(ColorPipeline(), dataset.select_columns(["image"]))
    rows = [{"image": png(np.zeros((32, 32, 3), dtype=np.uint8)), "segmentation": None}]
    empty = Dataset.from_list(rows, features=Features(image=Image(), segmentation=Image()))
    with pytest.raises(ValueError, match="the column 'segmentation' is empty at image 0"):
        evaluate(ColorPipeline(), empty, progress=False)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_scores_predictions_of_any_origin(convention: Convention) -> None:
    pred, target = random_scenes(6)
    target[3] = 0
    report = evaluate_predictions(pred, target, convention=convention)
    means = overlap(pred, target, convention=convention).means()
    assert {name: getattr(report, name) for name in means} == pytest.approx(means)
    assert report.ari == pytest.approx(adjusted_rand_index(pred, target).mean().item())
    assert (report.resolution, report.scoring_resolution, report.seed) == (None, 16, None)
    assert (report.num_images, report.num_images_without_objects) == (6, 1)


def test_predictions_may_differ_in_size() -> None:
    small, large = random_scenes(1, size=8)[1][0], random_scenes(1, size=20)[1][0]
    report = evaluate_predictions([small, large], [small, large])
    assert report.fg_ari == 1
    assert report.scoring_resolution is None
    assert "masks scored at several sizes;" in report.to_markdown()
    with pytest.raises(ValueError, match="there is no image to score"):
        evaluate_predictions([], [])


def test_the_report_has_the_conditions_of_its_numbers(dataset: Dataset) -> None:
    report = evaluate(ColorPipeline(), dataset, convention="lsd", seed=7, progress=False)
    assert json.loads(json.dumps(report.to_dict()))["convention"] == "lsd"
    assert report.to_markdown() == (
        "| metric | score | 95 % interval |\n"
        "|---|---|---|\n"
        "| FG-ARI | 1.0000 | 1.0000 to 1.0000 |\n"
        "| ARI | 1.0000 | 1.0000 to 1.0000 |\n"
        "| mIoU, mean over objects | 1.0000 | 1.0000 to 1.0000 |\n"
        "| mBO, mean over objects | 1.0000 | 1.0000 to 1.0000 |\n"
        "| mIoU, mean over images | 1.0000 | 1.0000 to 1.0000 |\n"
        "| mBO, mean over images | 1.0000 | 1.0000 to 1.0000 |\n"
        "\n"
        "convention `lsd`; images at 32 px; masks scored at 32 px; seed 7; 9 images, 1 of them "
        "without objects.\n"
    )


def test_without_objects_there_are_no_scores_of_objects(dataset: Dataset) -> None:
    report = evaluate(ColorPipeline(), dataset.select([8]), progress=False)
    assert math.isnan(report.fg_ari)
    assert math.isnan(report.mbo_images)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["mbo_images"] is None
    assert report.ari == 1
    assert report.num_images_without_objects == 1
