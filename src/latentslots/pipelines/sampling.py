"""Sampling many images from slots, with any of diffusers' samplers.

Dimensions: B scenes, K slots, D slot channels, H W pixels.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from tqdm.auto import tqdm

from latentslots.config.sampling import Sampling
from latentslots.pipelines.slot_layout import place_slots

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Short names of diffusers' schedulers."""


def default_sampler(noise_schedule: Any) -> diffusers.DPMSolverMultistepScheduler:
    """Build DPM-Solver++ 2M on a model's own noise schedule.

    Trailing spacing, so that sampling starts at the last timestep, where it starts from pure noise
    (Lin et al., 2024, https://arxiv.org/abs/2305.08891).
    """
    # The whole config is copied: a sampler that replaces this one reads `clip_sample` from it.
    return diffusers.DPMSolverMultistepScheduler.from_config(
        noise_schedule.config, timestep_spacing="trailing"
    )


@torch.no_grad()
def predict_clean(
    pipe: Any,
    latents: Float[Tensor, "B C h w"],
    noise: Float[Tensor, "B C h w"],
    timestep: int,
    slots: Float[Tensor, "B K D"],
    slots_mask: Bool[Tensor, "B K"] | None = None,
) -> Float[Tensor, "B C h w"]:
    """Predict latents in one step from noisy ones: what the denoiser expects at that noise level.

    Args:
        pipe: A pipeline with a denoiser.
        latents: Clean latents.
        noise: The noise that is added to them.
        timestep: The noise level, from 0 to below the schedule's number of timesteps.
        slots: The scenes.
        slots_mask: True for the slots that exist; by default all.
    """
    schedule = diffusers.DDIMScheduler.from_config(
        pipe.scheduler.config, clip_sample=False, thresholding=False
    )
    schedule.set_timesteps(schedule.config.num_train_timesteps)
    levels = torch.full((len(latents),), timestep, device=latents.device)
    noisy = schedule.add_noise(latents, noise, levels)
    states, mask = pipe.slot_encoder.condition(slots, slots_mask)
    places = place_slots(pipe.unet, pipe.patch_decoder, slots, slots_mask, latents.shape[2:])
    prediction = pipe.unet(noisy, levels, states, mask, *places.inputs).sample
    return schedule.step(prediction, timestep, noisy).pred_original_sample


def use_sampling(pipe: Any, sampling: Sampling) -> None:
    """Check how images are to be sampled, and set the pipeline's sampler.

    Raises:
        ValueError: If a number is out of its range, or the sampler does not exist.
    """
    sampling.check()
    set_sampler(pipe, sampling.sampler)


def set_sampler(pipe: Any, name: str) -> None:
    """Replace a pipeline's scheduler by another of diffusers', with the same noise schedule.

    Args:
        pipe: The pipeline.
        name: A short name of `SAMPLERS`, or the name of a scheduler class of diffusers.

    Raises:
        ValueError: If there is no such sampler.
    """
    kind: Any = getattr(diffusers, SAMPLERS.get(name, name) or "?", None)
    try:
        is_scheduler = hasattr(kind, "set_timesteps")
    except ImportError as error:  # diffusers checks requirements when an attribute is read
        raise ValueError(f"{name} cannot be used here: {str(error).strip()}") from None
    if not is_scheduler:
        raise ValueError(
            f"there is no sampler {name!r}; use one of {', '.join(SAMPLERS)}, or the name of a "
            "diffusers scheduler"
        )
    try:
        scheduler = kind.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    except (TypeError, NotImplementedError):  # it needs settings that no noise schedule has
        scheduler = None
    if scheduler is None or not _denoises(scheduler):
        raise ValueError(
            f"{name} is a diffusers scheduler, but none that denoises latents step by step; use "
            f"one of {', '.join(SAMPLERS)}"
        )
    pipe.scheduler = scheduler


def _denoises(scheduler: Any) -> bool:
    """Whether a scheduler samples step by step from the model's output alone."""
    if not all(hasattr(scheduler, name) for name in ("init_noise_sigma", "add_noise", "step")):
        return False
    parameters = inspect.signature(scheduler.step).parameters.values()
    required = [
        one.name for one in parameters if one.default is one.empty and one.kind < one.VAR_POSITIONAL
    ]
    return required == ["model_output", "timestep", "sample"]


@torch.no_grad()
def sample_images(
    pipe: Any,
    slots: Float[Tensor, "B K D"],
    slots_mask: Bool[Tensor, "B K"] | None = None,
    *,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> Float[Tensor, "B 3 H W"]:
    """Sample an image of each scene. The batch size changes images by rounding only.

    Args:
        pipe: The pipeline; it keeps the sampler.
        slots: The scenes.
        slots_mask: True for the slots that exist; by default all.
        sampling: How images are sampled; by default as `Sampling()`. Scene i starts from the noise
            of `seed` + i.
        seeds: The seed of each scene's noise instead.
        batch_size: Scenes at once.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Pixels in [0, 1], on the CPU.
    """
    sampling = sampling or Sampling()
    use_sampling(pipe, sampling)
    pipe.set_progress_bar_config(disable=True)
    seeds = range(sampling.seed, sampling.seed + len(slots)) if seeds is None else seeds
    sampled = []
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
            sampled.append(images.float().cpu())
            bar.update(len(images))
    return torch.cat(sampled)
