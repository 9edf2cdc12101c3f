"""Probes: how much a slot says about its object, read off by small heads.

`probe` is ours: objects are split by video, so that no two frames of one object land on both sides;
heads stop where a validation part says so; scores come with the spread over seeds and with what a
guess would score. `probe_lsd` is the protocol of the official code of Latent Slot Diffusion
(https://arxiv.org/abs/2303.10834), whose faults `LSD_FAULTS` names.

Dimensions: N objects, D slot channels, C numbers of an attribute, S seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentslots.metrics.probes.intervals import Answers, probe_intervals
from latentslots.metrics.probes.probe_heads import HeadBank, HeadTraining, train_heads
from latentslots.metrics.probes.targets import (
    Attribute,
    ProbeTarget,
    select_objects,
    standardized,
)

HeadKind = Literal["linear", "mlp"]

SHARES = (0.6, 0.2, 0.2)
"""Of the videos: training, validation, test."""

LSD_FAULTS = (
    "objects are split, not videos: frames of one object land on both sides",
    "numbers are scaled to [0, 1] by the extremes of all objects, those of the test among them",
    "the loss, already a mean, is divided by the number of objects once more: heads under-train",
    "no validation part, one seed, and no word on what a guess would score (added here)",
    "'linear' holds for classes only: numbers are read off by an MLP",
)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A score, once per seed.

    Attributes:
        values: The scores; NaN where a seed had none.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds that had a score."""
        found = [value for value in self.values if value == value]
        return fmean(found) if found else float("nan")

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1); NaN for fewer than two."""
        found = [value for value in self.values if value == value]
        return stdev(found) if len(found) > 1 else float("nan")


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """What one kind of head reads of one attribute.

    Attributes:
        attribute: Its name.
        head: `linear`, or `mlp` with one hidden layer as wide as a slot.
        num_objects: Objects that have the attribute.
        num_left_out: Objects that do not.
        scores: `accuracy` and `balanced_accuracy` (mean over classes) for classes; `r2` and `mse`
            for numbers, the mean over an attribute's numbers. `mse` is in units of the training
            part's variance.
        guess: The same scores of always the commonest class, or the mean, of the training part.
        intervals: 95 % bootstrap interval over videos of the mean of each score, heads as they are.
        notes: What is odd: constant numbers, classes that training never showed.
    """

    attribute: str
    head: HeadKind
    num_objects: int
    num_left_out: int
    scores: dict[str, Spread]
    guess: dict[str, Spread]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; a score that no seed had is `None` there."""

        def shown(scores: dict[str, Spread]) -> dict[str, Any]:
            return {
                name: {
                    "mean": _or_none(spread.mean),
                    "deviation": _or_none(spread.deviation),
                    "values": [_or_none(value) for value in spread.values],
                }
                for name, spread in scores.items()
            }

        return {
            "attribute": self.attribute,
            "head": self.head,
            "num_objects": self.num_objects,
            "num_left_out": self.num_left_out,
            "scores": shown(self.scores),
            "guess": shown(self.guess),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "notes": list(self.notes),
        }


def split_by_video(
    videos: Int[Tensor, " N"], *, seed: int, shares: Sequence[float] = SHARES
) -> Int[Tensor, " N"]:
    """Part of every object, 0 for the first share: all objects of a video are in the same part.

    Args:
        videos: Number of the video that each object comes from; of the image, for images alone.
        seed: Of the draw.
        shares: How much of the videos each part gets; at least one.

    Raises:
        ValueError: If there are fewer videos than parts.
    """
    names = np.unique(videos.numpy())
    if len(names) < len(shares):
        raise ValueError(
            f"probes need objects of at least {len(shares)} videos or images, got {len(names)}"
        )
    shuffled = np.random.default_rng(seed).permutation(names)
    ends = np.round(np.cumsum(shares) / sum(shares) * len(names)).astype(int)
    for i in range(len(ends) - 1):  # no part is empty
        ends[i] = min(max(ends[i], i + 1), len(names) - (len(ends) - 1 - i))
    part = np.searchsorted(ends, np.arange(len(names)), side="right")
    order = np.argsort(shuffled)
    return torch.from_numpy(part[order][np.searchsorted(names, videos.numpy())])


