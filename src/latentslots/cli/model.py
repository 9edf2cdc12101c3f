"""What the commands that use a model share: loading it."""

from typing import Any

from latentslots.cli.options import InferenceOptions, PaintOptions
from latentslots.config.seeds import check_seed


def load_pipeline(
    name: str, inference: InferenceOptions, painting: PaintOptions | None = None
) -> Any:
    """Load a pipeline where it runs fastest, and set how it finds slots and how it paints.

    Args:
        name: `bundled`, a run folder, a pipeline folder, or a hub id.
        inference: How it finds slots.
        painting: How it paints.

    Raises:
        ValueError: If there is no such pipeline or sampler, or a number is out of its range.
    """
    from latentslots.device import to_device
    from latentslots.evaluation.generation import set_sampler
    from latentslots.pipelines import LatentSlotDiffusionPipeline
    from latentslots.pipelines import load_pipeline as load

    check_seed(inference.seed)
    pipe = load(name)
    if painting is not None and not isinstance(pipe, LatentSlotDiffusionPipeline):
        raise ValueError(
            f"{name} is a {type(pipe).__name__}; this command paints with a "
            "LatentSlotDiffusionPipeline"
        )
    pipe.set_inference(num_slots=inference.num_slots, merge_overlap=inference.merge_overlap)
    pipe.set_progress_bar_config(disable=True)
    if painting is not None:
        if painting.num_inference_steps < 1:
            raise ValueError(
                f"--num-inference-steps must be at least 1, got {painting.num_inference_steps}"
            )
        if not 0 <= painting.guidance_scale < float("inf"):
            raise ValueError(
                f"--guidance-scale must be a number, 0 or above, got {painting.guidance_scale}"
            )
        set_sampler(pipe, painting.sampler)
    return to_device(pipe)
