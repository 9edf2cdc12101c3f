"""What the trainer knows about a method."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentslots.models import SlotEncoder
from latentslots.pipelines.base import SlotPipeline

Batch = dict[str, Any]
Logs = dict[str, Tensor]


class Objective(nn.Module, ABC):
    """A method as the trainer sees it: batch in, loss and logs out.

    Subclasses implement `forward(batch) -> (loss, logs)`, `trained` and `save_pipeline`.
    """

    @abstractmethod
    def trained(self) -> dict[str, nn.Module]:
        """The parts that learn, by name, all of them or in part; everything else is frozen."""

    @abstractmethod
    def save_pipeline(self, folder: Path) -> None:
        """Write the model, as it is now, as a folder that loads without this objective."""

    @property
    def measures(self) -> bool:
        """Whether there is anything to `measure`."""
        return False

    def measure(self, pixel_values: Tensor) -> None:
        """Set what is measured on the images rather than learned; once, before the first step.

        Args:
            pixel_values: Some training images, `[B, 3, H, W]` in [-1, 1].
        """

    def begin_step(self, step: int) -> None:
        """Set what changes in the course of training.

        Args:
            step: Steps taken so far.
        """

    def trained_parameters(self) -> list[nn.Parameter]:
        """All parameters that learn, in a fixed order."""
        parameters = [p for part in self.trained().values() for p in part.parameters()]
        return [p for p in parameters if p.requires_grad]

    def trained_state(self) -> dict[str, Tensor]:
        """The learned tensors, named by part."""
        state = {}
        for name, part in self.trained().items():
            frozen = _frozen(part)
            learned = {k: tensor for k, tensor in part.state_dict().items() if k not in frozen}
            state.update({f"{name}.{key}": tensor for key, tensor in learned.items()})
        return state

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put learned tensors back; names and shapes must match exactly."""
        unknown = sorted(key for key in state if key.split(".")[0] not in self.trained())
        if unknown:
            raise ValueError(f"there is no part for the tensor {unknown[0]}")
        for name, part in self.trained().items():
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            part.load_state_dict({**_frozen(part), **own})

    def compiled(self) -> list[nn.Module]:
        """The parts that `torch.compile` is for: those that learn, and those that are asked."""
        return list(self.trained().values())

    def frozen_hashes(self) -> dict[str, str]:
        """Hashes of the pretrained parts that a checkpoint supposes and does not hold, by name."""
        return {}

    def freeze(self, *modules: nn.Module | None) -> None:
        """Take modules out of learning."""
        for module in modules:
            if module is not None:
                module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Objective":
        """Switch what learns; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self.children():
            if not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self


def _frozen(part: nn.Module) -> dict[str, Tensor]:
    """What of a part does not learn."""
    return {name: p.detach() for name, p in part.named_parameters() if not p.requires_grad}


class SlotObjective(Objective):
    """A method that finds slots: an image backbone, slots, and something that needs them."""

    encoder: Any
    slot_encoder: SlotEncoder

    @abstractmethod
    def to_pipeline(self) -> SlotPipeline:
        """The model as a pipeline that shares these weights."""

    def save_pipeline(self, folder: Path) -> None:
        """Write a pipeline folder."""
        self.to_pipeline().save_pretrained(folder)


def collapse_alarms(slots: Tensor, attention: Tensor) -> Logs:
    """Two numbers that tell early when slots stop being different things.

    Args:
        slots: `[B, K, D]`.
        attention: `[B, K, N]`, sums to 1 over K.

    Returns:
        `slot_cosine`: the mean cosine between two slots of an image; near 1 when all are the same.
        `effective_slots`: exp of the entropy of the slots' shares of the image, in [1, K]; K when
        all share equally, 1 when one takes everything.
    """
    with torch.no_grad():
        unit = nn.functional.normalize(slots.float(), dim=2)
        num_slots = slots.shape[1]
        total = (unit.sum(dim=1).square().sum(dim=1) - num_slots).mean()
        share = attention.float().mean(dim=2)
        entropy = -(share * share.clamp(min=1e-12).log()).sum(dim=1)
        return {
            "slot_cosine": total / max(num_slots * (num_slots - 1), 1),
            "effective_slots": entropy.exp().mean(),
        }
