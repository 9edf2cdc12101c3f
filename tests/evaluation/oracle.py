"""A pipeline that predicts the true masks of known images, to test evaluations of edits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from latentslots.evaluation.edits.pairs import METHODS
from latentslots.pipelines import LatentSlotDiffusionPipeline, SlotOutput


class Oracle(LatentSlotDiffusionPipeline):
    """In known images, slot 1 is the object and slot 0 the rest; in others slot 0 is everything.

    Attributes:
        truth: The objects' masks, by image.
        edited: The images of all edits, one by one.
    """

    truth: dict[bytes, Tensor]
    edited: list[Tensor]

    def encode_pixel_values(self, pixel_values: Tensor, **options: Any) -> SlotOutput:
        slots = super().encode_pixel_values(pixel_values, **options).slots
        masks = torch.zeros(len(pixel_values), slots.shape[1], 32, 32)
        masks[:, 0] = 1
        for i, image in enumerate(pixel_values):
            owned = self.truth.get(key(image))
            if owned is not None:
                masks[i, 0], masks[i, 1] = (~owned).float(), owned.float()
        return SlotOutput(slots=slots, masks=masks)

    def edit(self, images: Any, edit: Any, **options: Any) -> Any:
        out = super().edit(images, edit, **options)
        self.edited += list(out.images)
        return out


def key(image: Tensor) -> bytes:
    return (image * 127).round().to(torch.int8).numpy().tobytes()


def keep_methods(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Apply edits in these ways only."""
    for name in METHODS.keys() - set(names):
        monkeypatch.delitem(METHODS, name)
