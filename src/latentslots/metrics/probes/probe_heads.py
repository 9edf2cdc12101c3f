"""Many small prediction heads on the same inputs, trained as one computation.

Each head is as it would be if it were trained alone: heads share no weight, and AdamW treats every
weight by itself.

Dimensions: A attributes, S seeds, N objects, D input channels, F hidden units, O outputs of all
heads of one seed together.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.metrics.probes.two_layers import TwoLayers

WORTH_FEWER = 0.8
"""Share of the attributes still trained from which the others are left out of the computation."""


@dataclass(frozen=True, kw_only=True)
class HeadTarget:
    """What one head shall predict, and for which objects.

    Attributes:
        values: For each seed, the class of every object (int64), or its numbers.
        weights: How much each object counts; 0 for one that is not seen.
        num_classes: 0 for numbers.
    """

    values: Int[Tensor, "S N"] | Float[Tensor, "S N C"]
    weights: Float[Tensor, "S N"]
    num_classes: int = 0

    @property
    def size(self) -> int:
        """Outputs of the head."""
        return self.num_classes or self.values.shape[2]


class HeadBank(nn.Module):
    """One head per attribute and seed: linear, or with one hidden layer of ReLU.

    The start of each head depends on its own seed and size alone. Linear heads are one matrix
    product for all attributes. Of MLPs the hidden layers are one, too; the last layers are one for
    each of a few sizes.

    Args:
        dim: Channels of the inputs.
        sizes: Outputs for each attribute.
        seeds: One head of each kind for every seed.
        hidden_dim: Width of the hidden layer; 0 for linear heads.
    """

    owner: Int[Tensor, " O"]
    rows: Int[Tensor, " O"]

    def __init__(
        self, dim: int, sizes: Sequence[int], *, seeds: Sequence[int], hidden_dim: int = 0
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self._order(sizes)
        generators = [[torch.Generator().manual_seed(seed) for seed in seeds] for _ in sizes]
        width = hidden_dim or dim
        if hidden_dim:
            first = [[_uniform(g, dim, dim, hidden_dim) for g in row] for row in generators]
            bias = [[_uniform(g, dim, 1, hidden_dim) for g in row] for row in generators]
            every = [a for group in self.groups.values() for a in group]
            self.weight_in = nn.Parameter(_columns(first, every))  # [S, A, F, D]
            self.bias_in = nn.Parameter(_columns(bias, every))  # [S, A, F, 1]
        last, last_bias = [], []
        for row, size in zip(generators, self.sizes, strict=True):
            last.append([_uniform(g, width, width, size) for g in row])
            last_bias.append([_uniform(g, width, 1, size) for g in row])
        if not hidden_dim:  # [S, D, O]
            self.weight_out = nn.Parameter(torch.cat([torch.stack(row) for row in last], dim=2))
            self.bias_out = nn.Parameter(torch.cat([torch.stack(row) for row in last_bias], dim=2))
        for size, group in self.groups.items() if hidden_dim else ():
            for name, weights in (("weight", last), ("bias", last_bias)):  # [S, G, size, F or 1]
                padded = nn.Parameter(_columns(weights, group, size))
                self.register_parameter(f"{name}_out_{size}", padded)

    def _order(self, sizes: Sequence[int]) -> None:
        """Decide who is computed with whom: attributes whose sizes round up to the same one."""
        self.sizes = tuple(sizes)
        self.register_buffer("owner", _owner(self.sizes))
        rounded = [-(-size // 4) * 4 for size in sizes]
        self.groups = {
            size: [a for a, own in enumerate(rounded) if own == size]
            for size in sorted(set(rounded))
        }
        rows: dict[int, range] = {}
        start = 0
        for size, group in self.groups.items():
            for a in group:
                rows[a] = range(start, start + self.sizes[a])
                start += size
        wanted = [row for a in range(len(self.sizes)) for row in rows[a]]
        self.register_buffer("rows", torch.tensor(wanted, dtype=torch.int64))

    def forward(self, inputs: Float[Tensor, "S N D"]) -> Float[Tensor, "S N O"]:
        """What the heads say, one attribute after the other."""
        if not self.hidden_dim:
            return torch.baddbmm(self.bias_out, inputs, self.weight_out)
        said = [self._said(seed, own) for seed, own in enumerate(inputs)]
        return torch.stack(said).transpose(1, 2)

    def _said(self, seed: int, inputs: Float[Tensor, "N D"]) -> Float[Tensor, "O N"]:
        """What the MLPs of one seed say."""
        last = [
            self.get_parameter(f"{name}_out_{size}")[seed]
            for size in self.groups
            for name in ("weight", "bias")
        ]
        first = self.weight_in[seed].flatten(0, 1), self.bias_in[seed].flatten(0, 1)
        # torch gives `apply` no type.
        said: Tensor = TwoLayers.apply(inputs, self.rows, *first, *last)  # type: ignore[no-untyped-call]
        return said

    def keep(self, chosen: Bool[Tensor, "A S"], kept: dict[str, Tensor]) -> None:
        """Copy the weights of the chosen heads into a set of weights of all heads."""
        columns = chosen[self.owner].T[:, None]  # [S, 1, O]
        for name, parameter in self.named_parameters():
            own = chosen[self.attributes(name)].T[..., None, None]
            where = own if self.hidden_dim else columns
            kept[name] = torch.where(where, parameter.detach(), kept[name])

    def attributes(self, name: str) -> Int[Tensor, " G"]:
        """Whose weights a parameter holds, in their order; of an MLP's."""
        last = name.rpartition("_out_")[2]
        if last in map(str, self.groups):
            return torch.tensor(self.groups[int(last)])
        return torch.tensor([a for group in self.groups.values() for a in group])

    def part(self, name: str, weights: Tensor, chosen: Bool[Tensor, " A"]) -> Tensor:
        """Of what is shaped like a parameter of all heads, that of the chosen attributes."""
        if not self.hidden_dim:
            return weights[:, :, chosen[self.owner]]
        return weights[:, chosen[self.attributes(name)]]

    def select(self, chosen: Bool[Tensor, " A"]) -> "HeadBank":
        """The heads of the chosen attributes alone, as they are."""
        sizes = [size for size, wanted in zip(self.sizes, chosen.tolist(), strict=True) if wanted]
        fewer = copy.copy(self)
        fewer.__dict__.update(_parameters={}, _buffers={})
        fewer._order(sizes)
        for name, parameter in self.named_parameters():
            part = self.part(name, parameter.detach(), chosen)
            if part.numel():  # else no attribute of that size is left
                fewer.register_parameter(name, nn.Parameter(part))
        return fewer

    @torch.no_grad()
    def put(self, weights: dict[str, Tensor], attributes: Int[Tensor, " B"]) -> None:
        """Take the weights of some attributes, which are those of a smaller bank."""
        for name, parameter in self.named_parameters():
            if name not in weights:
                continue
            if self.hidden_dim:
                parameter[:, torch.isin(self.attributes(name), attributes)] = weights[name]
            else:
                parameter[:, :, torch.isin(self.owner, attributes)] = weights[name]


