"""Flags that several commands share."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How slots are inferred."""

    num_slots: int | None = None
    """Slots per image; the pipeline's own number when absent."""
    merge_overlap: float | None = None
    """Merge slots whose masks overlap more than this; 0 for never; the pipeline's own value when
    absent."""
    merge_error: float | None = None
    """Merge parts of an object if one slot instead of two raises the error of the painted image by
    at most this; 0 for never; the pipeline's own value when absent."""
