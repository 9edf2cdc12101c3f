"""From a row of a data set to the tensors of one training sample."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from PIL.Image import Image as Picture
from torch import Tensor

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import BROKEN_PICTURE, decode
from latentslots.data.transforms import ResizeCenterCrop, hflip, to_ids, to_pixel_values

Sample = dict[str, Tensor]
PICTURES = ("image", "segmentation", "ignore")
"""Columns that a sample is made of."""


def shared_flags(count: int) -> Tensor:
    """Flags that a process shares with its workers: what one of them finds out, all know."""
    flags = torch.zeros(count, dtype=torch.bool)
    flags.share_memory_()  # type: ignore[no-untyped-call]  # torch gives it no type
    return flags


class SampleReader:
    """Makes `pixel_values` [3, R, R] in [-1, 1], `segmentation` [R, R], and `ignore` [R, R].

    Args:
        columns: Columns of the data set; of its pictures those are read that it has.
        resolution: Side R of the square that is resized and cropped out of every image.
    """

    def __init__(self, columns: Collection[str], resolution: int) -> None:
        self.columns = [column for column in PICTURES if column in columns]
        self.crop = ResizeCenterCrop(resolution)

    def __call__(self, row: Mapping[str, Any], flip: bool, *, where: str) -> Sample:
        """Decode and transform one row.

        Args:
            row: Encoded pictures, as `{"bytes": ..., "path": ...}`, by column.
            flip: Whether to mirror them left to right.
            where: What the row is called in messages.

        Raises:
            DataError: If a picture is missing or cannot be used.
        """
        for column in ("image", "segmentation"):
            if column in self.columns and row[column] is None:
                raise DataError(f"{where} has no {column}")
        present = [column for column in self.columns if row[column] is not None]
        pictures = {c: decode(row[c], where=f"{where}, {c}") for c in present}
        try:
            image, ids = self._transform(pictures["image"], pictures.get("segmentation"), flip)
            sample = {"pixel_values": to_pixel_values(image)}
            if ids is not None:
                sample["segmentation"] = to_ids(ids)
            if "ignore" in self.columns:
                _, ignore = self._transform(pictures["image"], pictures.get("ignore"), flip)
                nothing = torch.zeros_like(sample["pixel_values"][0], dtype=torch.bool)
                sample["ignore"] = nothing if ignore is None else to_ids(ignore) != 0
        except BROKEN_PICTURE as error:
            raise DataError(f"{where} cannot be used: {error}") from error
        return sample

    def _transform(
        self, image: Picture, ids: Picture | None, flip: bool
    ) -> tuple[Picture, Picture | None]:
        image, ids = self.crop(image, ids)
        return hflip(image, ids) if flip else (image, ids)
