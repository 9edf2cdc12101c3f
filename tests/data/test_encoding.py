from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.data import DataError
from latentslots.data.store.encoding import decode, encode_ids, encode_image, read_image

from .conftest import noise_image, truncate


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "1", "LA"])
def test_images_of_any_mode_are_stored_as_rgb(mode: str) -> None:
    encoded = encode_image(Image.new(mode, (5, 4)))
    assert decode({"bytes": encoded, "path": None}, where="it").mode == "RGB"


def test_encoded_bytes_are_returned_unchanged() -> None:
    for content in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert encode_image(content) == encode_ids(content) == b"x"


def test_ids_of_a_palette_image_are_its_indices() -> None:
    palette = Image.new("P", (5, 4), 7)
    palette.putpalette([0] * 768)
    encoded = encode_ids(palette)
    assert (np.asarray(decode({"bytes": encoded, "path": None}, where="it")) == 7).all()


def test_an_empty_cell_is_named() -> None:
    with pytest.raises(DataError, match="row 4 holds no image"):
        decode({"bytes": None, "path": None}, where="row 4")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_truncated_files_of_every_format_are_detected(
    tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    noise_image(path, size=64)
    encoded, image = read_image(path)
    assert image.size == (64, 64)
    assert encoded == path.read_bytes()
    truncate(path, share)
    with pytest.raises(DataError, match=rf"a\.{suffix} cannot be decoded"):
        read_image(path)
