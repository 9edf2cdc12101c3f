from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from latentslots.evaluation import (
    cluster_features,
    cluster_pixels,
    connected_components,
    evaluate,
    evaluate_baseline,
    evaluate_baselines,
)
from latentslots.evaluation.baselines import POSITION_WEIGHTS, tune_position_weight, untrained
from latentslots.metrics import adjusted_rand_index
from latentslots.pipelines.cross_attention import CrossAttentionPipeline
from tests.evaluation.squares import COLORS, ColorPipeline, squares
from tests.tiny import tiny_dinosaur, tiny_lsd, tiny_slot_attention, tiny_vit_encoder


@pytest.fixture
def two_reds() -> tuple[np.ndarray, torch.Tensor]:
    """Two red squares and a green one on gray, and their ids."""
    ids = np.zeros((40, 60), dtype=np.int64)
    ids[5:15, 5:15], ids[25:35, 5:15], ids[10:20, 40:50] = 1, 2, 3
    return COLORS[np.array([0, 1, 1, 2])[ids]], torch.from_numpy(ids)


def test_clusters_of_color_are_the_colors(two_reds: tuple[np.ndarray, torch.Tensor]) -> None:
    image, ids = two_reds
    clusters = cluster_pixels(image, 3)
    colors = torch.tensor([0, 1, 1, 2])[ids]
    assert clusters.dtype == torch.int64
    assert adjusted_rand_index(clusters[None], colors[None]).item() == 1


def test_position_separates_equal_colors() -> None:
    ids = torch.tensor([1] * 20 + [0] * 20 + [2] * 20).repeat(30, 1)
    image = COLORS[(ids > 0).long().numpy()]
    by_color = cluster_pixels(image, 3)
    assert torch.equal(by_color[:, :20], by_color[:, 40:])
    by_position = cluster_pixels(image, 3, position_weight=100.0)
    assert adjusted_rand_index(by_position[None], ids[None]).item() == 1


def test_connected_components_are_the_objects(two_reds: tuple[np.ndarray, torch.Tensor]) -> None:
    image, ids = two_reds
    pieces = connected_components(Image.fromarray(image), 3)
    assert adjusted_rand_index(pieces[None], ids[None]).item() == 1
    assert pieces.unique().tolist() == [0, 1, 2, 3]


def test_small_pieces_join_the_nearest_large_one(
    two_reds: tuple[np.ndarray, torch.Tensor],
) -> None:
    image, ids = two_reds
    image[8, 8], image[30, 30] = COLORS[2], COLORS[1]  # a speck on a red square, one on gray
    pieces = connected_components(image, 3, min_fraction=0.001)
    assert adjusted_rand_index(pieces[None], ids[None]).item() == 1
    assert len(connected_components(image, 3, min_fraction=0.0).unique()) == 6
    assert len(connected_components(image, 3, min_fraction=1.0).unique()) == 6


def test_clusters_of_features_are_made_of_whole_patches() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    pixels[:, :16] = 255  # the left half is plain white, the right half is noise
    encoder = tiny_vit_encoder()
    with torch.no_grad():  # features of white patches are then those of their content alone
        encoder.model.embeddings.position_embeddings.zero_()
    clusters = cluster_features(pixels, encoder, 2)
    patches = clusters.unfold(0, 8, 8).unfold(1, 8, 8)
    assert (patches == patches[..., :1, :1]).all()
    assert clusters[:, :16].unique().numel() == 1
    assert torch.equal(clusters, cluster_features(pixels, encoder, 2))
    assert cluster_features(pixels[:24], encoder, 3).shape == (24, 32)
    with pytest.raises(ValueError, match="num_clusters must be at least 1, got 0"):
        cluster_features(pixels, encoder, 0)


def test_a_pretrained_encoder_keeps_its_weights() -> None:
    pipe = tiny_dinosaur().to_pipeline()
    fresh = untrained(pipe, seed=1)
    assert fresh.encoder is pipe.encoder
    assert not torch.equal(fresh.slot_encoder.slot_mean, pipe.slot_encoder.slot_mean)


def test_an_image_of_one_color_is_one_cluster() -> None:
    image = np.full((8, 8, 3), 200, dtype=np.uint8)
    assert not cluster_pixels(image, 4).any()
    assert not connected_components(image, 4).any()


