"""Probes of a pipeline: slots are matched to objects, whose attributes are predicted from them.

Dimensions: I images, N rows of a table (row 0 is the background), M matched objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from jaxtyping import Float, Int64
from torch import Tensor

from latentslots.config.conventions import Convention
from latentslots.data.store.attributes import ObjectValues, can_be_classes, read_attributes
from latentslots.evaluation.predictions import Predictions
from latentslots.metrics import overlap_of_table
from latentslots.metrics.probes.probe import LSD_FAULTS, probe, probe_lsd
from latentslots.metrics.probes.scores import HeadKind, ProbeScore, Spread
from latentslots.metrics.probes.targets import Attribute

Protocol = Literal["by-video", "lsd"]


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """Scores of probes, with the conditions under which they are comparable to others.

    Attributes:
        convention: How slots were matched to objects, and for `lsd` how heads were trained: see
            `latentslots.metrics.probes.probe`.
        num_objects: Visible objects.
        num_matched: Objects with a matched slot; only these are probed.
        num_videos: Videos, or images, of the matched objects.
        scores: Scores by attribute and head.
    """

    convention: Convention
    num_objects: int
    num_matched: int
    num_videos: int
    scores: tuple[ProbeScore, ...]

    @property
    def protocol(self) -> Protocol:
        """How objects were split and heads trained."""
        return "lsd" if self.convention == "lsd" else "by-video"

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {
            "convention": self.convention,
            "protocol": self.protocol,
            "faults": list(LSD_FAULTS) if self.protocol == "lsd" else [],
            "num_objects": self.num_objects,
            "num_matched": self.num_matched,
            "num_videos": self.num_videos,
            "scores": [score.to_dict() for score in self.scores],
        }

    def to_markdown(self) -> str:
        """One row for each attribute and head, and notes below the table."""
        rows = [
            f"| {s.attribute} | {s.head} | {_format_scores(s.scores, s.intervals)} | "
            f"{_format_scores(s.guess)} |"
            for s in self.scores
        ]
        notes = [f"- {s.attribute}, {s.head}: {n}." for s in self.scores for n in s.notes]
        notes += [
            f"- {s.attribute}, {s.head}: {s.num_left_out} objects do not have it."
            for s in self.scores
            if s.num_left_out
        ]
        if self.protocol == "lsd":
            notes += [f"- The official protocol: {fault}." for fault in LSD_FAULTS]
        about = (
            f"protocol `{self.protocol}`, slots matched by `{self.convention}`; "
            f"{self.num_matched} of {self.num_objects} objects had a slot, "
            f"from {self.num_videos} videos or images. Mean ± deviation over seeds, and the 95 % "
            "bootstrap interval of the mean over videos or images, with the heads as trained."
        )
        head = ["| attribute | head | score | a guess |", "|---|---|---|---|"]
        return "\n".join([*head, *rows, "", about, *([""] if notes else []), *notes, ""])


def probe_slots(
    predictions: Predictions,
    dataset: Dataset,
    *,
    convention: Convention = "iou",
    attributes: Sequence[str] | None = None,
    heads: Sequence[HeadKind] = ("linear", "mlp"),
    seeds: Sequence[int] = (0, 1, 2),
) -> ProbeReport:
    """Match slots to objects and predict the attributes of the objects from them.

    Args:
        predictions: Predictions of a pipeline on the first images of the data set; frames of one
            video stay together.
        dataset: Has the column `attributes`.
        convention: How slots are matched to objects. `lsd` also trains and scores heads as the
            official code does, which `heads` and `seeds` do not change.
        attributes: Names of the attributes; all when absent.
        heads: Kinds of heads.
        seeds: Repetitions, with other splits and other initial weights.

    Raises:
        ValueError: If there are no attributes, or fewer than three videos.
    """
    values = read_attributes(dataset, list(attributes or ()) or None, num_images=len(predictions))
    images, objects, slots, num_objects = match_objects(predictions, convention=convention)
    targets = [_attribute(one, images, objects) for one in values]
    videos = torch.arange(len(predictions)) if predictions.videos is None else predictions.videos
    videos = videos[images]
    if convention == "lsd":
        scores = probe_lsd(slots, targets, videos=videos)
    else:
        scores = probe(slots, targets, videos, heads=heads, seeds=seeds)
    return ProbeReport(
        convention=convention,
        num_objects=num_objects,
        num_matched=len(slots),
        num_videos=len(torch.unique(videos)),
        scores=tuple(scores),
    )


def match_objects(
    predictions: Predictions, *, convention: Convention = "iou"
) -> tuple[Int64[Tensor, " M"], Int64[Tensor, " M"], Float[Tensor, "M D"], int]:
    """Find the objects that a slot is matched to.

    Args:
        predictions: Predictions of a pipeline with slots.
        convention: How slots are matched, see `latentslots.metrics.overlap`.

    Returns:
        Image and id of every matched object, its slot, and the number of visible objects.

    Raises:
        ValueError: If the method has no slots.
    """
    if predictions.slots is None:
        raise ValueError("probes need slots, and this method has none")
    overlap = overlap_of_table(predictions.table, convention=convention)
    is_object = (overlap.object_ids > 0) & (predictions.table.counts.sum(dim=2) > 0)
    images, rows = (is_object & (overlap.slot_ids >= 0)).nonzero(as_tuple=True)
    slots = predictions.slots[images, overlap.slot_ids[images, rows]]
    return images, overlap.object_ids[images, rows].long(), slots, int(is_object.sum())


def check_classes(dataset: Dataset, name: str) -> None:
    """Refuse an attribute that does not exist, or whose values are not classes, words or integers.

    Raises:
        ValueError: If so; the message names the attribute.
    """
    read_attributes(dataset, [name], num_images=1)
    if not can_be_classes(dataset, name):
        raise ValueError(f"the attribute {name!r} has numbers, not classes")


def object_classes(predictions: Predictions, dataset: Dataset, name: str) -> Int64[Tensor, "I N"]:
    """Return the class of the object in every row of the table; -1 for none or the background.

    Args:
        predictions: Predictions on the first images of the data set.
        dataset: Has the column `attributes`.
        name: Name of an attribute with classes.

    Raises:
        ValueError: If there is no such attribute, or its values are numbers other than integers.
    """
    check_classes(dataset, name)
    (values,) = read_attributes(dataset, [name], num_images=len(predictions), integer_classes=True)
    ids = predictions.table.object_ids
    classes = torch.full(ids.shape, -1)
    if not values.classes:  # no object of these images has a value
        return classes
    images, rows = (ids > 0).nonzero(as_tuple=True)
    attribute = _attribute(values, images, ids[images, rows])
    classes[images, rows] = torch.where(attribute.known, attribute.values.long(), -1)
    return classes


def _attribute(
    values: ObjectValues, images: Int64[Tensor, " M"], objects: Int64[Tensor, " M"]
) -> Attribute:
    """The values of the matched objects; an object beyond the end of a list has none."""
    of_objects = []
    for image, number in zip(images.tolist(), objects.tolist(), strict=True):
        of_image = values.values[image]
        of_objects.append(of_image[number - 1] if number <= len(of_image) else None)
    known = torch.tensor([value is not None for value in of_objects], dtype=torch.bool)
    if values.classes:
        labels = torch.tensor([0 if value is None else value for value in of_objects])
        return Attribute(
            name=values.name, values=labels, known=known, num_classes=len(values.classes)
        )
    numbers = [[0.0] * values.size if value is None else value for value in of_objects]
    rows = torch.tensor(numbers, dtype=torch.float32).reshape(len(of_objects), values.size)
    return Attribute(name=values.name, values=rows, known=known)


def _format_scores(
    scores: Mapping[str, Spread], intervals: Mapping[str, tuple[float, float]] | None = None
) -> str:
    if not scores:
        return "none"
    parts = []
    for name, spread in scores.items():
        deviation = f" ± {spread.deviation:.3f}" if spread.deviation == spread.deviation else ""
        mean = f"{spread.mean:.3f}{deviation}" if spread.mean == spread.mean else "none"
        ends = (intervals or {}).get(name)
        mean += f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
        parts.append(f"{name.replace('_', ' ')} {mean}")
    return ", ".join(parts)
