"""The one pipeline of an editing session, which several threads use in turn.

Dimensions: K slots, D slot channels, h w the square that the model sees.
"""

import threading
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

from latentslots.config.sampling import Sampling
from latentslots.pipelines.edit import edit_pixels
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import set_sampler
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.workflows.edit import Editor
from latentslots.workflows.edit_state import EditState
from latentslots.workflows.jobs import Progress


class Painter:
    """Paints edits and scenes, one at a time.

    Args:
        pipe: Any slot pipeline.

    Attributes:
        lock: Held by whoever uses the pipeline.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.lock = pipe, threading.Lock()

    @property
    def can_edit(self) -> bool:
        """Whether the pipeline paints edited pictures."""
        return isinstance(self.pipe, LatentSlotDiffusionPipeline) and self.pipe.vae is not None

    def check(self) -> None:
        """Refuse to paint with a pipeline that cannot.

        Raises:
            ValueError: If it cannot.
        """
        if not self.can_edit:
            raise ValueError("this model finds things in pictures, but cannot paint them")

    def edit(
        self, editor: Editor, edit: SlotEdit, state: EditState, progress: Progress
    ) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 1 h w"]]:
        """Paint an edit in the square that the model sees; see `edit_pixels`.

        Args:
            editor: The picture with its slots.
            edit: The edit of its slots.
            state: How it is painted.
            progress: Called after every step; what it raises ends painting.
        """
        sampling = state.sampling
        with self.lock:
            set_sampler(self.pipe, sampling.sampler)
            return edit_pixels(
                self.pipe,
                editor.pixel_values,
                edit,
                inversion=state.invert,
                blending=True,
                paste=True,
                margin=1,
                generator=Generator().manual_seed(state.noise_seed),
                guidance_scale=sampling.guidance_scale,
                num_inference_steps=sampling.num_inference_steps,
                callback_on_step_end=_after_steps(progress, sampling.num_inference_steps),
            )

    def scene(
        self,
        slots: Float[Tensor, "1 K D"],
        sampling: Sampling,
        seed: int,
        progress: Progress,
    ) -> Image.Image:
        """Paint a picture from slots alone, from the noise of a seed."""
        with self.lock:
            set_sampler(self.pipe, sampling.sampler)
            image: Image.Image = self.pipe(
                slots,
                guidance_scale=sampling.guidance_scale,
                num_inference_steps=sampling.num_inference_steps,
                generator=Generator().manual_seed(seed),
                callback_on_step_end=_after_steps(progress, sampling.num_inference_steps),
            ).images[0]
        return image


def _after_steps(progress: Progress, total: int) -> Callable[..., dict[str, Any]]:
    """Report progress after each step of sampling."""

    def on_step(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        del pipe, timestep
        progress(step + 1, total)
        return values

    return on_step
