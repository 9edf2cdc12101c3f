"""How images are sampled from slots: settings of commands and functions, not of a training run."""

from dataclasses import dataclass

from latentslots.config.seeds import check_seed


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are sampled from slots."""

    sampler: str = "dpm++"
    """ddim, ddpm, dpm++, euler, euler-a, heun, unipc, or the name of a diffusers scheduler."""
    num_inference_steps: int = 25
    """Denoising steps."""
    guidance_scale: float = 1.0
    """Above 1, images follow their slots more closely (classifier-free guidance)."""
    seed: int = 0
    """Seed of slot noise and of the noise that sampling starts from."""

    def check(self) -> None:
        """Check the range of every number.

        Raises:
            ValueError: If one is out of its range.
        """
        check_seed(self.seed)
        if self.num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps must be at least 1, got {self.num_inference_steps}"
            )
        if not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(
                f"guidance_scale must be 0 or above, and finite, got {self.guidance_scale:g}"
            )
