"""Predictions on disk, so that other conventions or probes need no second inference pass."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from latentslots.evaluation.predictions import Predictions
from latentslots.files import atomic_file
from latentslots.metrics import PixelTable

CACHE_FILE = "findings.safetensors"
"""Name of the file, unchanged since release 0.1."""
_FORMAT = 2
"""Format of the file; format 1 had no videos."""
_OPTIONAL = ("slots", "videos")


def save_predictions(predictions: Predictions, folder: Path, *, key: dict[str, Any]) -> None:
    """Write predictions to a folder.

    Args:
        predictions: From `predict`.
        folder: Destination of the file.
        key: Everything that the predictions depend on, ready for JSON.
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
    with atomic_file(folder / CACHE_FILE) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_predictions(folder: Path, *, key: dict[str, Any]) -> Predictions | None:
    """Read predictions; `None` if there are none, or only those of another key."""
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
        return None  # incomplete: predicted again
    facts = json.loads(metadata["facts"])
    table = PixelTable(*(tensors[name] for name in PixelTable._fields))
    optional = {name: tensors.get(name) for name in _OPTIONAL}
    return Predictions(table=table, **optional, **facts)


def _text(key: dict[str, Any]) -> str:
    return json.dumps({"format": _FORMAT, **key}, sort_keys=True)
