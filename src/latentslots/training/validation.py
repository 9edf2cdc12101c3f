"""How good the model is, on a fixed subset of images, every so often."""

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from latentslots.data.loading.loader import ImageDataset
from latentslots.evaluation.segmentation import evaluate
from latentslots.metrics.reconstruction import psnr, ssim
from latentslots.objectives import (
    AutoencoderObjective,
    LatentSlotDiffusionObjective,
    Objective,
    SlotObjective,
)

BATCH_SIZE = 32


def fixed_subset(dataset: Dataset, num_images: int) -> Dataset:
    """Rows spread evenly over a data set, the same at every call."""
    num_images = min(num_images, len(dataset))
    return dataset.select([i * len(dataset) // num_images for i in range(num_images)])


def good_rows(dataset: Dataset, resolution: int) -> Dataset:
    """The rows whose pictures can be used.

    Raises:
        DataError: If there are none.
    """
    images = ImageDataset(dataset, resolution, on_bad_sample="skip")
    for row in range(len(images)):
        images[row]
    bad = set(images.bad_rows)
    return dataset.select([row for row in range(len(images)) if row not in bad]) if bad else dataset


class Validator:
    """Measures an objective on the same images, with the same noise, every time.

    Every process computes all of the loss and its share of the segmentation scores.

    Args:
        dataset: The validation split; `None` where there is none, and nothing is measured.
        resolution: Pixels per side.
        num_images: Size of the subset.
        on_bad_sample: Whether an image that cannot be used is an `error`, or left out (`skip`).
    """

    def __init__(
        self,
        dataset: Dataset | None,
        *,
        resolution: int,
        num_images: int,
        on_bad_sample: str = "error",
    ) -> None:
        self.resolution = resolution
        self.dataset = None
        if dataset is not None:
            self.dataset = fixed_subset(dataset, num_images)
            if on_bad_sample == "skip":
                self.dataset = good_rows(self.dataset, resolution)

    def __call__(self, objective: Objective, device: torch.device) -> dict[str, float]:
        """The loss, and what the method is measured by.

        Slots: the loss; FG-ARI, ARI, mIoU and mBO (convention `iou`, over objects) where the images
        have a segmentation. Latent Slot Diffusion: the denoiser's loss; also from the mean of each
        image's slots, which is as low where slots are copies of one code of the whole image, and
        from no slots at all, where that was learned. Autoencoder: PSNR and SSIM, and its scaling
        factor is set.
        """
        if self.dataset is None:
            return {}
        if isinstance(objective, AutoencoderObjective):
            return self._autoencoder(objective, device)
        assert isinstance(objective, SlotObjective)
        values = {"loss": self._loss(objective, device)}
        if isinstance(objective, LatentSlotDiffusionObjective):
            values["loss_average_slot"] = self._loss(objective, device, average_slots=True)
            if objective.condition_dropout > 0:
                values["loss_no_slots"] = self._loss(objective, device, dropped=True)
        if "segmentation" in self.dataset.column_names:
            report = evaluate(objective.to_pipeline(), self.dataset, progress=False)
            for name in ("fg_ari", "ari", "miou_objects", "mbo_objects"):
                values[name] = getattr(report, name)
        return values

    def _batches(self, device: torch.device) -> Iterator[dict[str, Any]]:
        assert self.dataset is not None
        images = ImageDataset(self.dataset.select_columns(["image"]), self.resolution)
        for start in range(0, len(images), BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, len(images)))
            pixels = torch.stack([images[row]["pixel_values"] for row in rows])
            yield {"pixel_values": pixels.to(device)}

    @torch.no_grad()
    def _loss(
        self,
        objective: SlotObjective,
        device: torch.device,
        *,
        average_slots: bool = False,
        dropped: bool = False,
    ) -> float:
        """The loss, of a denoiser its own, with the same draws every time.

        Nobody is dropped by chance, and timesteps are spread evenly.
        """
        draws = torch.Generator().manual_seed(0)

        total, count = 0.0, 0
        assert self.dataset is not None
        timesteps = torch.randperm(len(self.dataset), generator=draws)
        for batch in self._batches(device):
            size = len(batch["pixel_values"])
            if isinstance(objective, LatentSlotDiffusionObjective):
                latents = objective.latents(batch, generator=draws)
                batch["latents"] = latents
                batch["noise"] = torch.randn(latents.shape, generator=draws).to(latents)
                steps = objective.noise_schedule.config.num_train_timesteps
                spread = torch.linspace(0, steps - 1, len(self.dataset)).long()
                batch["timesteps"] = spread[timesteps[count : count + size]].to(device)
                batch["average_slots"] = average_slots
                batch["dropped"] = torch.full((size,), dropped, device=device)
            if objective.slot_encoder.config.slot_init == "gaussian":
                noise = objective.slot_encoder.draw_noise(size, generator=draws)
                batch["slot_noise"] = noise
            loss, logs = objective(batch)
            loss = logs.get("denoising_loss", loss)
            total, count = total + loss.item() * size, count + size
        return total / count

    @torch.no_grad()
    def set_latent_scale(self, objective: Objective, device: torch.device) -> None:
        """Set an autoencoder's scaling factor, which belongs to its weights as they are.

        Others than autoencoders have none.
        """
        if isinstance(objective, AutoencoderObjective) and self.dataset is not None:
            pixels = (batch["pixel_values"] for batch in self._batches(device))
            moments = [_moments(objective.vae.encode(each).latent_dist) for each in pixels]
            objective.set_scaling_factor(_deviation(moments))

    @torch.no_grad()
    def _autoencoder(
        self, objective: AutoencoderObjective, device: torch.device
    ) -> dict[str, float]:
        vae = objective.vae
        psnrs, ssims, moments = [], [], []
        for batch in self._batches(device):
            pixels = batch["pixel_values"]
            posterior = vae.encode(pixels).latent_dist
            painted = (vae.decode(posterior.mean).sample.clamp(-1, 1) + 1) / 2
            psnrs.append(psnr(painted, (pixels + 1) / 2))
            ssims.append(ssim(painted, (pixels + 1) / 2))
            moments.append(_moments(posterior))
        latent_std = _deviation(moments)
        objective.set_scaling_factor(latent_std)
        return {
            "psnr": torch.cat(psnrs).mean().item(),
            "ssim": torch.cat(ssims).mean().item(),
            "latent_std": latent_std,
        }


def _moments(posterior: Any) -> Tensor:
    """Sum, sum of squares and number of the latents; of samples, whose variance counts too."""
    mean, var = posterior.mean.double(), posterior.var.double()
    count = mean.new_tensor(mean.numel())
    return torch.stack([mean.sum(), (mean.square() + var).sum(), count]).cpu()


def _deviation(moments: list[Tensor]) -> float:
    first, second, count = torch.stack(moments).sum(dim=0).tolist()
    return float((second / count - (first / count) ** 2) ** 0.5)
