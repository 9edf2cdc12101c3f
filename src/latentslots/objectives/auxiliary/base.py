"""What losses that are added to denoising share.

Dimensions: B batch, K slots, D slot channels, C latent channels, h w latent or token grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class NoisyLatents(NamedTuple):
    """Noisy latents, their timesteps and the regression target."""

    latents: Float[Tensor, "B C h w"]
    timesteps: Int[Tensor, " B"]
    target: Float[Tensor, "B C h w"]


@dataclass(frozen=True)
class DenoisingContext:
    """One denoising pass, as added losses see it.

    Attributes:
        batch: The batch; entries override an added loss's own draws.
        slots: The slots of its images.
        attention: Slot attention of the last iteration, sums to 1 over K.
        noisy: What the denoiser was trained on.
        dropped: True for images that were denoised without their slots; `None` where none was.
        condition: Slots to what the denoiser is conditioned on.
        error: The denoiser's error per image (Eq. 5), for other latents, conditions or denoisers.
    """

    batch: dict[str, Any]
    slots: Float[Tensor, "B K D"]
    attention: Float[Tensor, "B K h w"]
    noisy: NoisyLatents
    dropped: Bool[Tensor, " B"] | None
    condition: Callable[..., Any]
    error: Callable[..., Float[Tensor, " B"]]


class AuxiliaryLoss(ABC):
    """A loss that is added to denoising.

    It owns no weights: what learns belongs to the objective, which names it.
    """

    @abstractmethod
    def loss(self, context: DenoisingContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted term, and logs of what it is made of."""

    def begin_step(self, step: int) -> None:  # noqa: B027  (few losses have a schedule)
        """Set what changes in the course of training; `step` counts the steps taken so far."""

    def slot_noise(self, batch: dict[str, Any]) -> Float[Tensor, "B K D"] | None:
        """Return the noise that the slots must start from, if it matters here."""
        return None

    def observe(self) -> AbstractContextManager[None]:
        """Record what is needed of the denoiser while it runs."""
        return nullcontext()

    def reset(self) -> None:  # noqa: B027  (few losses keep anything)
        """Discard what was kept for a backward pass."""
