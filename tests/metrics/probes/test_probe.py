"""Probes against scikit-learn and against heads trained one by one, and unusual attributes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    mean_squared_error,
    r2_score,
)
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.metrics.probes import probe_heads
from latentslots.metrics.probes.probe import probe, probe_lsd, split_by_video
from latentslots.metrics.probes.probe_heads import (
    HeadBank,
    HeadLosses,
    HeadTarget,
    HeadTraining,
    train_heads,
)
from latentslots.metrics.probes.scores import class_scores, number_scores
from latentslots.metrics.probes.targets import Attribute

N, D = 400, 8
QUICK = HeadTraining(max_steps=40)


def known(values: Tensor) -> Tensor:
    return torch.ones(len(values), dtype=torch.bool)


def slots(count: int = N) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(0))


def of_class(name: str = "shape", *, noise: float = 1.0, count: int = N) -> Attribute:
    generator = torch.Generator().manual_seed(1)
    logits = slots(count) @ torch.randn(D, 4, generator=generator)
    noisy = logits + noise * torch.randn(count, 4, generator=generator)
    values = noisy.argmax(dim=1)
    return Attribute(name=name, values=values, known=known(values), num_classes=4)


def of_numbers(name: str = "position", *, noise: float = 1.0, count: int = N) -> Attribute:
    generator = torch.Generator().manual_seed(2)
    exact = slots(count) @ torch.randn(D, 3, generator=generator)
    values = exact + noise * torch.randn(count, 3, generator=generator)
    return Attribute(name=name, values=values, known=known(values))


def videos(count: int = N) -> Tensor:
    return torch.arange(count) // 4


def by_name(scores: list[Any]) -> dict[tuple[str, str], Any]:
    return {(score.attribute, score.head): score for score in scores}


def test_linear_heads_agree_with_scikit_learn() -> None:
    seeds = (0, 1)
    inputs, shape, position = slots(), of_class(), of_numbers()
    found = by_name(probe(inputs, [shape, position], videos(), heads=["linear"], seeds=seeds))
    for i, seed in enumerate(seeds):
        part = split_by_video(videos(), seed=seed).numpy()
        train, test = inputs[part == 0], inputs[part == 2]
        logistic = LogisticRegression(C=10.0).fit(train, shape.values[part == 0])
        accuracy = logistic.score(test, shape.values[part == 2])
        mine = found["shape", "linear"].scores["accuracy"].values[i]
        assert mine == pytest.approx(accuracy, abs=0.05)  # four of 80 objects
        ridge = Ridge(alpha=1.0).fit(train, position.values[part == 0])
        r2 = r2_score(position.values[part == 2], ridge.predict(test))
        assert found["position", "linear"].scores["r2"].values[i] == pytest.approx(r2, abs=0.02)
    assert found["shape", "linear"].scores["accuracy"].mean > 0.6
    assert found["shape", "linear"].guess["accuracy"].mean < 0.45
    assert abs(found["position", "linear"].guess["r2"].mean) < 0.1


def test_an_mlp_predicts_what_a_linear_head_cannot() -> None:
    inputs = slots(2_000)
    product = (inputs[:, :1] * inputs[:, 1:2]).clone()
    attribute = Attribute(name="product", values=product, known=known(product))
    training = HeadTraining(max_steps=200)
    found = by_name(probe(inputs, [attribute], videos(2_000), seeds=[0], training=training))
    assert found["product", "linear"].scores["r2"].mean < 0.1
    assert found["product", "mlp"].scores["r2"].mean > 0.5


@pytest.mark.parametrize("heads", [["linear"], ["mlp"]])
def test_heads_together_are_as_they_are_alone(heads: list[Any]) -> None:
    attributes = [of_class(), of_numbers(), of_class("other", noise=3), of_numbers("far", noise=9)]
    together = probe(slots(), attributes, videos(), heads=heads, seeds=(0, 5), training=QUICK)
    for i, attribute in enumerate(attributes):
        for column, seed in enumerate((0, 5)):
            (alone,) = probe(
                slots(), [attribute], videos(), heads=heads, seeds=[seed], training=QUICK
            )
            for name, spread in alone.scores.items():
                expected = together[i].scores[name].values[column]
                assert spread.values[0] == pytest.approx(expected, abs=1e-4)


def plain_head(size: int, hidden_dim: int, *, seed: int = 666) -> nn.Sequential:
    """The module that a head is, with the same initial weights."""
    plain = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, size))
    if not hidden_dim:
        plain = nn.Sequential(nn.Linear(D, size))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in plain:
            if isinstance(layer, nn.Linear):
                drawn = torch.empty(D, layer.out_features)
                layer.weight.copy_(drawn.uniform_(-(D**-0.5), D**-0.5, generator=generator).T)
                layer.bias.uniform_(-(D**-0.5), D**-0.5, generator=generator)
    return plain


def train_plainly(plain: nn.Module, inputs: Tensor, values: Tensor, *, steps: int) -> None:
    """The official loop, written out: one module, one AdamW, the loss divided again."""
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    loss = F.mse_loss if values.is_floating_point() else F.cross_entropy
    for _ in range(steps):
        optimizer.zero_grad()
        (loss(plain(inputs), values) / len(inputs)).backward()
        optimizer.step()


@pytest.mark.parametrize("hidden_dim", [0, D])
def test_heads_are_trained_as_plain_modules_would_be(hidden_dim: int) -> None:
    """Of three sizes in two groups, two of them padded; two seeds."""
    sizes, seeds = (3, 5, 1), (666, 4)
    inputs = torch.stack([slots(), slots().flip(0)])
    values = [torch.randn(2, N, size) for size in sizes]
    bank = HeadBank.initialized(D, sizes, seeds=seeds, hidden_dim=hidden_dim)
    targets = [HeadTarget(values=own, weights=torch.ones(2, N)) for own in values]
    training = HeadTraining(learning_rate=1e-3, max_steps=30, loss_scale=1 / N)
    train_heads(bank, inputs, HeadLosses(targets), training=training)
    predictions = bank(inputs).split(sizes, dim=2)
    for size, own, pred in zip(sizes, values, predictions, strict=True):
        for i, seed in enumerate(seeds):
            plain = plain_head(size, hidden_dim, seed=seed)
            train_plainly(plain, inputs[i], own[i], steps=30)
            torch.testing.assert_close(pred[i], plain(inputs[i]), rtol=1e-4, atol=1e-5)


def test_the_official_protocol_is_the_plain_one() -> None:
    """83 of 100 objects, drawn alone; numbers from 0 to 1 over all objects; two modules."""
    inputs, shape, position = slots(), of_class(noise=0.1), of_numbers(noise=0.1)
    drawn = torch.randperm(N, generator=torch.Generator().manual_seed(666)).tolist()
    train, test = drawn[: N * 83 // 100], drawn[N * 83 // 100 :]
    scaled = np.stack([(v - v.min()) / (v.max() - v.min()) for v in position.values.numpy().T])
    unit = torch.from_numpy(scaled.T.copy())
    classes, numbers = plain_head(4, 0), plain_head(3, D)
    train_plainly(classes, inputs[train], shape.values[train], steps=900)
    train_plainly(numbers, inputs[train], unit[train], steps=900)
    with torch.no_grad():
        pred = classes(inputs[test]).argmax(dim=1), numbers(inputs[test])
    found = probe_lsd(inputs, [shape, position], num_steps=900)
    assert [(score.attribute, score.head) for score in found] == [
        ("shape", "linear"),
        ("position", "mlp"),
    ]
    of_shape, of_position = found
    accuracy = of_shape.scores["accuracy"].mean
    assert accuracy == pytest.approx(accuracy_score(shape.values[test], pred[0]), abs=1e-6)
    assert accuracy > of_shape.guess["accuracy"].mean + 0.1
    error = of_position.scores["mse"].mean
    assert error == pytest.approx(mean_squared_error(unit[test], pred[1]), rel=1e-3)
    assert error < 0.5 * of_position.guess["mse"].mean
    variance = unit.var(dim=0).mean().item()
    assert of_position.guess["mse"].mean == pytest.approx(variance, rel=0.25)
    r2 = of_position.scores["r2"].mean
    assert r2 == pytest.approx(r2_score(unit[test], pred[1]), abs=1e-3)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_leaving_out_heads_that_stopped_changes_nothing(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributes = [of_class(noise=0.1), of_numbers(noise=3), of_class(noise=5), of_numbers()]
    training = HeadTraining(learning_rate=1e-2, max_steps=200, check_every=5, patience=2)
    sizes: list[int] = []
    original = HeadBank.select

    def select(bank: HeadBank, chosen: Any) -> HeadBank:
        sizes.append(int(chosen.sum()))
        return original(bank, chosen)

    monkeypatch.setattr(HeadBank, "select", select)
    found = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(probe_heads, "PRUNE_BELOW", share)
        found.append(
            probe(slots(), attributes, videos(), heads=[kind], seeds=(0, 1), training=training)
        )
    assert min(sizes) < len(attributes), "some stop before others"
    for one, other in zip(*found, strict=True):
        for name, spread in one.scores.items():
            assert spread.values == pytest.approx(other.scores[name].values, abs=1e-4)


def test_all_objects_of_a_video_are_on_one_side() -> None:
    of_video = torch.randint(0, 30, (N,), generator=torch.Generator().manual_seed(0)) * 7
    part = split_by_video(of_video, seed=3)
    for video in of_video.unique():
        assert len(part[of_video == video].unique()) == 1
    sizes = [len(of_video[part == p].unique()) for p in range(3)]
    assert sizes == [18, 6, 6]
    assert torch.equal(part, split_by_video(of_video, seed=3))
    assert not torch.equal(part, split_by_video(of_video, seed=4))


def test_no_part_is_empty() -> None:
    assert sorted(split_by_video(torch.tensor([5, 9, 2]), seed=0).tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 3 videos or images, got 2"):
        split_by_video(torch.tensor([1, 1, 4]), seed=0)


def test_the_same_seed_gives_the_same_scores() -> None:
    first, second = (
        probe(slots(), [of_class()], videos(), training=QUICK)[0].to_dict() for _ in range(2)
    )
    assert first == second
    assert first["scores"]["accuracy"]["deviation"] > 0


def test_objects_without_an_attribute_are_left_out_and_counted() -> None:
    shape = of_class()
    has = torch.arange(N) % 3 > 0
    hidden = Attribute(
        name="shape",
        values=torch.where(has, shape.values, 999),
        known=has,
        num_classes=4,
    )
    (score,) = probe(slots(), [hidden], videos(), heads=["linear"], training=QUICK)
    assert (score.num_objects, score.num_left_out) == (int(has.sum()), int((~has).sum()))
    rows = probe(
        slots()[has],
        [
            Attribute(
                name="shape", values=shape.values[has], known=known(slots()[has]), num_classes=4
            )
        ],
        videos()[has],
        heads=["linear"],
        training=QUICK,
    )
    # The same objects in the same parts; only the standardization has seen the others.
    for name, spread in rows[0].scores.items():
        assert score.scores[name].mean == pytest.approx(spread.mean, abs=0.05)


def test_numbers_that_never_change_are_noted_and_left_out() -> None:
    position = of_numbers()
    flat = torch.cat([position.values, torch.full((N, 1), 3.0)], dim=1)
    mixed = Attribute(name="mixed", values=flat, known=known(flat))
    constant = Attribute(name="constant", values=flat[:, 3:], known=known(flat))
    one = Attribute(name="one", values=torch.zeros(N).long(), known=known(flat), num_classes=2)
    found = by_name(probe(slots(), [mixed, constant, one], videos(), training=QUICK))
    assert found["mixed", "mlp"].notes == ("1 of 4 numbers never change: left out",)
    (plain,) = probe(slots(), [position], videos(), heads=["linear"], training=QUICK)
    expected = plain.scores["r2"].values
    assert found["mixed", "linear"].scores["r2"].values == pytest.approx(expected, abs=1e-5)
    assert found["constant", "linear"].scores == {}
    assert "it never changes" in found["constant", "linear"].notes
    assert found["one", "linear"].scores["accuracy"].mean == 1
    assert found["one", "linear"].guess["accuracy"].mean == 1
    assert found["one", "linear"].notes[0].startswith("all objects are of one class")
    official = by_name(probe_lsd(slots(), [mixed, constant], num_steps=5))
    assert math.isfinite(official["mixed", "mlp"].scores["mse"].mean)
    assert official["constant", "mlp"].scores == {}


def test_a_class_absent_from_training_counts_as_wrong_and_is_noted() -> None:
    shape = of_class(noise=0.0)
    part = split_by_video(videos(), seed=0)
    last = part == 2
    values = torch.where(last & (torch.arange(N) % 2 == 0), 4, shape.values)
    attribute = Attribute(name="shape", values=values, known=shape.known, num_classes=5)
    (score,) = probe(slots(), [attribute], videos(), heads=["linear"], seeds=[0], training=QUICK)
    count = int((values == 4).sum())
    assert score.notes[0].startswith(f"{count} times in 1 tests")
    assert score.scores["accuracy"].mean <= 1 - count / int(last.sum())


def test_numbers_that_are_constant_in_the_test_are_noted() -> None:
    seen = split_by_video(videos(), seed=0) == 0
    values = torch.where(seen & (torch.arange(N) % 2 == 0), 1.0, 0.0)[:, None]
    attribute = Attribute(name="size", values=values, known=torch.ones(N, dtype=torch.bool))
    (score,) = probe(slots(), [attribute], videos(), heads=["linear"], seeds=[0], training=QUICK)
    assert "its numbers never change in 1 of 1 tests: no r2 there" in score.notes
    assert score.to_dict()["scores"]["r2"]["mean"] is None
    assert score.scores["mse"].mean >= 0


def test_numbers_that_are_constant_in_the_training_part_are_noted() -> None:
    seen = split_by_video(videos(), seed=0) == 0
    values = torch.where(seen, 0.0, torch.rand(N, generator=torch.Generator().manual_seed(0)))
    attribute = Attribute(name="size", values=values[:, None], known=known(values))
    (score,) = probe(slots(), [attribute], videos(), heads=["linear"], seeds=[0], training=QUICK)
    assert "some numbers do not change in 1 of 1 training parts" in score.notes[0]
    assert score.scores["mse"].mean < 1.1


def test_one_object_is_too_few_for_the_official_protocol() -> None:
    shape = of_class()
    one = Attribute(name="shape", values=shape.values[:1], known=shape.known[:1], num_classes=5)
    (score,) = probe_lsd(slots()[:1], [one])
    assert score.scores == {}
    assert "too few objects have it for every part of the split" in score.notes


def test_an_attribute_that_a_part_lacks_is_noted() -> None:
    rare = Attribute(
        name="rare", values=torch.zeros(N, 2), known=torch.arange(N) < 4, num_classes=0
    )
    found = probe(slots(), [rare, of_class()], videos(), heads=["linear"], training=QUICK)
    assert found[0].scores == {}
    assert "too few objects have it for every part of the split" in found[0].notes
    assert found[1].scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": torch.full((N,), 4)}, "classes of shape must be from 0 to 3, got 4"),
        ({"values": torch.full((N,), -1)}, "classes of shape must be from 0 to 3, got -1"),
        ({"values": torch.zeros(3).long()}, f"shape has 3 values for {N} slots"),
        (
            {"values": torch.full((N, 1), torch.nan), "num_classes": 0},
            "shape holds values that are not finite",
        ),
    ],
)
def test_invalid_attributes_are_refused(change: dict[str, Any], message: str) -> None:
    shape = of_class()
    values = {"name": "shape", "values": shape.values, "known": shape.known, "num_classes": 4}
    values |= change
    values["known"] = values["known"][: len(values["values"])]
    with pytest.raises(ValueError, match=message):
        probe(slots(), [Attribute(**values)], videos())


def test_invalid_slots_are_refused() -> None:
    broken = slots()
    broken[3, 2] = torch.nan
    with pytest.raises(ValueError, match="slots hold values that are not finite"):
        probe(broken, [of_class()], videos())
    none = Attribute(name="x", values=torch.zeros(0, 1), known=torch.zeros(0, dtype=torch.bool))
    with pytest.raises(ValueError, match="there is no object to probe"):
        probe(torch.zeros(0, D), [none], torch.zeros(0).long())


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    pred, target = (torch.from_numpy(random.integers(0, 4, 60)) for _ in range(2))
    assert class_scores(pred, target) == pytest.approx(
        {
            "accuracy": accuracy_score(target, pred),
            "balanced_accuracy": balanced_accuracy_score(target, pred),
        }
    )
    guess, truth = (torch.from_numpy(random.normal(size=(60, 3))) for _ in range(2))
    assert number_scores(guess.float(), truth.float()) == pytest.approx(
        {"r2": r2_score(truth, guess), "mse": float((guess - truth).square().mean())}, abs=1e-5
    )
    assert math.isnan(number_scores(guess[:, :1].float(), torch.ones(60, 1))["r2"])
