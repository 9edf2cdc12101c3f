import pytest
import torch
from torch import Tensor

from latentslots.metrics.crop_classifier import CROP_SIZE, crop_objects, train_crop_classifier


def discs_and_squares(number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images of 48 px with one white shape on black, their boxes, and 1 for a disc."""
    draws = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    images, boxes, labels = [], [], []
    for index in range(number):
        radius, *center = (torch.rand(3, generator=draws) * torch.tensor([5, 16, 16])).tolist()
        radius, (top, left) = radius + 6, (value + 16 for value in center)
        is_disc = index % 2
        far = (y - top).abs().maximum((x - left).abs())
        inside = ((y - top) ** 2 + (x - left) ** 2).sqrt() < radius if is_disc else far < radius
        images.append(inside.float() * 2 - 1)
        boxes.append(torch.tensor([top, left, top, left]) + radius * torch.tensor([-1, -1, 1, 1]))
        labels.append(is_disc)
    return (
        torch.stack(images)[:, None].expand(-1, 3, -1, -1),
        torch.stack(boxes),
        torch.tensor(labels),
    )


def test_a_crop_is_a_square_around_its_box() -> None:
    images = torch.full((2, 3, 60, 80), -0.5)
    images[1, :, 20:40, 30:50] = 0.5
    boxes = torch.tensor([[20.0, 30, 40, 50], [20.0, 30, 40, 50]])
    crops = crop_objects(images, boxes, torch.tensor([1, 0]))
    assert crops.shape == (2, 3, CROP_SIZE, CROP_SIZE)
    torch.testing.assert_close(crops[1], torch.full_like(crops[1], -0.5))
    row = crops[0, 0, CROP_SIZE // 2] > 0  # the box is 1 / 1.4 of the crop's side
    assert row.float().mean().item() == pytest.approx(1 / 1.4, abs=0.05)
    torch.testing.assert_close(crops[0], crops[0].flip(2).flip(1), atol=1e-4, rtol=0)


def test_pixels_beyond_the_image_are_black() -> None:
    crops = crop_objects(
        torch.ones(1, 3, 20, 20), torch.tensor([[0.0, 0, 10, 10]]), torch.zeros(1).long()
    )
    assert crops[0, :, 0, 0].tolist() == [-1, -1, -1]
    assert crops[0, :, 16, 16].tolist() == pytest.approx([1, 1, 1])


def test_shapes_are_learned_and_recognized_in_other_images() -> None:
    def crops(number: int, seed: int) -> tuple[Tensor, Tensor]:
        images, boxes, labels = discs_and_squares(number, seed)
        return crop_objects(images, boxes, torch.arange(number)), labels

    seen, labels = crops(120, 0)
    classifier = train_crop_classifier(seen, labels, torch.arange(120), num_classes=2)
    others, truth = crops(60, 1)
    assert (classifier.predict(others) == truth).float().mean() > 0.9
    noise = torch.rand(60, 3, CROP_SIZE, CROP_SIZE) * 2 - 1
    assert (classifier.predict(noise) == truth).float().mean() < 0.7


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="objects of two images or more, got 1"):
        train_crop_classifier(
            torch.zeros(3, 3, 32, 32), torch.zeros(3).long(), torch.zeros(3).long(), num_classes=2
        )
