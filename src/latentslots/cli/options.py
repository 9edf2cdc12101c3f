"""Words that several commands share."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How slots are found."""

    num_slots: int | None = None
    """Slots to look for; what the pipeline says when absent."""
    merge_overlap: float | None = None
    """Slots whose masks overlap more than this become one, 0 for never; what the pipeline says when
    absent."""
    seed: int = 0
    """Seed of the slots' start, and of the noise that is painted from."""


@dataclass(frozen=True, kw_only=True)
class PaintOptions:
    """How pictures are painted."""

    sampler: str = "dpm++"
    """ddim, ddpm, dpm++, euler, euler-a, heun, unipc, or the name of a diffusers scheduler."""
    num_inference_steps: int = 25
    """Denoising steps."""
    guidance_scale: float = 1.0
    """Above 1, the slots are followed more closely than in the training pictures."""
