"""Painting many scenes, and how good what was painted is.

Dimensions: B scenes, K slots, D slot channels, N random slots, H W pixels.
"""

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import diffusers
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from latentslots import editing
from latentslots.metrics.frechet import frechet_distance, kernel_distance

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
NUM_RANDOM_SLOTS = 100
PATCH_SIZE = 8
"""Of the patches that are shuffled, in pixels."""


def set_sampler(pipe: Any, name: str) -> None:
    """Let a pipeline paint with another of diffusers' samplers, on its own noise schedule.

    Args:
        pipe: The pipeline.
        name: A short name of `SAMPLERS`, or the name of a scheduler class of diffusers.

    Raises:
        ValueError: If there is no such sampler.
    """
    kind: Any = getattr(diffusers, SAMPLERS.get(name, name) or "?", None)
    try:
        known = hasattr(kind, "set_timesteps")
    except ImportError as error:  # diffusers names what a scheduler needs when it is looked at
        raise ValueError(f"{name} cannot be used here: {str(error).strip()}") from None
    if not known:
        raise ValueError(
            f"there is no sampler {name!r}; take one of {', '.join(SAMPLERS)}, or the name of a "
            "diffusers scheduler"
        )
    try:
        scheduler = kind.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    except (TypeError, NotImplementedError):  # it needs settings that no noise schedule has
        scheduler = None
    if scheduler is None or not _denoises(scheduler):
        raise ValueError(
            f"{name} is a diffusers scheduler, but none that denoises latents step by step; take "
            f"one of {', '.join(SAMPLERS)}"
        )
    pipe.scheduler = scheduler


