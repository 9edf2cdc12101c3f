"""Loading a pipeline for a command."""

from dataclasses import asdict
from typing import Any

from latentslots.cli.options import InferenceOptions
from latentslots.config.sampling import Sampling


def load_pipeline(name: str, inference: InferenceOptions, sampling: Sampling | None = None) -> Any:
    """Load a pipeline onto the best device, and set how it infers slots and samples images.

    Args:
        name: `bundled`, a run folder, a pipeline folder, or a hub id.
        inference: How slots are inferred.
        sampling: How images are sampled, for commands that do so.

    Raises:
        ValueError: If there is no such pipeline or sampler, or a number is out of its range.
    """
    from latentslots.device import to_device
    from latentslots.pipelines import LatentSlotDiffusionPipeline
    from latentslots.pipelines import load_pipeline as load
    from latentslots.pipelines.sampling import use_sampling

    hide_loading_bars()
    pipe = load(name)
    pipe.set_inference(**asdict(inference))
    pipe.set_progress_bar_config(disable=True)
    if sampling is not None:
        if not isinstance(pipe, LatentSlotDiffusionPipeline):
            raise ValueError(
                f"{name} is a {type(pipe).__name__}; this command needs a "
                "LatentSlotDiffusionPipeline to sample images with"
            )
        use_sampling(pipe, sampling)
    return to_device(pipe)


def hide_loading_bars() -> None:
    """Switch off diffusers' progress bars of loading; those of denoising are not affected."""
    from diffusers.utils import logging

    logging.disable_progress_bar()
