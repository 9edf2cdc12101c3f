"""Load a pipeline whose class its folder knows."""

import json
from pathlib import Path
from typing import Any

from latentslots.pipelines.base import PIPELINE_FILE, SlotPipeline, pipeline_folder
from latentslots.pipelines.dinosaur import DinosaurPipeline
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.slate import SlatePipeline
from latentslots.pipelines.slot_attention import SlotAutoencoderPipeline

PIPELINES: dict[str, type[SlotPipeline]] = {
    kind.__name__: kind
    for kind in (
        LatentSlotDiffusionPipeline,
        SlotAutoencoderPipeline,
        SlatePipeline,
        DinosaurPipeline,
    )
}


def load_pipeline(name: str | Path, **kwargs: Any) -> SlotPipeline:
    """Load any of our pipelines.

    Args:
        name: A pipeline folder, a run folder, `bundled`, or a hub id.
        **kwargs: As for `SlotPipeline.from_pretrained`.

    Raises:
        ValueError: If there is no such pipeline, or its class is none of ours.
    """
    folder = pipeline_folder(name, kwargs)
    content = json.loads((folder / PIPELINE_FILE).read_text(encoding="utf-8"))
    kind = content.get("_class_name")
    if kind not in PIPELINES:
        raise ValueError(f"{folder} holds a {kind}, and only {', '.join(PIPELINES)} can be loaded")
    return PIPELINES[kind].from_pretrained(folder, **kwargs)