def test_the_same_seed_gives_the_same_clusters() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    first, second = (cluster_pixels(image, 5, seed=3) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (cluster_pixels, {"num_clusters": 0}, "num_clusters must be at least 1, got 0"),
        (
            cluster_pixels,
            {"num_clusters": 2, "position_weight": -1.0},
            "position_weight must be 0 or above, got -1.0",
        ),
        (
            connected_components,
            {"num_clusters": 2, "min_fraction": 1.5},
            "min_fraction must be between 0 and 1, got 1.5",
        ),
    ],
)
def test_invalid_settings_are_refused(
    function: object, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        function(np.zeros((4, 4, 3), dtype=np.uint8), **options)


def test_a_baseline_is_scored_as_a_pipeline_is() -> None:
    dataset, pipe = squares(9), ColorPipeline(noise=0.3)
    draws = iter(range(9))

    def segment(image: Tensor) -> Tensor:
        generator = [torch.Generator().manual_seed(next(draws))]
        return pipe.encode_pixel_values(image[None], generator=generator).segmentation((32, 32))[0]

    report = evaluate_baseline(segment, dataset, resolution=32, progress=False)
    assert report.fg_ari < 1
    assert replace(report, seed=0) == evaluate(pipe, dataset, progress=False)


def test_an_untrained_pipeline_has_other_weights_and_leaves_the_trained_one_alone() -> None:
    pipe = tiny_lsd(patch_decoder_weight=1.0).to_pipeline()
    before = {name: value.clone() for name, value in pipe.encoder.state_dict().items()}
    fresh = untrained(pipe, seed=3)
    assert fresh.resolution == pipe.resolution
    weight = "stem.weight"
    assert not torch.equal(fresh.encoder.state_dict()[weight], before[weight])
    assert not torch.equal(fresh.patch_decoder.slot_in.weight, pipe.patch_decoder.slot_in.weight)
    assert untrained(tiny_lsd().to_pipeline()).patch_decoder is None
    again = untrained(pipe, seed=3)
    for part in ("encoder", "slot_encoder", "patch_decoder"):
        torch.testing.assert_close(
            getattr(fresh, part).state_dict(), getattr(again, part).state_dict()
        )
    torch.testing.assert_close(pipe.encoder.state_dict(), before)
    pipe.set_inference(num_slots=6, merge_overlap=0.1)
    unmerged = untrained(pipe, seed=3)
    assert (unmerged.num_slots, unmerged.inference.merge_overlap) == (4, 0)


def test_the_tuned_weight_of_position_scores_best() -> None:
    """Against every weight, one by one."""
    dataset = squares(6)
    weight = tune_position_weight(dataset, 4, resolution=32)
    sums = {}
    for other in POSITION_WEIGHTS:
        report = evaluate_baseline(
            lambda image, other=other: cluster_pixels(image, 4, position_weight=other),
            dataset,
            resolution=32,
            progress=False,
        )
        sums[other] = report.fg_ari + report.miou_objects
    assert sums[weight] == max(sums.values()) > min(sums.values())


def test_a_tuned_baseline_is_scored_on_other_images_than_it_is_tuned_on() -> None:
    pipe, tuning = tiny_lsd().to_pipeline(), squares(4)
    weight = tune_position_weight(tuning, 4, resolution=32)
    reports = evaluate_baselines(pipe, squares(3), tuning=tuning, progress=False)
    report = reports[f"k-means, 4 colors and places, weight {weight:g}"]
    assert report.num_images == 3


def test_baselines_have_as_many_colors_as_slots() -> None:
    pipe = tiny_lsd().to_pipeline()
    reports = evaluate_baselines(pipe, squares(3), progress=False)
    num_slots = pipe.slot_encoder.config.num_slots
    names = ["untrained", f"k-means, {num_slots} colors", f"connected, {num_slots} colors"]
    assert list(reports) == names
    assert reports[names[2]].fg_ari > 0.99


def test_baselines_are_scored_at_the_size_that_the_model_is() -> None:
    pipe, dataset = tiny_lsd().to_pipeline(), squares(3, width=100, height=64)
    reports = evaluate_baselines(pipe, dataset, scoring_resolution="native", progress=False)
    assert {report.scoring_resolution for report in reports.values()} == {64}
    assert {report.resolution for report in reports.values()} == {32}
    small = evaluate_baselines(pipe, dataset, progress=False)
    name = next(name for name in reports if name.startswith("connected"))
    assert reports[name].miou_objects != small[name].miou_objects


def test_under_lsd_slots_without_pixels_count_where_their_number_is_known() -> None:
    """Three objects, all pixels in one of seven slots: two objects get a slot without pixels."""
    dataset = squares(2).select([0])

    def nothing(image: Tensor) -> Tensor:
        return torch.zeros(image.shape[1:], dtype=torch.int64)

    scores = []
    for num_slots in (7, None):
        report = evaluate_baseline(
            nothing,
            dataset,
            resolution=32,
            convention="lsd",
            num_slots=num_slots,
            progress=False,
        )
        scores.append(report.miou_objects)
    assert scores[0] == pytest.approx(scores[1] / 3)


def test_an_untrained_pipeline_has_the_same_kind_of_masks() -> None:
    for pipe in (tiny_slot_attention().to_pipeline(), tiny_lsd().to_pipeline()):
        assert untrained(pipe).mask_source == pipe.mask_source
        pipe.use_attention_masks()
        assert untrained(pipe).mask_source == "attention"
    pipe = CrossAttentionPipeline.of(tiny_lsd().to_pipeline())
    fresh = untrained(pipe, seed=3)
    assert fresh.mask_source == "cross-attention"
    pairs = zip(fresh.unet.parameters(), pipe.unet.parameters(), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs)
