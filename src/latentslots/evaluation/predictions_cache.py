"""Predictions on disk, so that an evaluation with other conventions or probes looks at no image."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from latentslots.evaluation.predictions import Predictions
from latentslots.metrics import PixelTable

CACHE_FILE = "findings.safetensors"
_FORMAT = 2
"""Of the file; 1 did not know of videos."""
_OPTIONAL = ("slots", "videos")


def save_predictions(predictions: Predictions, folder: Path, *, key: dict[str, Any]) -> None:
    """Write predictions to a folder.

    Args:
        predictions: What was found.
        folder: Where the file goes.
        key: All that they depend on, ready for JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(predictions.table._asdict())
    for name in _OPTIONAL:
        if getattr(predictions, name) is not None:
            tensors[name] = getattr(predictions, name)
    facts = {
        "resolution": predictions.resolution,
        "scoring_resolution": predictions.scoring_resolution,
        "seed": predictions.seed,
    }
    metadata = {"key": _text(key), "facts": json.dumps(facts)}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    temporary = folder / f"{CACHE_FILE}.part"
    save_file(tensors, temporary, metadata=metadata)
    temporary.replace(folder / CACHE_FILE)


def load_predictions(folder: Path, *, key: dict[str, Any]) -> Predictions | None:
    """Read predictions back; `None` where there are none, or those of another key."""
    path = folder / CACHE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != _text(key):
                return None
            names = file.keys()  # an open file of safetensors is no mapping that can be iterated
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError:
        return None  # cut off while it was written: found again
    facts = json.loads(metadata["facts"])
    table = PixelTable(*(tensors[name] for name in PixelTable._fields))
    optional = {name: tensors.get(name) for name in _OPTIONAL}
    return Predictions(table=table, **optional, **facts)


def _text(key: dict[str, Any]) -> str:
    return json.dumps({"format": _FORMAT, **key}, sort_keys=True)
