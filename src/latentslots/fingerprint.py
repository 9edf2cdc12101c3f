"""Content hashes of models, weights and files, for caches, checkpoints and reports."""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def model_fingerprint(model: nn.Module) -> str:
    """Hash a model's configuration and weights, including their dtype.

    Config values that are defaults of the class are left out, so that the hash stays the same when
    a release adds an option.

    Args:
        model: A diffusers model, such as `AutoencoderKL`.
    """
    digest = hashlib.sha256()
    config: Any = model.config
    defaults = inspect.signature(type(model).__init__).parameters
    chosen = {
        key: text
        for key, value in config.items()
        if not key.startswith("_")
        and (text := _as_json(value))
        != (_as_json(defaults[key].default) if key in defaults else "")
    }
    digest.update(json.dumps(chosen, sort_keys=True).encode())
    _add_weights(digest, model.state_dict())
    return digest.hexdigest()


def weights_fingerprint(state: dict[str, Tensor]) -> str:
    """Hash tensors without their names, which differ between releases of a library."""
    hashes = []
    for weight in state.values():
        digest = hashlib.sha256()
        _add_weights(digest, {"": weight})
        hashes.append(digest.hexdigest())
    return hashlib.sha256(" ".join(sorted(hashes)).encode()).hexdigest()


def _add_weights(digest: Any, state: dict[str, Tensor]) -> None:
    for name, weight in sorted(state.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        data = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def file_sha256(path: str | Path) -> str:
    """Hash the content of a file: SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """Hash a text in UTF-8: SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(path: str | Path) -> str:
    """Hash the content of a file.

    Empty if the file cannot be read: the error is raised where it is opened.
    """
    try:
        return file_sha256(path)[:16]
    except OSError:
        return ""
