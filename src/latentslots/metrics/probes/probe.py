"""Probes: how much slots encode of the attributes of their objects, measured with small heads.

`probe` is our protocol: objects are split by video, so that no two frames of an object are on both
sides; heads stop early on a validation part; scores come with their spread over seeds and with the
scores of a constant guess. `probe_lsd` is the protocol of the official code of Latent Slot
Diffusion (https://arxiv.org/abs/2303.10834), whose faults `LSD_FAULTS` lists.

Dimensions: N objects, D slot channels, C numbers of an attribute, S seeds.
"""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentslots.metrics.probes.intervals import HeadOutput, probe_intervals
from latentslots.metrics.probes.probe_heads import HeadBank, HeadTraining, train_heads
from latentslots.metrics.probes.scores import (
    HeadKind,
    ProbeScore,
    Spread,
    class_scores,
    number_scores,
)
from latentslots.metrics.probes.targets import (
    Attribute,
    ProbeTarget,
    select_objects,
    standardized,
)

SHARES = (0.6, 0.2, 0.2)
"""Shares of the videos for training, validation and test."""

LSD_FAULTS = (
    "objects are split, not videos: frames of one object are in both parts",
    "numbers are scaled to [0, 1] by the extremes of all objects, including those of the test",
    "the loss, already a mean, is divided by the number of objects again: heads under-train",
    "no validation part, one seed, and no scores of a constant guess (added here)",
    "'linear' holds for classes only: numbers are predicted by an MLP",
)


def split_by_video(
    videos: Int[Tensor, " N"], *, seed: int, shares: Sequence[float] = SHARES
) -> Int[Tensor, " N"]:
    """Part of every object, 0 for the first share: all objects of a video are in the same part.

    Args:
        videos: Number of the video that each object is from; of the image, for images alone.
        seed: Seed of the draw.
        shares: Share of the videos in each part, which has at least one.

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
    training: HeadTraining = HeadTraining(),
) -> list[ProbeScore]:
    """Predict attributes from slots, with heads trained and scored on objects of different videos.

    Slots and numbers are standardized with the mean and deviation of the training part. A seed
    determines the split and the initial weights of the heads.

    Args:
        slots: Slot of every object.
        attributes: Attributes to predict; one that too few objects have gets no score.
        videos: See `split_by_video`.
        heads: Kinds of heads.
        seeds: Repetitions.
        training: Options of the training.

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
            bank = HeadBank.initialized(slots.shape[1], sizes, seeds=seeds, hidden_dim=hidden)
            train_inputs, train_losses = select_objects(inputs, usable, parts == 0)
            validation = select_objects(inputs, usable, parts == 1)
            train_heads(bank, train_inputs, train_losses, training=training, validation=validation)
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
    """Predict attributes from slots under the official protocol, to compare with its numbers.

    83 % of the objects for training and the rest for the test; classes by a linear head, numbers
    (scaled to [0, 1]) by an MLP; full-batch AdamW at 1e-3 on a loss that is divided by the number
    of objects. `mse` is that of the scaled numbers.

    Differs from the official code: objects without an attribute are left out of its head, and so
    is a number that never changes, whose scale is 0 / 0 there.

    Args:
        slots: Slot of every object.
        attributes: Attributes to predict.
        videos: See `probe`; for the intervals alone. Without them, objects count as unrelated.
        seed: Seed of the split and of the initial weights of the heads.
        num_steps: Training steps.
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
        bank = HeadBank.initialized(
            slots.shape[1], [t.size for t in targets], seeds=[seed], hidden_dim=hidden
        )
        inputs, losses = select_objects(slots[None], targets, part == 0)
        training = HeadTraining(
            learning_rate=1e-3, max_steps=num_steps, loss_scale=1 / inputs.shape[1]
        )
        train_heads(bank, inputs, losses, training=training)
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
    """Scores of trained heads, and of a constant guess, on the test part of every seed."""
    predictions = bank(inputs).split([target.size for target in targets], dim=2)
    names, numbers = torch.unique(videos, return_inverse=True)
    outputs = [
        _outputs(target, pred, numbers, test)
        for target, pred in zip(targets, predictions, strict=True)
    ]
    intervals = probe_intervals(outputs, len(names))
    return [
        _score(target, head, parts, ends, train & target.attribute.known)
        for target, parts, ends in zip(targets, outputs, intervals, strict=True)
    ]


def _outputs(
    target: ProbeTarget,
    predictions: Float[Tensor, "S N C"],
    videos: Int[Tensor, " N"],
    test: Bool[Tensor, "S N"],
) -> list[HeadOutput]:
    """Output of an attribute's heads on the test part of every seed; videos count from 0."""
    num_classes = target.attribute.num_classes
    outputs = []
    for values, pred, in_test in zip(target.values, predictions, test, strict=True):
        scored = in_test & target.attribute.known
        outputs.append(
            HeadOutput(
                pred=pred[scored].argmax(dim=1) if num_classes else pred[scored],
                target=values[scored],
                videos=videos[scored],
                num_classes=num_classes,
            )
        )
    return outputs


def _score(
    target: ProbeTarget,
    head: HeadKind,
    parts: list[HeadOutput],
    intervals: dict[str, tuple[float, float]],
    train: Bool[Tensor, "S N"],
) -> ProbeScore:
    """Score of an attribute; `train` are the objects that its heads were trained on."""
    attribute, notes = target.attribute, list(target.notes)
    guesses: list[dict[str, float]] = []
    num_unseen = 0
    for values, test, in_train in zip(target.values, parts, train, strict=True):
        seen = values[in_train]
        if attribute.num_classes:
            guesses.append(class_scores(seen.mode().values.expand_as(test.target), test.target))
            num_unseen += int((~torch.isin(test.target, seen)).sum())
        else:
            guesses.append(number_scores(seen.mean(dim=0).expand_as(test.target), test.target))
    compute = class_scores if attribute.num_classes else number_scores
    scores = [compute(test.pred, test.target) for test in parts]
    if num_unseen:
        notes.append(
            f"{num_unseen} times in {len(scores)} tests, an object was of a class that is absent "
            "from training: counted as wrong"
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
    """Return the entry of an attribute that cannot be probed."""
    return ProbeScore(
        attribute=target.attribute.name,
        head=head,
        num_objects=int(target.attribute.known.sum()),
        num_left_out=int((~target.attribute.known).sum()),
        scores={},
        guess={},
        notes=(*target.notes, target.missing),
    )


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