def probe(
    slots: Float[Tensor, "N D"],
    attributes: Sequence[Attribute],
    videos: Int[Tensor, " N"],
    *,
    heads: Sequence[HeadKind] = ("linear", "mlp"),
    seeds: Sequence[int] = (0, 1, 2),
    training: HeadTraining = HeadTraining(),  # noqa: B008  (frozen)
) -> list[ProbeScore]:
    """Read attributes off slots, with everything trained and scored on objects of other videos.

    Slots and numbers are standardized with the mean and deviation of the training part. A seed
    decides the split and where heads start.

    Args:
        slots: Slot of every object.
        attributes: What to read; one that too few objects have is left out.
        videos: See `split_by_video`.
        heads: Kinds of heads.
        seeds: Repetitions.
        training: How heads are trained.

    Returns:
        A score for every attribute and kind of head, attribute by attribute.

    Raises:
        ValueError: If there are fewer than three videos, or a slot is not a finite number.
    """
    _check(slots, attributes)
    parts = torch.stack([split_by_video(videos, seed=seed) for seed in seeds])
    inputs = torch.stack([standardized(slots, part == 0) for part in parts])
    targets = [ProbeTarget.of(attribute, parts) for attribute in attributes]
    scores = []
    for kind in heads:
        usable = [target for target in targets if not target.missing]
        if usable:
            hidden = slots.shape[1] if kind == "mlp" else 0
            sizes = [target.size for target in usable]
            bank = HeadBank(slots.shape[1], sizes, seeds=seeds, hidden_dim=hidden)
            seen, losses = select_objects(inputs, usable, parts == 0)
            watched = select_objects(inputs, usable, parts == 1)
            train_heads(bank, seen, losses, training=training, validation=watched)
            scores += _scores(bank, inputs, usable, kind, videos, train=parts == 0, test=parts == 2)
        scores += [_without_score(target, kind) for target in targets if target.missing]
    return _sorted(scores, attributes)


def probe_lsd(
    slots: Float[Tensor, "N D"],
    attributes: Sequence[Attribute],
    *,
    videos: Int[Tensor, " N"] | None = None,
    seed: int = 666,
    num_steps: int = 4_000,
) -> list[ProbeScore]:
    """Read attributes off slots as the official code does, to compare with its numbers.

    83 % of the objects for training and the rest for the test; classes by a linear head, numbers
    (scaled to [0, 1]) by an MLP; full-batch AdamW at 1e-3 on a loss that is divided by the number
    of objects. `mse` is that of the scaled numbers. Differs from the official code: an object
    without an attribute is left out of it, and a number that never changes, which becomes 0 / 0
    there, is left out, too.

    Args:
        slots: Slot of every object.
        attributes: What to read.
        videos: As for `probe`, for the intervals alone; without, objects count as unrelated.
        seed: Of the split and of the heads' start.
        num_steps: The official number, unless a test is in a hurry.
    """
    _check(slots, attributes)
    count = len(slots)
    videos = torch.arange(count) if videos is None else videos
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    part = torch.ones(1, count, dtype=torch.int64)
    part[0, order[: int(0.83 * count)]] = 0
    scores = []
    for kind in get_args(HeadKind):
        of_kind = [a for a in attributes if (a.num_classes == 0) == (kind == "mlp")]
        targets = [ProbeTarget.of(attribute, part, to_unit_range=True) for attribute in of_kind]
        scores += [_without_score(target, kind) for target in targets if target.missing]
        targets = [target for target in targets if not target.missing]
        if not targets:
            continue
        hidden = slots.shape[1] if kind == "mlp" else 0
        bank = HeadBank(slots.shape[1], [t.size for t in targets], seeds=[seed], hidden_dim=hidden)
        seen, losses = select_objects(slots[None], targets, part == 0)
        training = HeadTraining(
            learning_rate=1e-3, max_steps=num_steps, loss_scale=1 / seen.shape[1]
        )
        train_heads(bank, seen, losses, training=training)
        scores += _scores(bank, slots[None], targets, kind, videos, train=part == 0, test=part == 1)
    return _sorted(scores, attributes)


@torch.no_grad()
def _scores(
    bank: HeadBank,
    inputs: Float[Tensor, "S N D"],
    targets: list[ProbeTarget],
    head: HeadKind,
    videos: Int[Tensor, " N"],
    *,
    train: Bool[Tensor, "S N"],
    test: Bool[Tensor, "S N"],
) -> list[ProbeScore]:
    """What trained heads, and a guess, score on the test part of every seed."""
    outputs = bank(inputs).split([target.size for target in targets], dim=2)
    names, numbers = torch.unique(videos, return_inverse=True)
    answers = [
        _answers(target, said, numbers, test) for target, said in zip(targets, outputs, strict=True)
    ]
    intervals = probe_intervals(answers, len(names))
    return [
        _score(target, head, own, between, train & target.attribute.known)
        for target, own, between in zip(targets, answers, intervals, strict=True)
    ]


