"""DDIM backwards: from an image's latents to the noise that it is sampled from.

Song et al., 2021 (https://arxiv.org/abs/2010.02502, Sec. 4.3).

Dimensions: B batch, C latent channels, h w latent rows and columns.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def invert_latents(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Float[Tensor, "B C h w"],
    scheduler: Any,
    *,
    num_steps: int,
    progress_bar: Callable[[Tensor], Any] = iter,
) -> Float[Tensor, "B C h w"]:
    """Invert latents step by step, each step the exact inverse of a DDIM step.

    A DDIM step computes the latents of a lower noise level l from those of a higher one h and the
    denoiser's prediction there. Its inverse needs the prediction at the latents that it computes;
    they are approximated by those of the lower level, with the timestep of the higher one.

    Args:
        predict: The denoiser: latents and timestep to its prediction.
        latents: The image.
        scheduler: A diffusers scheduler; its noise schedule and `prediction_type` count.
        num_steps: Steps to the noise, with trailing timesteps.
        progress_bar: Wraps the timesteps.

    Raises:
        ValueError: If `num_steps` is not between 1 and the number of training timesteps, or the
            denoiser predicts neither noise nor velocity.
    """
    length = scheduler.config.num_train_timesteps
    if not 1 <= num_steps <= length:
        raise ValueError(f"num_inference_steps must be from 1 to {length}, got {num_steps}")
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"only predictions of noise or velocity can be inverted, got {kind!r}")
    timesteps = (torch.arange(1, num_steps + 1) * length / num_steps).round().long() - 1
    low = torch.ones(())
    for timestep in progress_bar(timesteps.to(latents.device)):
        high = scheduler.alphas_cumprod[timestep.cpu()].cpu()
        prediction = predict(latents, timestep)
        latents = inverse_ddim_step(prediction, latents, low=low, high=high, kind=kind)
        low = high
    return latents


def inverse_ddim_step(
    prediction: Float[Tensor, "B C h w"],
    latents: Float[Tensor, "B C h w"],
    *,
    low: Float[Tensor, ""],
    high: Float[Tensor, ""],
    kind: str,
) -> Float[Tensor, "B C h w"]:
    """Compute latents of a higher noise level, from which a DDIM step leads to these.

    Args:
        prediction: The denoiser's, at the higher level.
        latents: Of the lower level.
        low: Cumulative product of alphas at the lower level, 1 without noise.
        high: That at the higher level.
        kind: `epsilon` or `v_prediction` (Salimans and Ho, 2022, https://arxiv.org/abs/2202.00512).
    """
    alpha_low, alpha_high = low.sqrt().item(), high.sqrt().item()
    sigma_low, sigma_high = (1 - low).sqrt().item(), (1 - high).sqrt().item()
    if kind == "epsilon":
        image = (latents - sigma_low * prediction) / alpha_low
        return alpha_high * image + sigma_high * prediction
    # With velocity, a DDIM step rotates latents by the angle between the two levels.
    cos = alpha_low * alpha_high + sigma_low * sigma_high
    sin = sigma_high * alpha_low - alpha_high * sigma_low
    return (latents + sin * prediction) / cos