def _denoises(scheduler: Any) -> bool:
    """Whether a scheduler needs no more than the denoiser's answer, and can start anywhere."""
    if not all(hasattr(scheduler, name) for name in ("init_noise_sigma", "add_noise", "step")):
        return False
    parameters = inspect.signature(scheduler.step).parameters.values()
    needed = [
        one.name for one in parameters if one.default is one.empty and one.kind < one.VAR_POSITIONAL
    ]
    return needed == ["model_output", "timestep", "sample"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How scenes are painted.

    Attributes:
        guidance_scale: Above 1, the slots are followed more closely than in the data.
        num_inference_steps: Denoising steps.
        seed: Scene i starts from the noise of seed + i.
    """

    guidance_scale: float = 1.0
    num_inference_steps: int = 25
    seed: int = 0


@torch.no_grad()
def paint(
    pipe: Any,
    slots: Float[Tensor, "B K D"],
    slots_mask: Bool[Tensor, "B K"] | None = None,
    *,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> Float[Tensor, "B 3 H W"]:
    """Paint scenes, many at once; the batch size changes no picture.

    Args:
        pipe: Paints them.
        slots: The scenes.
        slots_mask: True for the slots that exist; by default all.
        sampling: How.
        seeds: Of each scene's noise, in the place of those that `sampling` gives.
        batch_size: Scenes to paint at once.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Pixels in [0, 1], on the CPU.
    """
    sampling = sampling or Sampling()
    seeds = range(sampling.seed, sampling.seed + len(slots)) if seeds is None else seeds
    pictures = []
    pipe.set_progress_bar_config(disable=True)
    with tqdm(total=len(slots), disable=not progress, unit="image") as bar:
        for start in range(0, len(slots), batch_size):
            part = slice(start, start + batch_size)
            (images,) = pipe(
                slots[part],
                slots_mask=None if slots_mask is None else slots_mask[part],
                guidance_scale=sampling.guidance_scale,
                num_inference_steps=sampling.num_inference_steps,
                generator=[Generator().manual_seed(seed) for seed in seeds[part]],
                output_type="pt",
                return_dict=False,
            )
            pictures.append(images.float().cpu())
            bar.update(len(images))
    return torch.cat(pictures)


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
    """Whether what was asked for is in the picture: the slots found in it again.

    The slots of every painted image are matched to those that it was painted from (by cosine, one
    to one). Counted is how often a slot that was asked for is nearer to its match than 100 slots
    drawn from the library, itself not among them. Chance is 1/101; a slot without a match does not
    count as found.

    Args:
        pipe: Finds the slots.
        slots: What was asked for.
        images: What was painted from it, in [0, 1].
        library: Slots to draw from.
        slots_mask: True for the slots that exist; by default all.
        seed: Of the slot noise, image i of seed + i, and of the draws.
        batch_size: Images to encode at once.
    """
    exist = torch.ones(slots.shape[:2], dtype=torch.bool) if slots_mask is None else slots_mask
    draws = Generator().manual_seed(seed)
    hits, total = 0, 0
    for start in range(0, len(slots), batch_size):
        part = range(start, min(start + batch_size, len(slots)))
        generators = [Generator().manual_seed(seed + i) for i in part]
        found = pipe.encode_pixel_values(
            images[part.start : part.stop] * 2 - 1, generator=generators
        )
        for i, scene in zip(part, found.slots.float().cpu(), strict=True):
            there = scene
            if found.slots_mask is not None:
                there = scene[found.slots_mask[i - start].cpu()]
            asked = slots[i][exist[i]].float().cpu()
            partner = editing.match(asked[None], there[None])[0]
            others = library[torch.randint(len(library), (NUM_RANDOM_SLOTS,), generator=draws)]
            hits += _nearest(asked, there, partner, others)
            total += len(asked)
    return hits / total


def _nearest(asked: Tensor, there: Tensor, partner: Tensor, others: Tensor) -> int:
    """How many slots are nearest to their partners, of themselves and the others."""
    matched = F.normalize(there[partner.clamp(min=0)], dim=1)
    own = (matched * F.normalize(asked, dim=1)).sum(dim=1)
    similarity = matched @ F.normalize(others.float(), dim=1).T
    itself = (others.float()[None] == asked[:, None]).all(dim=2)
    best_other = similarity.masked_fill(itself, -torch.inf).amax(dim=1)
    return int(((own > best_other) & (partner >= 0)).sum())


@dataclass(frozen=True, kw_only=True)
class GenerationReport:
    """How far painted images are from real ones, with all that one must know to compare.

    Attributes:
        features: Where the features come from; only with `inception` is the distance FID.
        num_images: Images in each of the two sets.
        resolution: Their side, in pixels.
        sampler: Class of the sampler.
        num_inference_steps: Its steps.
        guidance_scale: Of classifier-free guidance; 1 for none.
        seed: Image i was painted from the noise of seed + i.
        frechet: Fréchet distance to the real images.
        kernel: Kernel distance to them, and its deviation over subsets.
        floor: Fréchet distance of as many other real images to them.
        ceiling: Fréchet distance of the real images with their 8 x 8 px patches shuffled to them.
        reconstructions: Fréchet distance of the real images, painted from their own slots, to them.
        consistency: Share of slots found again in the image; `None` where it was not asked for.
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
        """The numbers as a table, and below it one line that says how they were computed."""
        name = "FID" if self.features == "inception" else f"Fréchet distance ({self.features})"
        kernel = "KID" if self.features == "inception" else f"kernel distance ({self.features})"
        rows = [
            (name, f"{self.frechet:.3f}"),
            (f"{name}: other real images", _shown(self.floor)),
            (f"{name}: real images from their slots", _shown(self.reconstructions)),
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


def _shown(value: float | None) -> str:
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
    """Measure painted images against real ones, and both natural ends beside them.

    Args:
        features: From images `[B, 3, H, W]` in [0, 1] to `[B, F]`, a batch at a time.
        images: What was painted.
        real: As many real images.
        other_real: As many others, for the floor.
        reconstructions: The real images, painted from their own slots.
        name: What the features are called.
        sampler: Class of the sampler, for the report.
        sampling: How the images were painted, for the report.
        consistency: Share of slots found again, for the report.
    """
    if len(images) != len(real):
        raise ValueError(
            f"the distance depends on how many images there are: {len(images)} were painted, so "
            f"there must be as many real ones, got {len(real)}"
        )
    reference, painted = (extract(features, each) for each in (real, images))
    floor, again = (
        None if others is None else frechet_distance(reference, extract(features, others))
        for others in (other_real, reconstructions)
    )
    shuffled = shuffle_patches(real, generator=Generator().manual_seed(sampling.seed))
    return GenerationReport(
        features=name,
        num_images=len(images),
        resolution=images.shape[-1],
        sampler=sampler,
        **asdict(sampling),
        frechet=frechet_distance(reference, painted),
        kernel=kernel_distance(reference, painted, seed=sampling.seed),
        floor=floor,
        reconstructions=again,
        ceiling=frechet_distance(reference, extract(features, shuffled)),
        consistency=consistency,
    )


@torch.no_grad()
def extract(
    features: Any, images: Float[Tensor, "B 3 H W"], *, batch_size: int = 64
) -> Float[Tensor, "B F"]:
    """Features of images, a batch at a time, on the CPU."""
    parts = torch.split(images, batch_size)
    return torch.cat([features(part).float().cpu() for part in parts])


def shuffle_patches(
    images: Float[Tensor, "B 3 H W"], *, size: int = PATCH_SIZE, generator: Generator | None = None
) -> Float[Tensor, "B 3 H W"]:
    """Every image with its patches in another order: right in color, and nothing else.

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
