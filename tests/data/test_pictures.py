"""Pictures and masks as cameras, microscopes and tools of others save them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.data import DataError, StoreWriter, load_dataset
from latentslots.data.importers.image_folder import import_folder
from latentslots.data.loading.loader import ImageDataset
from latentslots.data.store.encoding import read_ids, read_image, read_picture
from latentslots.data.store.folder import find_images
from latentslots.data.store.verify import verify
from latentslots.data.transforms import to_rgb, used_bits

GRAY = np.linspace(0, 1, 64).reshape(8, 8)
IDS = np.arange(64, dtype=np.uint8).reshape(8, 8) // 16


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


class TestDepth:
    @pytest.mark.parametrize("bits", [8, 12, 16])
    @pytest.mark.parametrize("dtype", [np.uint16, np.int32])
    def test_gray_values_are_brought_to_their_range(self, bits: int, dtype: type) -> None:
        image = Image.fromarray((GRAY * (2**bits - 1)).astype(dtype))
        assert used_bits(image) == bits
        difference = np.asarray(to_rgb(image))[..., 0] - 255 * GRAY
        assert np.abs(difference).max() <= 1

    @pytest.mark.parametrize(("bits", "warned"), [(8, True), (12, True), (16, False)])
    def test_the_file_is_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, bits: int, warned: bool
    ) -> None:
        file = tmp_path / "a.png"
        Image.fromarray((GRAY * (2**bits - 1)).astype(np.uint16)).save(file)
        read_picture(file)
        expected = f"{file} has gray values of {bits} bits in a file of 16 or more"
        assert caplog.messages == ([expected] if warned else [])

    def test_colors_of_12_bits_in_16_are_refused(self, tmp_path: Path) -> None:
        """PIL keeps the upper byte only, so that nothing is left of them."""
        file = tmp_path / "a.png"
        for value, fails in ((0x0FFF, True), (0xFFFF, False)):
            file.write_bytes(deep_png(value))
            if fails:
                with pytest.raises(DataError, match="16 bits per channel, of which no more than"):
                    read_image(file)
            else:
                assert np.asarray(read_image(file)[1]).max() == 255

    def test_floating_point_images_are_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "photos"
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "a.png")
        Image.fromarray(GRAY.astype(np.float32)).save(folder / "b.tif")
        with pytest.raises(DataError, match=r"b\.tif cannot be used: a floating-point image"):
            import_folder(folder, tmp_path / "never")
        out = import_folder(folder, tmp_path / "out", on_bad_sample="skip")
        assert len(load_dataset(out)) == 1
        assert f"{folder / 'b.tif'} cannot be used" in caplog.text

    def test_verify_converts_pictures(self, tmp_path: Path) -> None:
        with StoreWriter(tmp_path / "s", "train") as writer:
            writer.add(image=encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF"))
        (error,) = verify(tmp_path / "s")
        assert "row 0, image cannot be used: a floating-point image has no fixed range" in error


def deep_png(value: int) -> bytes:
    """A PNG of three channels of 16 bits, which PIL cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = (b"\0" + struct.pack(">H", value) * 12) * 4
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


class TestIds:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [("JPEG", {"quality": 100}), ("WEBP", {"quality": 100}), ("AVIF", {}), ("JPEG2000", {})],
    )
    def test_lossy_formats_are_refused_by_content(
        self, tmp_path: Path, kind: str, options: dict[str, Any]
    ) -> None:
        content = encoded(Image.fromarray(IDS), kind, **options)
        file = tmp_path / "ids.png"  # whatever it is named
        file.write_bytes(content)
        message = f"ids cannot be in a file of the format {kind}"
        with pytest.raises(DataError, match=message):
            read_ids(file)
        with (
            pytest.raises(DataError, match=message),
            StoreWriter(tmp_path / "s", "train", segmentation=True) as writer,
        ):
            writer.add(image=encoded(Image.fromarray(IDS), "PNG"), segmentation=content)
        images, masks = tmp_path / "images", tmp_path / "masks"
        for folder in (images, masks):
            folder.mkdir()
        Image.fromarray(IDS).save(images / "ids.png")
        (masks / "ids.png").write_bytes(content)
        with pytest.raises(DataError, match=message):
            import_folder(images, tmp_path / "never", masks=masks)
        assert main(["evaluate-masks", str(masks), str(images)]) == 2

    def test_lossless_ones_are_read(self, tmp_path: Path) -> None:
        palette = Image.fromarray(IDS)
        palette.putpalette([10, 20, 30] * 256)
        for name, image, options in (
            ("a.webp", Image.fromarray(IDS), {"lossless": True}),
            ("b.png", palette, {}),
            ("c.tif", Image.fromarray(IDS), {}),
            ("d.gif", palette, {}),
        ):
            image.save(tmp_path / name, **options)
            ids = read_ids(tmp_path / name)
            if name != "a.webp":  # which has three channels always
                assert (np.asarray(ids) == IDS).all()

    @pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG"])
    def test_files_of_several_pages_are_refused(self, tmp_path: Path, kind: str) -> None:
        pages = [Image.fromarray(IDS + page) for page in range(3)]
        file = tmp_path / "stack"
        file.write_bytes(encoded(pages[0], kind, save_all=True, append_images=pages[1:]))
        for read in (read_ids, read_image):
            with pytest.raises(DataError, match="stack has 3 pages: save each of them as a file"):
                read(file)

    def test_a_loader_refuses_them_too(self, tmp_path: Path) -> None:
        from datasets import Dataset, Features
        from datasets import Image as ImageFeature

        cells = {
            "image": [encoded(Image.fromarray(IDS), "PNG")],
            "segmentation": [encoded(Image.fromarray(IDS), "JPEG")],
        }
        rows = Dataset.from_dict(
            {name: [{"bytes": cell[0], "path": None}] for name, cell in cells.items()},
            features=Features({"image": ImageFeature(), "segmentation": ImageFeature()}),
        )
        with pytest.raises(DataError, match=r"row 0.*, segmentation: ids cannot be in a file"):
            ImageDataset(rows, 8)[0]


@pytest.mark.parametrize("suffix", [".jfif", ".avif", ".jp2", ".ppm", ".tga", ".gif", ".JPE"])
def test_formats_that_pil_reads(tmp_path: Path, suffix: str) -> None:
    kinds = {".jfif": "JPEG", ".JPE": "JPEG"}
    image = Image.new("RGB", (8, 8), (200, 30, 60))
    image.save(tmp_path / f"a{suffix}", format=kinds.get(suffix))
    assert find_images(tmp_path) == [f"a{suffix}"]
    pixels = np.asarray(read_picture(tmp_path / f"a{suffix}")[1], int)
    assert np.abs(pixels - (200, 30, 60)).max() < 12
