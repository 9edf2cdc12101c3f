"""Slots against noisy images, on the bundled model, and its parts on known values."""

from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image
from torch import Tensor

from latentslots.evaluation.shifts import LEVELS, evaluate_shifts, shift_images
from latentslots.models.autoencoder import load_vae
from latentslots.pipelines import LatentSlotDiffusionPipeline, load_pipeline
from latentslots.pipelines.sampling import predict_clean
from tests import tiny
from tests.evaluation.squares import png

SIDE = 64


@pytest.fixture(scope="module")
def squares() -> Dataset:
    """A red square with a bright stripe on gray, with room to the right or below."""
    rows = []
    for i in range(6):
        ids = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
        ids[12 + i : 24 + i, 10:22] = 1
        pixels = torch.full((SIDE, SIDE, 3), 130, dtype=torch.uint8)
        pixels[ids == 1] = torch.tensor([200, 40, 40], dtype=torch.uint8)
        pixels[16 + i : 19 + i, 10:22] = 230
        rows.append({"image": png(pixels.numpy()), "segmentation": png(ids.numpy())})
    return Dataset.from_list(rows, features=Features(image=Image(), segmentation=Image()))


def test_images_shift_and_their_border_is_repeated() -> None:
    images = torch.rand(2, 3, 5, 6)
    way = torch.tensor([[2, 0], [-1, 3]])
    shifted = shift_images(images, way)
    for image, (down, right), other in zip(images, way.tolist(), shifted, strict=True):
        for y in range(5):
            for x in range(6):
                source = image[:, min(max(y - down, 0), 4), min(max(x - right, 0), 5)]
                assert torch.equal(other[:, y, x], source)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("timestep", [0, 400, 999])
def test_a_denoiser_that_knows_the_noise_returns_the_latents(
    prediction_type: str, timestep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny.tiny_lsd(prediction_type=prediction_type).to_pipeline()
    latents, noise = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    level = torch.full((2,), timestep)
    schedule = pipe.scheduler
    target = noise
    if prediction_type == "v_prediction":
        signal = schedule.alphas_cumprod[timestep].sqrt()
        target = signal * noise - (1 - signal**2).sqrt() * latents

    class Sample:
        sample = target

    def denoise(noisy: Tensor, timesteps: Tensor, *_: Any) -> Any:
        assert torch.equal(timesteps, level)
        expected = schedule.alphas_cumprod[timestep]
        mixed = expected.sqrt() * latents + (1 - expected).sqrt() * noise
        torch.testing.assert_close(noisy, mixed)
        return Sample

    monkeypatch.setattr(pipe.unet, "forward", denoise)
    clean = predict_clean(pipe, latents, noise, timestep, torch.randn(2, 4, 16))
    torch.testing.assert_close(clean, latents, atol=1e-3, rtol=1e-3)


def test_noise_decides_whom_the_bundled_model_follows(squares: Dataset) -> None:
    report = evaluate_shifts(load_pipeline("bundled"), squares, batch_size=4)
    assert report.num_images == 6
    assert report.levels == LEVELS
    assert report.unmoved == report.moved == 1
    assert report.follows_latents[0] > report.follows_latents[-1]
    assert report.follows_slots[-1] > report.follows_slots[0]
    both = zip(report.follows_slots, report.follows_latents, strict=True)
    assert all(0 <= one + other <= 1 for one, other in both)
    table = report.to_markdown().splitlines()
    assert table[-1] == "| autoencoder alone | 1.000 | 1.000 |"
    assert len(table) == 4 + len(LEVELS) + 1
    assert report.to_dict()["levels"] == LEVELS


def test_a_denoiser_that_sees_no_slots_follows_the_noisy_image(
    squares: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe: Any = tiny.tiny_lsd().to_pipeline()
    pipe.vae = load_vae("bundled")

    def predict(pipe: Any, latents: Tensor, *_: Any) -> Tensor:
        return latents

    monkeypatch.setattr("latentslots.evaluation.shifts.predict_clean", predict)
    pipe.register_to_config(resolution=SIDE)
    report = evaluate_shifts(pipe, squares)
    assert set(report.follows_latents) == {1.0}
    assert set(report.follows_slots) == {0.0}


def test_pipelines_without_a_denoiser_are_refused(squares: Dataset) -> None:
    pipe: LatentSlotDiffusionPipeline = tiny.tiny_slot_attention().to_pipeline()
    with pytest.raises(ValueError, match="has no denoiser with an autoencoder"):
        evaluate_shifts(pipe, squares)


def test_images_in_which_nothing_can_move_are_refused(squares: Dataset) -> None:
    full = png(torch.ones(SIDE, SIDE, dtype=torch.uint8).numpy())
    packed = squares.map(lambda row: {**row, "segmentation": full}, features=squares.features)
    with pytest.raises(ValueError, match="none of the objects of 6 images can move by 12 px"):
        evaluate_shifts(load_pipeline("bundled"), packed)