def _answers(
    target: ProbeTarget,
    said: Float[Tensor, "S N C"],
    videos: Int[Tensor, " N"],
    test: Bool[Tensor, "S N"],
) -> list[Answers]:
    """What one attribute's heads said in the test of every seed; videos are numbered from 0."""
    num_classes = target.attribute.num_classes
    answers = []
    for values, answer, in_test in zip(target.values, said, test, strict=True):
        looked = in_test & target.attribute.known
        answer = answer[looked].argmax(dim=1) if num_classes else answer[looked]
        answers.append(
            Answers(
                said=answer, asked=values[looked], videos=videos[looked], num_classes=num_classes
            )
        )
    return answers


def _score(
    target: ProbeTarget,
    head: HeadKind,
    tests: list[Answers],
    intervals: dict[str, tuple[float, float]],
    train: Bool[Tensor, "S N"],
) -> ProbeScore:
    """One attribute's; `train` are the objects that its heads saw."""
    attribute, notes = target.attribute, list(target.notes)
    guesses: list[dict[str, float]] = []
    num_unseen = 0
    for values, test, in_train in zip(target.values, tests, train, strict=True):
        shown = values[in_train]
        if attribute.num_classes:
            guesses.append(class_scores(shown.mode().values.expand_as(test.asked), test.asked))
            num_unseen += int((~torch.isin(test.asked, shown)).sum())
        else:
            guesses.append(number_scores(shown.mean(dim=0).expand_as(test.asked), test.asked))
    scored = class_scores if attribute.num_classes else number_scores
    scores = [scored(test.said, test.asked) for test in tests]
    if num_unseen:
        notes.append(
            f"{num_unseen} times in {len(scores)} tests, an object was of a class that training "
            "never showed: counted as wrong"
        )
    num_constant = sum(one.get("r2", 0) != one.get("r2", 0) for one in scores)
    if num_constant:
        notes.append(
            f"its numbers never change in {num_constant} of {len(scores)} tests: no r2 there"
        )
    return ProbeScore(
        attribute=attribute.name,
        head=head,
        num_objects=int(attribute.known.sum()),
        num_left_out=int((~attribute.known).sum()),
        scores=_spreads(scores),
        guess=_spreads(guesses),
        intervals=intervals,
        notes=tuple(notes),
    )


def _spreads(seeds: list[dict[str, float]]) -> dict[str, Spread]:
    return {name: Spread(values=tuple(one[name] for one in seeds)) for name in seeds[0]}


def _without_score(target: ProbeTarget, head: HeadKind) -> ProbeScore:
    """What is reported where there is nothing to train or score."""
    return ProbeScore(
        attribute=target.attribute.name,
        head=head,
        num_objects=int(target.attribute.known.sum()),
        num_left_out=int((~target.attribute.known).sum()),
        scores={},
        guess={},
        notes=(*target.notes, target.missing),
    )


def class_scores(pred: Int[Tensor, " N"], target: Int[Tensor, " N"]) -> dict[str, float]:
    """`accuracy`, and `balanced_accuracy`: the mean over the classes of the target."""
    right = (pred == target).double()
    each = [right[target == label].mean().item() for label in torch.unique(target)]
    return {"accuracy": right.mean().item(), "balanced_accuracy": fmean(each)}


def number_scores(pred: Float[Tensor, "N C"], target: Float[Tensor, "N C"]) -> dict[str, float]:
    """`r2` (the mean over the numbers that change; NaN where none does) and `mse`."""
    pred, target = pred.double(), target.double()
    error = (pred - target).square()
    total = (target - target.mean(dim=0)).square().sum(dim=0)
    changes = total > 1e-12
    r2 = (1 - error.sum(dim=0)[changes] / total[changes]).mean().item()
    return {"r2": r2, "mse": error.mean().item()}


def _check(slots: Float[Tensor, "N D"], attributes: Sequence[Attribute]) -> None:
    if not len(slots):
        raise ValueError("there is no object to probe: no slot was matched to one")
    if not slots.isfinite().all():
        raise ValueError("slots hold values that are not finite numbers")
    for attribute in attributes:
        values = attribute.values[attribute.known]
        if len(attribute.values) != len(slots):
            raise ValueError(
                f"{attribute.name} has {len(attribute.values)} values for {len(slots)} slots"
            )
        if attribute.num_classes and len(values):
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= attribute.num_classes:
                raise ValueError(
                    f"classes of {attribute.name} must be from 0 to {attribute.num_classes - 1}, "
                    f"got {low if low < 0 else high}"
                )
        if not attribute.num_classes and not values.isfinite().all():
            raise ValueError(f"{attribute.name} holds values that are not finite numbers")


def _sorted(scores: list[ProbeScore], attributes: Sequence[Attribute]) -> list[ProbeScore]:
    order = {attribute.name: i for i, attribute in enumerate(attributes)}
    return sorted(scores, key=lambda score: order[score.attribute])


def _or_none(value: float) -> float | None:
    return value if value == value else None
