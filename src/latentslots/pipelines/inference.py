"""How a trained model infers the slots of an image."""

from dataclasses import dataclass
from typing import Any

from latentslots.models import SpriteDecoder


@dataclass(frozen=True)
class InferenceSettings:
    """How a trained model infers the slots of an image.

    Attributes:
        num_slots: How many slots to infer; 0 for as many as in training.
        merge_overlap: Slots of an image whose masks overlap more than this are merged into one
            (see `merge_slots`), from 0 (never) to below 1.
        merge_error: For models that decode sprites: parts of an object are merged if one slot
            instead of two raises the mean squared error of the painted image by at most this, in
            units of the square of the decoder's `color_scale` (see `merge_parts`); 0 for never.

    Raises:
        ValueError: If a value is out of its range, or slots are merged in both ways.
    """

    num_slots: int = 0
    merge_overlap: float = 0.0
    merge_error: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of their ranges."""
        if self.num_slots < 0:
            raise ValueError(
                f"num_slots at inference must be 0 (as in training) or above, got {self.num_slots}"
            )
        if not 0 <= self.merge_overlap < 1:
            raise ValueError(
                f"merge_overlap must be at least 0 and below 1, got {self.merge_overlap:g}"
            )
        if not 0 <= self.merge_error < float("inf"):
            raise ValueError(f"merge_error must be finite and 0 or more, got {self.merge_error:g}")
        if self.merge_overlap and self.merge_error:
            raise ValueError(
                f"slots are merged by overlap or by error, not both: got merge_overlap="
                f"{self.merge_overlap:g} and merge_error={self.merge_error:g}"
            )

    def check(self, slot_encoder: Any, patch_decoder: Any = None) -> None:
        """Refuse what a model cannot do.

        Raises:
            ValueError: If each slot starts from a learned vector of its own, and the number of
                slots is neither 0 nor that of training; or if parts shall be merged by what they
                paint, and slots decode no sprites.
        """
        if self.merge_error and not isinstance(patch_decoder, SpriteDecoder):
            raise ValueError(
                f"merge_error={self.merge_error:g} needs a model that decodes sprites "
                "(method.sprite_size); this one can merge slots by merge_overlap"
            )
        trained = slot_encoder.config.num_slots
        if slot_encoder.config.slot_init == "learned" and self.num_slots not in (0, trained):
            raise ValueError(
                f"num_slots at inference must be 0 or {trained} for slots that are initialized "
                f"with learned vectors, got {self.num_slots}"
            )
