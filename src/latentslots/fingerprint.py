"""Content hashes of models, weights and files, for caches, checkpoints and reports."""

import hashlib
import inspect
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_SETTLED = 2.0
"""Seconds after its last change from which the hash of a file is kept: a change within the
resolution of the time stamps would go unnoticed."""
_TABLE = "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, state TEXT, sha256 TEXT)"


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


def files_sha256(paths: Iterable[str | Path]) -> list[str]:
    """Hash the content of files, in hexadecimal.

    Hashes are kept in the user's cache folder, `latentslots/hashes.sqlite`, with the size and time
    of each file, so that only files that have changed are read again.
    """
    files = [Path(path).absolute() for path in paths]
    known: dict[str, tuple[str, str]] = {}
    try:
        database = _hashes_file()
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(_TABLE)
            folders = {str(file.parent) for file in files}
            for folder in folders:
                rows = connection.execute(
                    "SELECT * FROM hashes WHERE path >= ? AND path < ?",
                    (f"{folder}/", f"{folder}0"),
                )
                known.update({path: (state, sha256) for path, state, sha256 in rows})
            hashes, new = _hash_changed(files, known)
            connection.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", new)
            connection.commit()
    except (sqlite3.Error, OSError, UnicodeEncodeError, RuntimeError) as error:
        logger.debug("hashes of files cannot be kept: %s", error)
        hashes, _ = _hash_changed(files, known)
    return hashes


def _hash_changed(
    files: list[Path], known: dict[str, tuple[str, str]]
) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Return the hashes of files, and those to keep, each with path and state."""
    hashes, new = [], []
    for file in files:
        stat = file.stat()
        state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        kept = known.get(str(file))
        if kept is not None and kept[0] == state:
            hashes.append(kept[1])
            continue
        hashes.append(file_sha256(file))
        if time.time() - stat.st_mtime > _SETTLED:
            new.append((str(file), state, hashes[-1]))
    return hashes, new


def _hashes_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "latentslots" / "hashes.sqlite"


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
