from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from latentslots.data.transforms import ResizeCenterCrop, hflip, to_ids, to_pixel_values, to_rgb


def coded_pair(
    mode: str = "L", width: int = 90, height: int = 64
) -> tuple[Image.Image, Image.Image]:
    """Three vertical and two horizontal bands; an id's color is (40 * id, 0, 0)."""
    columns = np.arange(width) * 3 // width
    rows = np.arange(height) * 2 // height
    ids = rows[:, None] * 3 + columns[None, :]
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = ids * 40
    dtype = np.uint16 if mode == "I;16" else np.int32 if mode == "I" else np.uint8
    segmentation = Image.fromarray(ids.astype(dtype))
    if mode == "P":
        segmentation.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    assert segmentation.mode == mode
    return Image.fromarray(pixels), segmentation


def agreement(image: Image.Image, segmentation: Image.Image | None) -> float:
    """Share of pixels whose color is that of their id."""
    assert segmentation is not None
    red = ((to_pixel_values(image)[0] + 1) * 127.5).round()
    return float((red == to_ids(segmentation) * 40).float().mean())


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "I"])
@pytest.mark.parametrize("size", [(90, 64), (64, 90), (64, 64), (33, 47)])
@pytest.mark.parametrize("resolution", [16, 32, 64, 100])
def test_image_and_ids_stay_aligned(mode: str, size: tuple[int, int], resolution: int) -> None:
    pair = ResizeCenterCrop(resolution)(*coded_pair(mode, *size))
    assert pair[0].size == pair[1].size == (resolution, resolution)
    # Only seams between bands differ, where colors are blended and ids are not: at most 3 seams,
    # each two pixels wide in the original scale.
    seam = max(1, resolution / min(size))
    assert agreement(*pair) > 1 - 3 * 2 * seam / resolution
    assert agreement(*hflip(*pair)) == agreement(*pair)


def test_ids_are_never_blended() -> None:
    _, segmentation = ResizeCenterCrop(50)(*coded_pair("I;16"))
    assert set(to_ids(segmentation).unique().tolist()) <= set(range(6))


def test_ids_above_255_survive() -> None:
    ids = np.array([[0, 300], [70, 65535]], np.uint16)
    _, segmentation = ResizeCenterCrop(2)(Image.new("RGB", (2, 2)), Image.fromarray(ids))
    torch.testing.assert_close(to_ids(segmentation), torch.from_numpy(ids.astype(np.int64)))


def test_two_flips_are_the_identity() -> None:
    image, segmentation = coded_pair()
    twice = hflip(*hflip(image, segmentation))
    assert twice[0].tobytes() == image.tobytes()
    assert twice[1].tobytes() == segmentation.tobytes()
    assert hflip(image)[1] is None


def test_without_segmentation() -> None:
    image, segmentation = ResizeCenterCrop(16)(Image.new("RGB", (20, 30), "red"))
    assert image.size == (16, 16)
    assert segmentation is None


def test_no_resize_keeps_every_pixel() -> None:
    image, _ = coded_pair(width=64, height=64)
    assert ResizeCenterCrop(64)(image)[0].tobytes() == image.tobytes()


def test_pixel_values_range() -> None:
    image = Image.fromarray(np.array([[[0, 255, 127]]], np.uint8))
    expected = torch.tensor([-1.0, 1.0, 127 / 127.5 - 1]).view(3, 1, 1)
    torch.testing.assert_close(to_pixel_values(image), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image.new("L", (4, 4), 128),
        lambda: Image.new("LA", (4, 4), (128, 255)),
        lambda: Image.new("RGBA", (4, 4), (128, 128, 128, 255)),
        lambda: Image.new("RGB", (4, 4), (128, 128, 128)).quantize(),
        lambda: Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)),
        lambda: Image.fromarray(np.full((4, 4), 128 * 257, np.int32)),
    ],
    ids=["gray", "gray+alpha", "rgba", "palette", "16 bit", "32 bit"],
)
def test_every_mode_becomes_rgb(make: Callable[[], Image.Image]) -> None:
    image = to_rgb(make())
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == (128, 128, 128)


def test_transparent_pixels_are_black() -> None:
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 255, 255, 0))).getpixel((0, 0)) == (0, 0, 0)
    assert to_rgb(Image.new("RGBA", (1, 1), (200, 100, 0, 128))).getpixel((0, 0)) == (100, 50, 0)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([255, 255, 255])
    palette.info["transparency"] = 0
    assert to_rgb(palette).getpixel((0, 0)) == (0, 0, 0)


def test_the_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "red")
    image.getexif()[0x0112] = 6
    assert to_rgb(image).size == (10, 20)
    crop, ids = ResizeCenterCrop(8)(image, Image.new("L", (10, 20)))
    assert crop.size == ids.size == (8, 8)


def test_one_bit_ids() -> None:
    assert to_ids(Image.new("1", (2, 1), 1)).tolist() == [[1, 1]]


def test_a_segmentation_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="segmentation is 4x6 pixels, but its image is 6x4"):
        ResizeCenterCrop(4)(Image.new("RGB", (6, 4)), Image.new("L", (4, 6)))


@pytest.mark.parametrize("mode", ["RGB", "F", "LA"])
def test_ids_need_one_channel_of_integers(mode: str) -> None:
    with pytest.raises(ValueError, match=f"got mode '{mode}'"):
        to_ids(Image.new(mode, (2, 2)))


def test_negative_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="ids start at 0, got -3"):
        to_ids(Image.fromarray(np.full((2, 2), -3, np.int32)))


def test_images_without_a_range_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        to_rgb(Image.new("F", (2, 2)))
    with pytest.raises(ValueError, match=r"0\.\.65535, got 70000\.\.70000"):
        to_rgb(Image.fromarray(np.full((2, 2), 70000, np.int32)))


def test_a_resolution_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ResizeCenterCrop(0)
