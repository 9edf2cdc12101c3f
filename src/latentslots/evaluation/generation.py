"""Scores of generated images: their distance to real ones, and whether their slots are found.

Dimensions: B scenes, K slots, D slot channels, N slots of a library, F features, H W pixels.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots import editing
from latentslots.config.sampling import Sampling
from latentslots.metrics.frechet import frechet_distance, kernel_distance

NUM_RANDOM_SLOTS = 100
PATCH_SIZE = 8
"""Side of the patches that are shuffled, in pixels."""


@torch.no_grad()
def compositional_consistency(
    pipe: Any,
    slots: Float[Tensor, "B K D"],
    images: Float[Tensor, "B 3 H W"],
    library: Float[Tensor, "N D"],
    *,
    slots_mask: Bool[Tensor, "B K"] | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> float:
    """Share of the slots of scenes that are found again in the images generated from them.

    Every image is encoded, and its slots are matched to those that it was generated from (by
    cosine, one to one). A slot is found if it is nearer to its match than 100 other slots drawn
    from the library. Chance is 1/101; a slot without a match is not found.

    Args:
        pipe: The pipeline.
        slots: The scenes.
        images: The images generated from them, in [0, 1].
        library: Slots to draw from.
        slots_mask: True for the slots that exist; by default all.
        seed: Seed of the draws, and of slot noise: image i draws it from seed + i.
        batch_size: Images to encode at once.
    """
    exist = torch.ones(slots.shape[:2], dtype=torch.bool) if slots_mask is None else slots_mask
    draws = Generator().manual_seed(seed)
    hits, total = 0, 0
    for start in range(0, len(slots), batch_size):
        part = range(start, min(start + batch_size, len(slots)))
        generators = [Generator().manual_seed(seed + i) for i in part]
        out = pipe.encode_pixel_values(images[part.start : part.stop] * 2 - 1, generator=generators)
        for i, predicted in enumerate(out.slots.float().cpu()):
            if out.slots_mask is not None:
                predicted = predicted[out.slots_mask[i].cpu()]
            scene = slots[start + i][exist[start + i]].float().cpu()
            partner = editing.match(scene[None], predicted[None])[0]
            others = library[torch.randint(len(library), (NUM_RANDOM_SLOTS,), generator=draws)]
            hits += _count_found(scene, predicted, partner, others)
            total += len(scene)
    return hits / total


def _count_found(scene: Tensor, predicted: Tensor, partner: Tensor, others: Tensor) -> int:
    """Count the slots of a scene that are nearer to their predicted partners than all others."""
    matched = F.normalize(predicted[partner.clamp(min=0)], dim=1)
    own = (matched * F.normalize(scene, dim=1)).sum(dim=1)
    similarity = matched @ F.normalize(others.float(), dim=1).T
    itself = (others.float()[None] == scene[:, None]).all(dim=2)
    best_other = similarity.masked_fill(itself, -torch.inf).amax(dim=1)
    return int(((own > best_other) & (partner >= 0)).sum())


@dataclass(frozen=True, kw_only=True)
class GenerationReport:
    """Distances of generated images to real ones, and the conditions of their measurement.

    Attributes:
        features: Where the features come from; only with `inception` is the distance FID.
        num_images: Images in each of the two sets.
        resolution: Pixels per side.
        sampler: Class of the sampler.
        num_inference_steps: Denoising steps.
        guidance_scale: Strength of classifier-free guidance; 1 for none.
        seed: Image i was sampled from the noise of seed + i.
        frechet: Fréchet distance to the real images.
        kernel: Kernel distance to the real images, and its deviation over subsets.
        floor: Fréchet distance between the real images and as many other real images.
        ceiling: Fréchet distance between the real images and the same images with their patches of
            8 x 8 px shuffled.
        reconstructions: Fréchet distance between the real images and their reconstructions from
            slots.
        consistency: Share of slots found again in the images; `None` where it was not measured.
    """

    features: str
    num_images: int
    resolution: int
    sampler: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    frechet: float
    kernel: tuple[float, float]
    floor: float | None
    ceiling: float
    reconstructions: float | None = None
    consistency: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The scores as a table, and below it the conditions in one line."""
        name = "FID" if self.features == "inception" else f"Fréchet distance ({self.features})"
        kernel = "KID" if self.features == "inception" else f"kernel distance ({self.features})"
        rows = [
            (name, f"{self.frechet:.3f}"),
            (f"{name}: other real images", _format_score(self.floor)),
            (f"{name}: real images from their slots", _format_score(self.reconstructions)),
            (f"{name}: real images, patches shuffled", f"{self.ceiling:.3f}"),
            (kernel, f"{self.kernel[0]:.4f} ± {self.kernel[1]:.4f}"),
        ]
        if self.consistency is not None:
            rows.append(("compositional consistency (chance 0.010)", f"{self.consistency:.3f}"))
        lines = ["| metric | score |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
        note = (
            f"{self.num_images} images at {self.resolution} px; features: {self.features}; "
            f"{self.sampler}, {self.num_inference_steps} steps, guidance {self.guidance_scale:g}, "
            f"seed {self.seed}."
        )
        return "\n".join([*lines, "", note, ""])


def _format_score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def compare_with_real(
    features: Any,
    images: Float[Tensor, "B 3 H W"],
    real: Float[Tensor, "B 3 H W"],
    other_real: Float[Tensor, "B 3 H W"] | None = None,
    *,
    reconstructions: Float[Tensor, "B 3 H W"] | None = None,
    name: str,
    sampler: str,
    sampling: Sampling,
    consistency: float | None = None,
) -> GenerationReport:
    """Measure the distance of generated images to real ones, and distances to compare it with.

    Args:
        features: Maps a batch of images `[B, 3, H, W]` in [0, 1] to features `[B, F]`.
        images: The generated images.
        real: As many real images.
        other_real: As many others, for the floor.
        reconstructions: The real images, reconstructed from their slots.
        name: Name of the features.
        sampler: Class of the sampler, for the report.
        sampling: How the images were sampled, for the report.
        consistency: Share of slots found again, for the report.

    Raises:
        ValueError: If there are more or fewer real images than generated ones.
    """
    if len(images) != len(real):
        raise ValueError(
            f"the distance depends on the number of images: for {len(images)} generated images "
            f"there must be as many real ones, got {len(real)}"
        )
    reference, generated = (extract(features, each) for each in (real, images))
    floor, reconstructed = (
        None if others is None else frechet_distance(reference, extract(features, others))
        for others in (other_real, reconstructions)
    )
    shuffled = shuffle_patches(real, generator=Generator().manual_seed(sampling.seed))
    return GenerationReport(
        features=name,
        num_images=len(images),
        resolution=images.shape[-1],
        **{**asdict(sampling), "sampler": sampler},
        frechet=frechet_distance(reference, generated),
        kernel=kernel_distance(reference, generated, seed=sampling.seed),
        floor=floor,
        reconstructions=reconstructed,
        ceiling=frechet_distance(reference, extract(features, shuffled)),
        consistency=consistency,
    )


@torch.no_grad()
def extract(
    features: Any, images: Float[Tensor, "B 3 H W"], *, batch_size: int = 64
) -> Float[Tensor, "B F"]:
    """Compute the features of images, a batch at a time; returns them on the CPU."""
    parts = torch.split(images, batch_size)
    return torch.cat([features(part).float().cpu() for part in parts])


def shuffle_patches(
    images: Float[Tensor, "B 3 H W"], *, size: int = PATCH_SIZE, generator: Generator | None = None
) -> Float[Tensor, "B 3 H W"]:
    """Shuffle the patches of every image, which preserves its colors but not its content.

    Raises:
        ValueError: If the patches do not fill the image.
    """
    height, width = images.shape[-2:]
    if height % size or width % size:
        raise ValueError(f"patches of {size} px do not fill an image of {width} x {height} pixels")
    patches = F.unfold(images, size, stride=size)
    order = torch.rand(len(images), 1, patches.shape[2], generator=generator).argsort(dim=2)
    shuffled = patches.gather(2, order.expand(-1, patches.shape[1], -1))
    return F.fold(shuffled, (height, width), size, stride=size)
