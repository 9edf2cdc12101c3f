"""Loading a pipeline of the class that is recorded in its folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.folder import PIPELINE_FILE, pipeline_folder


def load_pipeline(name: str | Path, **kwargs: Any) -> SlotPipeline:
    """Load any pipeline: one of ours, or a subclass of `SlotPipeline` that was imported before.

    Args:
        name: A pipeline folder, a run folder, `bundled`, or a hub id.
        **kwargs: See `SlotPipeline.from_pretrained`.

    Raises:
        ValueError: If there is no such pipeline, or its class is not known.
    """
    folder = pipeline_folder(name, kwargs)
    content = json.loads((folder / PIPELINE_FILE).read_text(encoding="utf-8"))
    kind = content.get("_class_name")
    known = {cls.__name__: cls for cls in _subclasses(SlotPipeline)}
    if kind not in known:
        raise ValueError(
            f"{folder} holds a {kind}, and only {', '.join(sorted(known))} can be loaded; import "
            "the module of a class of your own first"
        )
    return known[kind].from_pretrained(folder, **kwargs)


def _subclasses(cls: type[SlotPipeline]) -> Iterator[type[SlotPipeline]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
