"""Attributes of objects, prepared as targets of probe heads.

Dimensions: S seeds, N objects, M selected objects, D slot channels, C numbers of an attribute.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentslots.device import in_double
from latentslots.metrics.probes.probe_heads import HeadLosses, HeadTarget

_MIN_DEVIATION = 1e-9
"""Deviation below which a number counts as constant."""


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """An annotated property of objects, such as their shape or position.

    Attributes:
        name: Its name.
        values: Class of every object, from 0, or numbers, one row for each object.
        known: False for the objects without it.
        num_classes: Number of classes; 0 for numbers.
    """

    name: str
    values: Int[Tensor, " N"] | Float[Tensor, "N C"]
    known: Bool[Tensor, " N"]
    num_classes: int = 0


@dataclass(frozen=True, kw_only=True)
class ProbeTarget:
    """An attribute as the target of heads, in the units of each seed's training part.

    Attributes:
        attribute: The attribute.
        values: For each seed, the class of every object, or its numbers without the constant ones.
        notes: Peculiarities, for the report.
        missing: The reason why the attribute cannot be probed; empty if it can.
    """

    attribute: Attribute
    values: Int[Tensor, "S N"] | Float[Tensor, "S N C"]
    notes: tuple[str, ...]
    missing: str

    @property
    def size(self) -> int:
        """Outputs of a head."""
        return self.attribute.num_classes or self.values.shape[2]

    @classmethod
    def of(
        cls, attribute: Attribute, parts: Int[Tensor, "S N"], *, to_unit_range: bool = False
    ) -> "ProbeTarget":
        """Standardize values over each seed's part 0, or scale them to [0, 1] over all objects."""
        notes: list[str] = []
        known, values = attribute.known, attribute.values
        missing = ""
        if not all(((parts == p) & known).any(dim=1).all() for p in range(int(parts.max()) + 1)):
            missing = "too few objects have it for every part of the split"
        if attribute.num_classes:
            if len(torch.unique(values[known])) == 1:
                notes = ["all objects are of one class: there is nothing to distinguish"]
            values = torch.where(known, values, 0).expand(len(parts), -1)
            return cls(attribute=attribute, values=values, notes=tuple(notes), missing=missing)
        lowest, highest = _extremes(values, known)
        varies = highest - lowest > 1e-6 * highest.abs().clamp(min=1e-6)
        if not varies.all():
            notes = [f"{int((~varies).sum())} of {len(varies)} numbers never change: left out"]
        if not varies.any():
            missing = missing or "it never changes"
        values = in_double(torch.where(known[:, None], values, 0.0)[:, varies])
        lowest, highest = in_double(lowest[varies]), in_double(highest[varies])
        if to_unit_range:
            scaled = ((values - lowest) / (highest - lowest))[None]
        else:
            seen = [(part == 0) & known for part in parts]
            scaled = torch.stack([standardized(values, one) for one in seen])
            num_constant = sum(_is_constant(values, one) for one in seen)
            if num_constant:
                notes.append(
                    f"some numbers do not change in {num_constant} of {len(seen)} training parts: "
                    "there, their errors are in the numbers' own units"
                )
        return cls(attribute=attribute, values=scaled.float(), notes=tuple(notes), missing=missing)


def select_objects(
    inputs: Float[Tensor, "S N D"], targets: list[ProbeTarget], chosen: Bool[Tensor, "S N"]
) -> tuple[Float[Tensor, "S M D"], HeadLosses]:
    """Inputs and losses of the chosen objects; seeds with fewer are filled with weight 0."""
    size = int(chosen.sum(dim=1).max())
    rows = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :size]
    counts = chosen.gather(1, rows)

    def take(values: Tensor) -> Tensor:
        index = rows if values.ndim == 2 else rows[..., None].expand(-1, -1, values.shape[2])
        return values.gather(1, index)

    losses = HeadLosses(
        [
            HeadTarget(
                values=take(target.values),
                weights=(counts & target.attribute.known[rows]).float(),
                num_classes=target.attribute.num_classes,
            )
            for target in targets
        ]
    )
    return take(inputs), losses


def standardized(values: Float[Tensor, "N C"], seen: Bool[Tensor, " N"]) -> Float[Tensor, "N C"]:
    """Standardize values with the mean and deviation of the rows in `seen`."""
    if not seen.any() or not values.shape[1]:
        return values
    deviation, mean = torch.std_mean(values[seen], dim=0, correction=0)
    return (values - mean) / torch.where(deviation > _MIN_DEVIATION, deviation, 1.0)


def _is_constant(values: Float[Tensor, "N C"], seen: Bool[Tensor, " N"]) -> bool:
    """Whether any number is constant in the rows in `seen`."""
    if not seen.any() or not values.shape[1]:
        return False
    return bool((values[seen].std(dim=0, correction=0) <= _MIN_DEVIATION).any())


def _extremes(
    values: Float[Tensor, "N C"], known: Bool[Tensor, " N"]
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    if not known.any():
        return values.new_zeros(values.shape[1]), values.new_zeros(values.shape[1])
    lowest, highest = values[known].aminmax(dim=0)
    return lowest, highest
