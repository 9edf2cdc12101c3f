"""The interface of auxiliary losses, which are added to the denoising loss.

Dimensions: B batch, K slots, D slot channels, C latent channels, h w latent or token grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentslots.models.patch_decoder import PatchDecoderOutput


class NoisyLatents(NamedTuple):
    """Noisy latents, their timesteps and the regression target."""

    latents: Float[Tensor, "B C h w"]
    timesteps: Int[Tensor, " B"]
    target: Float[Tensor, "B C h w"]


@dataclass(frozen=True)
class DenoisingContext:
    """One denoising pass: the input of auxiliary losses.

    Attributes:
        batch: The batch; entries override the random draws of a loss.
        slots: The slots of its images.
        attention: Slot attention of the last iteration, sums to 1 over K.
        noisy: Noisy latents, timesteps and regression target of the pass.
        dropped: True for images that were denoised without their slots; `None` without condition
            dropout.
        condition: Computes the conditioning of the denoiser from slots.
        error: Computes the denoiser's error per image (Eq. 5), for example with other slots.
        slots_mask: True for the slots that exist; `None` where all do.
        scene: The pixels that the patch decoder decoded from the slots for the denoiser, if any.
    """

    batch: dict[str, Any]
    slots: Float[Tensor, "B K D"]
    attention: Float[Tensor, "B K h w"]
    noisy: NoisyLatents
    dropped: Bool[Tensor, " B"] | None
    condition: Callable[..., Any]
    error: Callable[..., Float[Tensor, " B"]]
    slots_mask: Bool[Tensor, "B K"] | None = None
    scene: PatchDecoderOutput | None = None


class AuxiliaryLoss(ABC):
    """A loss that is added to the denoising loss.

    It owns no weights: trained parts belong to the objective, which lists them in `learned`.
    """

    @abstractmethod
    def loss(self, context: DenoisingContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted loss, and logs of its unweighted parts."""

    def begin_step(self, step: int) -> None:  # noqa: B027  (few losses have a schedule)
        """Update what depends on the training step; `step` counts the steps taken so far."""

    def slot_noise(self, batch: dict[str, Any]) -> Float[Tensor, "B K D"] | None:
        """Return the noise of the initial slots, if this loss requires a particular one."""
        return None

    def observe(self) -> AbstractContextManager[None]:
        """Return a context in which the denoiser runs, to record what the loss needs of it."""
        return nullcontext()

    def reset(self) -> None:  # noqa: B027  (few losses keep anything)
        """Discard what was stored for a backward pass."""
