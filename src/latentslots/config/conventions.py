"""Choices of an evaluation that metrics, evaluation and cli share, and files that it reads."""

from typing import Literal, get_args

Convention = Literal["iou", "lsd", "with-background"]
"""How mIoU and mBO are computed, see `latentslots.metrics.overlap`."""

CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

ScoringSize = int | Literal["native"]
"""Shortest side of the compared masks, in pixels; `native` for the size of each ground truth."""

SEGMENTED = "ids.png"
"""In the folder of an image that `latentslots segment` wrote: the slot of every pixel."""

UNSEEN = 255
"""Id, in such a file, of pixels outside of what the model sees."""


def check_convention(name: str) -> Convention:
    """Refuse an unknown convention.

    Raises:
        ValueError: If there is no such convention; the message lists those that exist.
    """
    for convention in CONVENTIONS:
        if convention == name:
            return convention
    raise ValueError(f"convention must be one of {CONVENTIONS}, got {name!r}")
