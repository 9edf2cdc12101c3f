"""What a split is made of: so that other data of the same kind are not taken for it."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """The files of a split.

    Attributes:
        fingerprint: Of their names and sizes, and of the bytes of some; not of where they lie.
        num_bytes: All together.
        names: Fingerprint of their names alone, which a file that was broken and is mended keeps:
            half-made splits go by it.
    """

    fingerprint: str
    num_bytes: int
    names: str = ""


def source_of(
    files: Iterable[str | os.PathLike[str]],
    root: str | os.PathLike[str],
    *,
    whole: Iterable[str | os.PathLike[str]] = (),
) -> Source:
    """Look at the files that a split is made of.

    Args:
        files: In any order, each once.
        root: Folder that their names start from; a file that lies elsewhere goes by its own name.
        whole: Those of them whose bytes are looked at, too: few, in which much may change.
    """
    looked_at = set(map(Path, whole))
    digest, names, total = hashlib.sha256(), hashlib.sha256(), 0
    for path in sorted(map(Path, files)):
        name = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        size = path.stat().st_size
        digest.update(f"{name.as_posix()}\0{size}\n".encode())
        if path in looked_at:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        names.update(f"{name.as_posix()}\n".encode())
        total += size
    return Source(digest.hexdigest()[:16], total, names.hexdigest()[:16])


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Of what a split depends on beside its files, too."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
