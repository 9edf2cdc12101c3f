"""Conversion of a row of a data set to the tensors of a training sample."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import DECODING_ERRORS, decode, decode_ids
from latentslots.data.transforms import ResizeCenterCrop, hflip, to_ids, to_pixel_values

Sample = dict[str, Tensor]
IMAGE_COLUMNS = ("image", "segmentation", "ignore")
"""Columns that a sample is made from."""


def shared_flags(count: int) -> Tensor:
    """Create flags in memory that a process shares with its workers."""
    flags = torch.zeros(count, dtype=torch.bool)
    flags.share_memory_()  # type: ignore[no-untyped-call]  # torch gives it no type
    return flags


class SampleReader:
    """Makes `pixel_values` [3, R, R] in [-1, 1], `segmentation` [R, R], and `ignore` [R, R].

    Args:
        columns: Columns of the data set; those of `IMAGE_COLUMNS` among them are read.
        resolution: Side R of the square that every image is resized and cropped to.
    """

    def __init__(self, columns: Collection[str], resolution: int) -> None:
        self.columns = [column for column in IMAGE_COLUMNS if column in columns]
        self.crop = ResizeCenterCrop(resolution)

    def __call__(self, row: Mapping[str, Any], flip: bool, *, where: str) -> Sample:
        """Decode and transform one row.

        Args:
            row: Encoded images by column, as `{"bytes": ..., "path": ...}`.
            flip: Whether to flip them left to right.
            where: Name of the row in error messages.

        Raises:
            DataError: If an image is missing or cannot be used.
        """
        for column in ("image", "segmentation"):
            if column in self.columns and row[column] is None:
                raise DataError(f"{where} has no {column}")
        present = [column for column in self.columns if row[column] is not None]
        decoded = {
            column: (decode if column == "image" else decode_ids)(
                row[column], where=f"{where}, {column}"
            )
            for column in present
        }
        try:
            image, ids = self._transform(decoded["image"], decoded.get("segmentation"), flip)
            sample = {"pixel_values": to_pixel_values(image)}
            if ids is not None:
                sample["segmentation"] = to_ids(ids)
            if "ignore" in self.columns:
                _, ignore = self._transform(decoded["image"], decoded.get("ignore"), flip)
                all_scored = torch.zeros_like(sample["pixel_values"][0], dtype=torch.bool)
                sample["ignore"] = all_scored if ignore is None else to_ids(ignore) != 0
        except DECODING_ERRORS as error:
            raise DataError(f"{where} cannot be used: {error}") from error
        return sample

    def _transform(self, image: Image, ids: Image | None, flip: bool) -> tuple[Image, Image | None]:
        image, ids = self.crop(image, ids)
        return hflip(image, ids) if flip else (image, ids)
