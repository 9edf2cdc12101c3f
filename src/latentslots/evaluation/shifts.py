"""Whether a denoiser paints an object where its slot says, or where the noisy image has it.

A denoiser that sees the image it is to paint need not be told where objects are, so that slots may
keep what an object is and lose where it is. The test: slots of an image, and noisy latents of the
same image, shifted. At low noise the denoiser must follow the latents, at high noise the slots.

Dimensions: B images, C latent channels, h w latent size, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from latentslots.evaluation.edits.moves import DISTANCE, EXACT, Moves, find_pixels, load_moves
from latentslots.evaluation.edits.pairs import generators, through_autoencoder
from latentslots.models.autoencoder import decode_latents
from latentslots.pipelines.sampling import predict_clean

LEVELS = (0.25, 0.5, 0.75, 0.9, 1.0)
"""Noise levels of the test, as shares of the schedule's timesteps."""


@dataclass(frozen=True, kw_only=True)
class ShiftReport:
    """Where objects are painted whose slots and noisy latents contradict each other.

    Attributes:
        num_images: Images with an object that can move by 12 px without leaving the image or
            touching another one.
        levels: Noise levels, as shares of the schedule's timesteps.
        follows_slots: For each level, the share of objects that are where their slots say, within
            1.5 px.
        follows_latents: The share that is where the noisy image has them.
        unmoved: Share of objects that are found at their place in the image after the autoencoder:
            the most that `follows_slots` can reach.
        moved: The same for the shifted image: the most that `follows_latents` can reach.
    """

    num_images: int
    levels: tuple[float, ...]
    follows_slots: tuple[float, ...]
    follows_latents: tuple[float, ...]
    unmoved: float
    moved: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """One row for each noise level."""
        lines = [
            f"Where an object is painted if the noisy image is shifted by {DISTANCE} px, and slots "
            f"are not ({self.num_images} images).",
            "",
            "| noise level | where its slot says | where the noisy image has it |",
            "|---|---|---|",
        ]
        rows = zip(self.levels, self.follows_slots, self.follows_latents, strict=True)
        lines += [f"| {level:g} | {slots:.3f} | {latents:.3f} |" for level, slots, latents in rows]
        lines.append(f"| autoencoder alone | {self.unmoved:.3f} | {self.moved:.3f} |")
        return "\n".join(lines) + "\n"


@torch.no_grad()
def evaluate_shifts(
    pipe: Any,
    dataset: Dataset,
    *,
    num_images: int = 256,
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[str], None] = lambda _: None,
) -> ShiftReport:
    """Denoise shifted images in one step, with the slots of the images themselves.

    Args:
        pipe: A pipeline with a denoiser and an autoencoder.
        dataset: Images with segmentations.
        num_images: At most this many of them, from the start of the data set.
        seed: Image i draws slot noise and noise with `seed` + i.
        batch_size: Images at once.
        progress: Called with the name of every stage.

    Raises:
        ValueError: If the pipeline has no denoiser or no autoencoder, or no object has room to
            move.
    """
    check_shifts(pipe, dataset, num_images=num_images)
    progress("denoising shifted images")
    results = []
    rows = range(min(num_images, len(dataset)))
    for start in range(0, len(rows), batch_size):
        moves, kept = load_moves(dataset, rows[start : start + batch_size], pipe.resolution)
        if moves is not None:
            results.append(_places(pipe, moves, [seed + row for row in kept]))
    shares = torch.cat(results).float().mean(dim=0).tolist()
    count = len(LEVELS)
    return ShiftReport(
        num_images=sum(map(len, results)),
        levels=LEVELS,
        follows_slots=tuple(shares[:count]),
        follows_latents=tuple(shares[count : 2 * count]),
        unmoved=shares[-2],
        moved=shares[-1],
    )


def check_shifts(pipe: Any, dataset: Dataset, *, num_images: int) -> None:
    """Refuse what `evaluate_shifts` cannot measure; looks for one object that can move.

    Raises:
        ValueError: See `evaluate_shifts`.
    """
    if getattr(pipe, "unet", None) is None or getattr(pipe, "vae", None) is None:
        raise ValueError(f"{type(pipe).__name__} has no denoiser with an autoencoder")
    rows = range(min(num_images, len(dataset)))
    if all(load_moves(dataset, [row], pipe.resolution)[0] is None for row in rows):
        raise ValueError(
            f"none of the objects of {len(rows)} images can move by {DISTANCE} px without leaving "
            "the image or touching another one"
        )


def _places(pipe: Any, moves: Moves, seeds: Sequence[int]) -> Float[Tensor, "B _"]:
    """For each image whether its object is at either place: at all levels, and the references."""
    scenes = pipe.encode_pixel_values(moves.images, generator=generators(seeds))
    truth, still = (moves.images + 1) / 2, torch.zeros_like(moves.way)
    shifted = shift_images(moves.images, moves.way)
    latents = pipe.encode_latents(shifted.to(pipe.device))
    noise = randn_tensor(latents.shape, generator=generators(seeds), device=latents.device)
    noise = noise.to(latents.dtype)
    by_slots, by_latents = [], []
    last = pipe.scheduler.config.num_train_timesteps - 1
    for level in LEVELS:
        clean = predict_clean(
            pipe, latents, noise, round(level * last), scenes.slots, scenes.slots_mask
        )
        painted = ((decode_latents(pipe.vae, clean).float() + 1) / 2).clamp(0, 1).cpu()
        found = find_pixels(truth, moves.mask, painted)
        by_slots.append(_near(found, still))
        by_latents.append(_near(found, moves.way))
    decoded = [through_autoencoder(pipe, images) for images in (moves.images, shifted)]
    unmoved, moved = (find_pixels(truth, moves.mask, images) for images in decoded)
    references = [_near(unmoved, still), _near(moved, moves.way)]
    return torch.stack([*by_slots, *by_latents, *references], dim=1).float()


def _near(found: Int[Tensor, "B 2"], expected: Int[Tensor, "B 2"]) -> Tensor:
    return (found - expected).float().norm(dim=1) <= EXACT


def shift_images(
    images: Float[Tensor, "B 3 H W"], way: Int[Tensor, "B 2"]
) -> Float[Tensor, "B 3 H W"]:
    """Shift each image by its way (down, right); the border is repeated."""
    height, width = images.shape[2:]
    reach = int(way.abs().max())
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    return torch.stack(
        [
            one[:, reach - down : reach - down + height, reach - right : reach - right + width]
            for one, (down, right) in zip(padded, way.tolist(), strict=True)
        ]
    )
