"""Fingerprints of the files that a split is made from, to distinguish them from other files."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentslots.fingerprint import file_sha256, text_sha256


@dataclass(frozen=True)
class SourceFiles:
    """The files that a split is made from.

    Attributes:
        fingerprint: Hash of their names and sizes, and of the content of some; the folder that they
            are in does not count.
        num_bytes: Their total size.
        names_fingerprint: Hash of their names alone, by which an interrupted import can be resumed
            even after a broken file was replaced.
    """

    fingerprint: str
    num_bytes: int
    names_fingerprint: str = ""


def inspect_files(
    files: Iterable[str | os.PathLike[str]],
    root: str | os.PathLike[str],
    *,
    hashed: Iterable[str | os.PathLike[str]] = (),
) -> SourceFiles:
    """Compute the fingerprints of the files that a split is made from.

    Args:
        files: Paths in any order, each once.
        root: Folder that names are relative to; a file outside of it counts by its own name.
        hashed: Files among them whose content is hashed, too, such as annotations.
    """
    hashed = set(map(Path, hashed))
    digest, names, num_bytes = hashlib.sha256(), hashlib.sha256(), 0
    for path in sorted(map(Path, files)):
        name = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        size = path.stat().st_size
        digest.update(f"{name.as_posix()}\0{size}\n".encode())
        if path in hashed:
            digest.update(bytes.fromhex(file_sha256(path)))
        names.update(f"{name.as_posix()}\n".encode())
        num_bytes += size
    return SourceFiles(digest.hexdigest()[:16], num_bytes, names.hexdigest()[:16])


def spec_fingerprint(spec: Mapping[str, Any]) -> str:
    """Hash everything that a split depends on, including its files, given ready for JSON."""
    return text_sha256(json.dumps(spec))[:16]
