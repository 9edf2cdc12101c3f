"""Figures: palettes, overlays, slot strips, grids, curves and conversions."""

import base64
import io
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from latentslots.visualize import (
    colorize,
    curve,
    data_uri,
    grid,
    overlay,
    palette,
    png_bytes,
    rgb_to_lab,
    slot_crop,
    slot_strip,
    to_pil,
    to_uint8,
)


def test_a_color_does_not_depend_on_their_number() -> None:
    assert (palette(24)[:7] == palette(7)).all()


def test_colors_are_easy_to_distinguish() -> None:
    lab = rgb_to_lab(palette(24))
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert distance[~np.eye(24, dtype=bool)].min() > 30


def test_the_palette_has_512_colors() -> None:
    assert len(np.unique(palette(512), axis=0)) == 512
    with pytest.raises(ValueError, match="num_colors must be between 0 and 512, got 513"):
        palette(513)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_colorize_uses_the_palette(dtype: type) -> None:
    ids = np.array([[0, 1], [2, 255]], dtype=dtype)
    assert (np.asarray(colorize(ids)) == palette(256)[ids]).all()
    assert (np.asarray(colorize(torch.tensor([[515]]))) == palette(4)[3]).all()
    with pytest.raises(ValueError, match=r"must be integers \[H, W\], got float64 \[2, 2\]"):
        colorize(ids.astype(float))


def test_overlay_blends() -> None:
    image = np.full((4, 6, 3), 100, dtype=np.uint8)
    ids = np.arange(24).reshape(4, 6)
    assert (np.asarray(overlay(image, ids, alpha=0.0)) == 100).all()
    assert (np.asarray(overlay(image, ids, alpha=1.0)) == palette(24)[ids]).all()
    half = np.asarray(overlay(image, ids)).astype(int)
    assert np.abs(half - (palette(24)[ids].astype(int) + 100) / 2).max() <= 1
    with pytest.raises(ValueError, match="must have the size of its image, 4x6, got 6x4"):
        overlay(image, ids.T)


def test_slot_strip_shows_the_mask_of_each_slot() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    masks = torch.zeros(3, 4, 4)
    masks[0] = 1
    masks[2, :, 2:] = 1
    strip = np.asarray(slot_strip(image, masks, gap=0))
    assert strip.shape == (8, 32, 3)
    tiles = strip.reshape(8, 4, 8, 3).transpose(1, 0, 2, 3)
    assert (tiles[0] == 0).all()
    assert (tiles[1] == 0).all()
    assert (tiles[2] == 255).all()
    assert (tiles[3][:, 0] == 255).all()
    assert (tiles[3][:, -1] == 0).all()
    assert (np.asarray(slot_strip(image, masks, with_image=False, gap=0)) == strip[:, 8:]).all()


def test_a_strip_of_many_slots_takes_little_memory() -> None:
    image = Image.new("RGB", (256, 256))
    masks = np.full((24, 16, 16), 1 / 24, dtype=np.float32)
    tracemalloc.start()
    slot_strip(image, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_grid_arranges_images_in_rows() -> None:
    red, blue = (Image.new("RGB", (10, 6), color) for color in ("red", "blue"))
    page = np.asarray(grid([[red, blue], [blue]], gap=2))
    assert page.shape == (14, 22, 3)
    assert (page[:6, :10] == (255, 0, 0)).all()
    assert (page[:6, 12:] == (0, 0, 255)).all()
    assert (page[8:, :10] == (0, 0, 255)).all()
    assert (page[8:, 10:] == 255).all()
    assert (page[6:8] == 255).all()


def test_grid_draws_captions() -> None:
    white = Image.new("RGB", (60, 6), "white")
    bare, titled = (
        grid([[white], [white]]),
        grid([[white], [white]], captions=["first", "second"]),
    )
    assert titled.height > bare.height
    assert (np.asarray(bare) == 255).all()
    rows = np.asarray(titled).min(axis=(1, 2)) < 100
    assert rows[: titled.height // 2].any()
    assert rows[titled.height // 2 :].any()


def test_grid_refuses_no_images_and_wrong_captions() -> None:
    with pytest.raises(ValueError, match="a grid requires at least one image"):
        grid([[], []])
    with pytest.raises(ValueError, match="1 rows require as many captions, got 2"):
        grid([[Image.new("RGB", (4, 4))]], captions=["a", "b"])


def test_curve_plots_the_numbers_of_rows() -> None:
    rows = [{"step": i, "loss": 1 / (i + 1)} for i in range(40)]
    rows += [{"step": 40, "fg_ari": 0.5}, {"step": 41, "fg_ari": None}, {"note": "resumed"}]
    figure = curve(rows, ["loss", "fg_ari"], title="run", log_scale=True)
    assert figure.size == (700, 400)
    pixels = np.asarray(figure).reshape(-1, 3)
    for color in palette(2):
        assert (pixels == color).all(axis=1).any()


def test_every_kind_of_image_has_the_same_bytes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    for image in (pixels, Image.fromarray(pixels), tensor, pixels / 255):
        assert (to_uint8(image) == pixels).all()
        assert (np.asarray(to_pil(image)) == pixels).all()
    assert (to_uint8(torch.full((3, 2, 2), 5.0)) == 255).all()


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4, 3),
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.int64),
        np.zeros((4, 4, 3), dtype=np.uint16),
    ],
)
def test_ambiguous_images_are_refused(image: torch.Tensor | np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"an image as an? (tensor|array) must be"):
        to_uint8(image)


def test_png_and_data_uri_hold_the_image() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert (np.asarray(Image.open(io.BytesIO(png_bytes(pixels)))) == pixels).all()
    head, body = data_uri(pixels).split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == png_bytes(pixels)


def test_lab_of_well_known_colors() -> None:
    expected = {
        (0, 0, 0): (0, 0, 0),
        (119, 119, 119): (50.03, 0, 0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 255, 0): (87.73, -86.18, 83.18),
        (0, 0, 255): (32.30, 79.19, -107.86),
        (255, 255, 0): (97.14, -21.55, 94.48),
    }
    lab = rgb_to_lab(np.array(list(expected), dtype=np.uint8))
    np.testing.assert_allclose(lab, list(expected.values()), atol=0.02)


def test_a_crop_is_the_square_around_the_mask() -> None:
    image = Image.new("RGB", (32, 24), "blue")
    mask = torch.zeros(24, 32)
    mask[0:10, 20:30] = 1  # at the edge, so that the square reaches beyond the image
    crop = slot_crop(image, mask, 12)
    assert crop.size == (12, 12)
    pixels = np.asarray(crop, dtype=int)
    assert abs(pixels[6, 6] - [0, 0, 255]).max() < 3
    assert pixels[0, 0].min() > 250, "a tenth of its side around it, white"
