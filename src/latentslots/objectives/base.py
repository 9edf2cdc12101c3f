"""The interface between methods and the trainer.

A method is an objective (how it trains), a pipeline (how it is used) and a config with its recipe.
Training, validation, previews and caches use a method through the interface of its objective alone,
and never depend on its class.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from PIL import Image
from torch import Generator, Tensor, nn

from latentslots.fingerprint import model_fingerprint
from latentslots.models import SlotEncoder
from latentslots.objectives.preview import draw_scenes
from latentslots.pipelines import load_pipeline
from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.inference import InferenceSettings

Batch = dict[str, Any]
Logs = dict[str, Tensor]


@dataclass(frozen=True)
class FixedDraws:
    """The random draws of a validation batch, the same at every validation.

    Attributes:
        generator: The source of noise, shared by all batches in their order.
        order: Position of each image in a random order of all images, from 0 on.
        num_images: Number of validation images.
    """

    generator: Generator
    order: Int[Tensor, " B"]
    num_images: int


ValidationBatches = Iterable[tuple[Batch, FixedDraws]]


class Objective(nn.Module, ABC):
    """How a method is trained: from a batch to a loss and logs.

    Subclasses implement `forward(batch) -> (loss, logs)`, `validation_losses`, `preview` and
    `save_pipeline`, and list the names of their parts, which are attributes.

    Attributes:
        learned: Names of the parts that are trained, wholly or partly.
        frozen: Names of the parts that a checkpoint requires but does not contain.
        needs_images_to_save: Whether `on_save` needs images; without a validation split, they are
            training images.
    """

    learned: ClassVar[tuple[str, ...]]
    frozen: ClassVar[tuple[str, ...]] = ()
    needs_images_to_save: ClassVar[bool] = False

    @abstractmethod
    def validation_losses(self, batch: Batch, draws: FixedDraws) -> dict[str, Tensor]:
        """Compute the losses to average over validation images, per image `[B]` or as a mean."""

    @abstractmethod
    def preview(self, pixel_values: Tensor) -> Image.Image:
        """Draw the model's output for a few images, `[B, 3, H, W]` in [-1, 1]."""

    @abstractmethod
    def save_pipeline(self, folder: Path) -> None:
        """Write the model with its current weights as a folder that loads without the objective."""

    def to_pipeline(self) -> SlotPipeline | None:
        """Return the model as a pipeline that shares these weights; `None` without slots."""
        return None

    def validate(self, batches: ValidationBatches) -> dict[str, float]:
        """Average `validation_losses` over all images."""
        totals: dict[str, float] = {}
        count = 0
        for batch, draws in batches:
            size = len(batch["pixel_values"])
            count += size
            for name, value in self.validation_losses(batch, draws).items():
                totals[name] = totals.get(name, 0.0) + value.mean().item() * size
        return {name: total / count for name, total in totals.items()}

    def cacheable(self) -> dict[str, nn.Module]:
        """Return the frozen models whose outputs on the training images may be cached.

        Returns:
            The VAE as `latents`, the image backbone as `features`.
        """
        return {}

    def components_of(self, name: str) -> dict[str, Any]:
        """Load the parts of a trained model of this kind, by name, to start from.

        Args:
            name: A pipeline folder, a run folder, `bundled`, or a hub id.
        """
        return dict(load_pipeline(name).components)

    @property
    def has_statistics(self) -> bool:
        """Whether `measure` has statistics to compute."""
        return False

    def measure(self, pixel_values: Tensor) -> None:
        """Compute statistics of the data that are not learned; once, before the first step.

        Args:
            pixel_values: Some training images, `[B, 3, H, W]` in [-1, 1].
        """

    def adopt_statistics(self, components: dict[str, Any], name: str) -> None:
        """Take statistics of the data from the parts of a model whose weights were copied.

        Args:
            components: Its parts, by name.
            name: Its name, for messages.
        """

    def begin_step(self, step: int) -> None:
        """Update what depends on the training step; `step` counts the steps taken so far."""

    def on_save(self, batches: ValidationBatches) -> None:
        """Update what depends on the current weights, such as a scaling factor, before saving."""

    def trained(self) -> dict[str, nn.Module]:
        """Return the parts that have trainable parameters, by name, in a fixed order."""
        parts = {name: getattr(self, name) for name in self.learned}
        return {
            name: part
            for name, part in parts.items()
            if part is not None and any(p.requires_grad for p in part.parameters())
        }

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return all trainable parameters, in a fixed order."""
        parameters = [p for part in self.trained().values() for p in part.parameters()]
        return [p for p in parameters if p.requires_grad]

    def trained_state(self) -> dict[str, Tensor]:
        """Return the learned tensors, named by part."""
        state = {}
        for name, part in self.trained().items():
            frozen = _frozen(part)
            learned = {k: tensor for k, tensor in part.state_dict().items() if k not in frozen}
            state.update({f"{name}.{key}": tensor for key, tensor in learned.items()})
        return state

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Restore learned tensors; names and shapes must match exactly."""
        unknown = sorted(key for key in state if key.split(".")[0] not in self.trained())
        if unknown:
            raise ValueError(f"there is no part for the tensor {unknown[0]}")
        for name, part in self.trained().items():
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            part.load_state_dict({**_frozen(part), **own})

    def compiled(self) -> list[nn.Module]:
        """Modules to compile: trained parts, and frozen parts that every step runs through."""
        parts = [getattr(self, name) for name in self.learned]
        return [part for part in parts if part is not None]

    def frozen_hashes(self) -> dict[str, str]:
        """Return the hashes of the parts that a checkpoint requires, by name."""
        return self._frozen_hashes

    @cached_property
    def _frozen_hashes(self) -> dict[str, str]:
        parts = {name: getattr(self, name) for name in self.frozen}
        return {name: model_fingerprint(part) for name, part in parts.items() if part is not None}

    def freeze(self, *modules: nn.Module | None) -> None:
        """Exclude modules from training."""
        for module in modules:
            if module is not None:
                module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Objective":
        """Switch the mode of trained parts; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self.children():
            if not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self


def _frozen(part: nn.Module) -> dict[str, Tensor]:
    """The frozen parameters of a part."""
    return {name: p.detach() for name, p in part.named_parameters() if not p.requires_grad}


class SlotObjective(Objective):
    """A method with slots: an image backbone, slots, and a decoder that trains them.

    Attributes:
        pipeline_class: The pipeline, built from the parts of `learned` and `frozen`.
        resolution: Pixels per side of the images.
        inference: How the pipeline infers slots.
    """

    pipeline_class: ClassVar[type[SlotPipeline]]
    encoder: Any
    slot_encoder: SlotEncoder
    resolution: int
    inference: InferenceSettings

    def validation_losses(self, batch: Batch, draws: FixedDraws) -> dict[str, Tensor]:
        """Compute the loss, with fixed initial slots."""
        loss, _ = self({**batch, "slot_noise": self.fixed_slot_noise(batch, draws)})
        return {"loss": loss}

    def fixed_slot_noise(self, batch: Batch, draws: FixedDraws) -> Tensor | None:
        """Draw the noise of the initial slots; `None` where they are learned vectors."""
        if self.slot_encoder.config.slot_init != "gaussian":
            return None
        return self.slot_encoder.draw_noise(len(batch["pixel_values"]), generator=draws.generator)

    def preview(self, pixel_values: Tensor) -> Image.Image:
        """Draw images with their segmentation, reconstruction and slots."""
        return draw_scenes(self.to_pipeline(), pixel_values)

    def cacheable(self) -> dict[str, nn.Module]:
        """Return the image backbone as `features`, if it is frozen."""
        frozen = not any(p.requires_grad for p in self.encoder.parameters())
        return {"features": self.encoder} if frozen else {}

    def pipeline_options(self) -> dict[str, Any]:
        """Return the arguments of the pipeline other than its parts."""
        return {"resolution": self.resolution, "inference": self.inference}

    def to_pipeline(self) -> SlotPipeline:
        """Return the model as a pipeline that shares these weights."""
        parts = {name: getattr(self, name) for name in (*self.learned, *self.frozen)}
        return self.pipeline_class(**parts, **self.pipeline_options())

    def save_pipeline(self, folder: Path) -> None:
        """Write a pipeline folder."""
        self.to_pipeline().save_pretrained(folder)


def collapse_metrics(slots: Tensor, attention: Tensor) -> Logs:
    """Measure whether slots become copies of one another, to detect collapse early.

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
