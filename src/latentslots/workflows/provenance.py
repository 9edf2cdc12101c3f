"""What came of many files, some of which may have been done before, and some not be readable."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from latentslots.fingerprint import model_fingerprint


@dataclass(frozen=True)
class Outcome:
    """What came of a batch of files.

    Attributes:
        done: Names of the files that were written now.
        skipped: Names of those that were there already.
        problems: A sentence for each file with which it could not be done.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)


def found_by(pipe: Any) -> dict[str, Any]:
    """How a pipeline finds slots and their masks."""
    parts = [pipe.components.get(name) for name in ("patch_decoder", "decoder")]
    hashes = [model_fingerprint(part)[:12] for part in parts if isinstance(part, nn.Module)]
    return {
        "pipeline": pipe.fingerprint(),
        "masks": " ".join([pipe.mask_source, *hashes]),
        "num_slots": pipe.num_slots,
        "merge_overlap": pipe.inference.merge_overlap,
    }


def painted_by(pipe: Any) -> dict[str, Any]:
    """How a pipeline finds slots and paints pictures of them."""
    return {
        **found_by(pipe),
        "model": model_hash(pipe),
        "sampler": type(pipe.scheduler).__name__,
    }


def model_hash(pipe: Any) -> str:
    """By which a pipeline with other weights is told apart, part by part."""
    parts = [pipe.components[name] for name in sorted(pipe.components)]
    return "-".join(model_fingerprint(part)[:12] for part in parts if isinstance(part, nn.Module))


def facts_made_alike(path: Path, made_by: dict[str, Any]) -> dict[str, Any] | None:
    """What a file of facts says, where it is there and was made in the same way."""
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(known, dict):
        return None
    made_alike = {key: known.get(key) for key in made_by} == made_by
    return known if made_alike else None


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """Write a file of facts."""
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
