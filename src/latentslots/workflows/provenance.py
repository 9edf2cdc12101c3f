"""Provenance of results, recorded beside them, so that a later run skips existing results."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from latentslots.files import read_json
from latentslots.fingerprint import model_fingerprint

Key = TypeVar("Key")


@dataclass(frozen=True)
class BatchResult:
    """Which inputs of a batch were processed.

    Attributes:
        done: Names of the results that were written now.
        skipped: Names of those that existed already, made in the same way.
        problems: A sentence for each input that could not be processed.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)


def slot_provenance(pipe: Any) -> dict[str, Any]:
    """Everything that slots and masks depend on: weights, and settings of inference."""
    parts = [pipe.components.get(name) for name in ("patch_decoder", "decoder")]
    hashes = [model_fingerprint(part)[:12] for part in parts if isinstance(part, nn.Module)]
    return {
        "pipeline": pipe.fingerprint(),
        "masks": " ".join([pipe.mask_source, *hashes]),
        "num_slots": pipe.num_slots,
        "merge_overlap": pipe.inference.merge_overlap,
        # Only where it has an effect: results of releases without it stay valid.
        **({"merge_error": max_error} if (max_error := pipe.inference.merge_error) else {}),
    }


def image_provenance(pipe: Any) -> dict[str, Any]:
    """Everything that images sampled from slots depend on: all weights, inference and sampler."""
    return {
        **slot_provenance(pipe),
        "model": model_hash(pipe),
        "sampler": type(pipe.scheduler).__name__,
    }


def model_hash(pipe: Any) -> str:
    """A hash of the weights of every component of a pipeline."""
    parts = [pipe.components[name] for name in sorted(pipe.components)]
    return "-".join(model_fingerprint(part)[:12] for part in parts if isinstance(part, nn.Module))


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a JSON file records about a result; empty if it is missing or damaged."""
    try:
        facts = read_json(path) if path.is_file() else {}
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def finished(
    provenance: Mapping[Key, dict[str, Any]], read: Callable[[Key], dict[str, Any]]
) -> dict[Key, dict[str, Any]]:
    """Select the inputs whose results exist and were made in the same way, with recorded facts.

    Args:
        provenance: For each input, what its result depends on, as JSON represents it.
        read: Returns what is recorded about the result of an input; empty if there is none.
    """
    recorded = {key: read(key) for key in provenance}
    return {
        key: facts
        for key, facts in recorded.items()
        if facts and {name: facts.get(name) for name in provenance[key]} == provenance[key]
    }
