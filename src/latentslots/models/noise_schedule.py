"""The noise schedule of Latent Slot Diffusion (Jiang et al., 2023)."""

from diffusers import DDPMScheduler


def official_schedule(prediction_type: str = "epsilon") -> DDPMScheduler:
    """Return the noise schedule of the official configuration, `configs/movi-e/scheduler`.

    Differs from it in `steps_offset` (0, not 1), which has no effect on training, nor on samplers
    with trailing timestep spacing.

    Args:
        prediction_type: The regression target, `epsilon` (officially) or `v_prediction`.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        variance_type="fixed_small",
        prediction_type=prediction_type,
    )