class HeadLosses:
    """The mean loss of each head over the objects that it sees: cross-entropy or squared error.

    Args:
        targets: One for each attribute, in the order of the bank.
    """

    def __init__(self, targets: Sequence[HeadTarget]) -> None:
        self.targets = list(targets)
        self.weights = [
            target.weights / target.weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
            for target in targets
        ]
        self.numbers = [a for a, target in enumerate(targets) if not target.num_classes]
        if not self.numbers:
            return
        # All numbers together: one subtraction instead of one for each attribute.
        numbers = [self.targets[a] for a in self.numbers]
        self.number_values = torch.cat([target.values for target in numbers], dim=2)
        each = [self.weights[a][..., None] / self.targets[a].size for a in self.numbers]
        sizes = torch.tensor([target.size for target in numbers])
        self.number_weights = torch.cat(each, dim=2).repeat_interleave(sizes, dim=2)
        self.number_owner = torch.repeat_interleave(torch.arange(len(numbers)), sizes)

    def select(self, chosen: Bool[Tensor, " A"]) -> "HeadLosses":
        """Those of the chosen attributes alone."""
        return HeadLosses(
            [target for target, wanted in zip(self.targets, chosen, strict=True) if wanted]
        )

    def __call__(self, outputs: Float[Tensor, "S N O"]) -> Float[Tensor, "A S"]:
        """The loss of every head; 0 for a head that sees no object."""
        parts = torch.split(outputs, [target.size for target in self.targets], dim=2)
        losses: dict[int, Tensor] = {}
        if self.numbers:
            alone = len(self.numbers) == len(self.targets)
            said = outputs if alone else torch.cat([parts[a] for a in self.numbers], dim=2)
            squares = (said - self.number_values).square() * self.number_weights
            sums = squares.new_zeros(len(squares), len(self.numbers))
            sums = sums.index_add(1, self.number_owner, squares.sum(dim=1))
            losses.update(zip(self.numbers, sums.T, strict=True))
        for a, (target, weights) in enumerate(zip(self.targets, self.weights, strict=True)):
            if target.num_classes:
                logits = parts[a].transpose(1, 2)
                each = F.cross_entropy(logits, target.values, reduction="none")
                losses[a] = (each * weights).sum(dim=1)
        return torch.stack([losses[a] for a in range(len(self.targets))])


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How heads are trained: full-batch AdamW.

    Attributes:
        learning_rate: Constant.
        max_steps: At most so many.
        check_every: Steps between two looks at the validation loss.
        patience: Looks without a better validation loss after which a head stops.
        loss_scale: What the loss is multiplied with, which matters where gradients come near
            AdamW's epsilon.
    """

    learning_rate: float = 1e-2
    max_steps: int = 2_000
    check_every: int = 10
    patience: int = 10
    loss_scale: float = 1.0


def train_heads(
    bank: HeadBank,
    inputs: Float[Tensor, "S N D"],
    losses: HeadLosses,
    *,
    training: HeadTraining,
    validation: tuple[Float[Tensor, "S M D"], HeadLosses] | None = None,
) -> Int[Tensor, "A S"]:
    """Train all heads of a bank at once; each ends with the weights that validated best.

    Attributes whose heads have all stopped are computed no longer.

    Args:
        bank: The heads.
        inputs: What they see, for each seed.
        losses: What they shall say of it.
        training: How.
        validation: Inputs and losses that say when a head stops; by default none does.

    Returns:
        The step whose weights each head kept.
    """
    optimizer = _optimizer(bank, training)
    shape = (len(bank.sizes), inputs.shape[0])
    best = torch.full(shape, torch.inf)
    best_step = torch.zeros(shape, dtype=torch.int64)
    running = torch.ones(shape, dtype=torch.bool)
    active, some = torch.arange(len(bank.sizes)), bank
    kept = {name: parameter.detach().clone() for name, parameter in bank.named_parameters()}
    for step in range(1, training.max_steps + 1):
        optimizer.zero_grad()
        torch.autograd.backward(losses(some(inputs)).sum() * training.loss_scale)
        optimizer.step()
        if validation is None or step % training.check_every:
            continue
        with torch.no_grad():
            found = validation[1](some(validation[0]))
        better = running[active] & (found < best[active])
        best[active] = torch.where(better, found, best[active])
        best_step[active] = torch.where(better, step, best_step[active])
        some.keep(better, kept)
        running &= step - best_step < training.patience * training.check_every
        alive = running[active].any(dim=1)
        if not alive.any():
            break
        if alive.sum() <= WORTH_FEWER * len(alive):
            bank.put(kept, active)
            fewer = some.select(alive)
            names = dict(fewer.named_parameters())
            kept = {name: some.part(name, kept[name], alive) for name in names}
            optimizer = _of_fewer(optimizer, some, fewer, alive, training)
            losses, validation = losses.select(alive), (validation[0], validation[1].select(alive))
            active, some = active[alive], fewer
    if validation is None:
        return torch.full(shape, training.max_steps)
    bank.put(kept, active)
    return best_step


def _optimizer(bank: HeadBank, training: HeadTraining) -> torch.optim.AdamW:
    return torch.optim.AdamW(bank.parameters(), lr=training.learning_rate, fused=True)


def _of_fewer(
    optimizer: torch.optim.AdamW,
    bank: HeadBank,
    fewer: HeadBank,
    alive: Bool[Tensor, " A"],
    training: HeadTraining,
) -> torch.optim.AdamW:
    """An optimizer of fewer heads that goes on with their moments."""
    new = _optimizer(fewer, training)
    before = dict(bank.named_parameters())
    for name, after in fewer.named_parameters():
        new.state[after] = {
            moment: bank.part(name, value, alive) if value.ndim else value
            for moment, value in optimizer.state[before[name]].items()
        }
    return new


def _owner(sizes: Sequence[int]) -> Int[Tensor, " O"]:
    """The attribute that each output belongs to."""
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def _uniform(generator: torch.Generator, fan_in: int, *shape: int) -> Tensor:
    """The start of `nn.Linear`."""
    bound = fan_in**-0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _columns(rows: list[list[Tensor]], chosen: Sequence[int], size: int = 0) -> Tensor:
    """Weights `[in, out]` of some attributes, for each seed, as `[S, A, out, in]`.

    Those for outputs that do not exist, up to `size`, are 0; nothing reads them.
    """
    attributes = [torch.stack([one.T for one in rows[a]]) for a in chosen]
    padded = [F.pad(one, (0, 0, 0, max(size - one.shape[1], 0))) for one in attributes]
    return torch.stack(padded, dim=1).contiguous()
