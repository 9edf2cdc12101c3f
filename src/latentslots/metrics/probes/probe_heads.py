"""Many small prediction heads on the same inputs, trained as one computation.

Each head gets the weights that it would get alone: heads share no weight, and AdamW updates every
weight by itself.

Dimensions: A attributes, S seeds, N objects, D input channels, F hidden units, O outputs of all
heads of one seed together, G heads of one group, H outputs (linear heads) or heads of a group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

PRUNE_BELOW = 0.8
"""Share of attributes that are still trained, below which the others leave the computation."""

BLOCK = 4
"""MLPs per matrix product, so that their hidden layers fit in the cache of a processor."""


@dataclass(frozen=True, kw_only=True)
class HeadTarget:
    """The values that the heads of one attribute are trained to predict.

    Attributes:
        values: For each seed, the class of every object (int64), or its numbers.
        weights: Weight of each object in the loss; 0 leaves it out.
        num_classes: 0 for numbers.
    """

    values: Int[Tensor, "S N"] | Float[Tensor, "S N C"]
    weights: Float[Tensor, "S N"]
    num_classes: int = 0

    @property
    def size(self) -> int:
        """Outputs of a head."""
        return self.num_classes or self.values.shape[2]


class HeadBank(nn.Module):
    """One head per attribute and seed: linear, or with one hidden layer of ReLU.

    Linear heads are one matrix product for all attributes. MLPs are grouped by their outputs,
    rounded up to a multiple of four: a few of a group are one product for their hidden layers, and
    a batched one for their last layers. (`torch.func.vmap` over stacked modules computes the same,
    but makes more passes over the hidden layers, which take most of the time.)

    Args:
        sizes: Outputs for each attribute.
        weights: Weights by name; for linear heads `[S, D, H]` and `[S, 1, H]`, where H runs over
            outputs, for MLPs `[S, H, out, in]` and `[S, H, out, 1]`, where H runs over the heads of
            a group.
        hidden_dim: Width of the hidden layer; 0 for linear heads.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Mapping[str, Tensor], *, hidden_dim: int
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.hidden_dim = hidden_dim
        self.groups = _groups(sizes) if hidden_dim else {0: list(range(len(sizes)))}
        self.axis = 1 if hidden_dim else 2  # of the weights, over heads or outputs
        self.rows = _rows(sizes, self.groups)
        for name, values in weights.items():
            self.register_parameter(name, nn.Parameter(values))

    @classmethod
    def initialized(
        cls, dim: int, sizes: Sequence[int], *, seeds: Sequence[int], hidden_dim: int = 0
    ) -> "HeadBank":
        """Create heads with the initial weights of `nn.Linear`.

        The weights of a head depend on its own seed and size alone.

        Args:
            dim: Channels of the inputs.
            sizes: Outputs for each attribute.
            seeds: One head of each attribute for every seed.
            hidden_dim: Width of the hidden layer; 0 for linear heads.
        """
        heads = [
            [_initial_weights(dim, size, hidden_dim, seed=seed) for seed in seeds] for size in sizes
        ]
        weights = {}
        for name in heads[0][0]:
            stacked = [torch.stack([head[name] for head in row]) for row in heads]
            if not hidden_dim:
                weights[f"{name}_0"] = torch.cat(stacked, dim=1).mT.contiguous()
                continue
            for size, group in _groups(sizes).items():
                # Rows for outputs that do not exist are 0; nothing reads them.
                rows = size if name.endswith("out") else hidden_dim
                padded = [F.pad(stacked[a], (0, 0, 0, rows - stacked[a].shape[1])) for a in group]
                weights[f"{name}_{size}"] = torch.stack(padded, dim=1).contiguous()
        return cls(sizes, weights, hidden_dim=hidden_dim)

    def forward(self, inputs: Float[Tensor, "S N D"]) -> Float[Tensor, "S N O"]:
        """Predictions of the heads, one attribute after the other."""
        if not self.hidden_dim:
            weight, bias = self.get_parameter("weight_out_0"), self.get_parameter("bias_out_0")
            return torch.baddbmm(bias, inputs, weight)
        layers = [
            [
                self.get_parameter(f"{name}_{size}").unbind()
                for name in ("weight_in", "bias_in", "weight_out", "bias_out")
            ]
            for size in self.groups
        ]
        outputs = []
        for seed, own_inputs in enumerate(inputs):
            blocks = [
                _mlps(own_inputs.T, *block)
                for group in layers
                for block in zip(*(torch.split(one[seed], BLOCK) for one in group), strict=True)
            ]
            outputs.append(torch.cat(blocks).index_select(0, self.rows))
        return torch.stack(outputs).mT

    def owners(self, name: str) -> Int[Tensor, " H"]:
        """The attribute of each head, or output, of a weight."""
        if not self.hidden_dim:
            return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))
        return torch.tensor(self.groups[int(name.rpartition("_")[2])])

    def take(self, chosen: Bool[Tensor, "A S"], kept: dict[str, Tensor]) -> None:
        """Copy the weights of the chosen heads into weights of all heads."""
        for name, parameter in self.named_parameters():
            own = chosen[self.owners(name)].T  # [S, H]
            own = own[..., None, None] if self.hidden_dim else own[:, None]
            kept[name] = torch.where(own, parameter.detach(), kept[name])

    def select(self, chosen: Bool[Tensor, " A"]) -> "HeadBank":
        """The heads of the chosen attributes alone, with the same weights."""
        sizes = [size for size, wanted in zip(self.sizes, chosen.tolist(), strict=True) if wanted]
        weights = {name: value.detach() for name, value in self.named_parameters()}
        return HeadBank(sizes, self.select_weights(weights, chosen), hidden_dim=self.hidden_dim)

    def select_weights(
        self, weights: Mapping[str, Tensor], chosen: Bool[Tensor, " A"]
    ) -> dict[str, Tensor]:
        """The part of the chosen attributes in tensors of the shapes of the weights."""
        own = {}
        for name, value in weights.items():
            (index,) = chosen[self.owners(name)].nonzero(as_tuple=True)
            if len(index):
                own[name] = value.index_select(self.axis, index)
        return own

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor], attributes: Int[Tensor, " B"]) -> None:
        """Overwrite the weights of some attributes with those of a bank of these alone."""
        for name, values in weights.items():
            (index,) = torch.isin(self.owners(name), attributes).nonzero(as_tuple=True)
            self.get_parameter(name).index_copy_(self.axis, index, values)


class HeadLosses:
    """The mean loss of each head over its objects: cross-entropy or squared error.

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
        shares = [self.weights[a][..., None] / self.targets[a].size for a in self.numbers]
        sizes = torch.tensor([target.size for target in numbers])
        self.number_weights = torch.cat(shares, dim=2).repeat_interleave(sizes, dim=2)
        self.number_owner = torch.repeat_interleave(torch.arange(len(numbers)), sizes)

    def select(self, chosen: Bool[Tensor, " A"]) -> "HeadLosses":
        """The losses of the chosen attributes alone."""
        return HeadLosses(
            [target for target, wanted in zip(self.targets, chosen, strict=True) if wanted]
        )

    def __call__(self, outputs: Float[Tensor, "S N O"]) -> Float[Tensor, "A S"]:
        """The loss of every head; 0 for a head without objects."""
        parts = torch.split(outputs, [target.size for target in self.targets], dim=2)
        losses: dict[int, Tensor] = {}
        if self.numbers:
            numbers_only = len(self.numbers) == len(self.targets)
            pred = outputs if numbers_only else torch.cat([parts[a] for a in self.numbers], dim=2)
            squares = (pred - self.number_values).square() * self.number_weights
            sums = squares.new_zeros(len(squares), len(self.numbers))
            sums = sums.index_add(1, self.number_owner, squares.sum(dim=1))
            losses.update(zip(self.numbers, sums.T, strict=True))
        for a, (target, weights) in enumerate(zip(self.targets, self.weights, strict=True)):
            if target.num_classes:
                logits = parts[a].transpose(1, 2)
                entropies = F.cross_entropy(logits, target.values, reduction="none")
                losses[a] = (entropies * weights).sum(dim=1)
        return torch.stack([losses[a] for a in range(len(self.targets))])


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """Options of the training of heads: full-batch AdamW.

    Attributes:
        learning_rate: The learning rate, which is constant.
        max_steps: Largest number of steps.
        check_every: Steps between two validations.
        patience: Validations without a lower loss after which a head stops.
        loss_scale: Factor of the loss. It matters where gradients are as small as the epsilon of
            AdamW.
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
    """Train all heads of a bank at once; each ends with the weights of its lowest validation loss.

    Attributes whose heads have all stopped leave the computation.

    Args:
        bank: The heads.
        inputs: Their inputs, for each seed.
        losses: Their losses on these inputs.
        training: Options.
        validation: Inputs and losses by which a head stops; by default none does.

    Returns:
        The step whose weights each head has kept.
    """
    optimizer = _optimizer(bank, training)
    shape = (len(bank.sizes), inputs.shape[0])
    best = torch.full(shape, torch.inf)
    best_step = torch.zeros(shape, dtype=torch.int64)
    running = torch.ones(shape, dtype=torch.bool)
    active, trained = torch.arange(len(bank.sizes)), bank
    kept = {name: parameter.detach().clone() for name, parameter in bank.named_parameters()}
    for step in range(1, training.max_steps + 1):
        optimizer.zero_grad()
        torch.autograd.backward(losses(trained(inputs)).sum() * training.loss_scale)
        optimizer.step()
        if validation is None or step % training.check_every:
            continue
        with torch.no_grad():
            validated = validation[1](trained(validation[0]))
        better = running[active] & (validated < best[active])
        best[active] = torch.where(better, validated, best[active])
        best_step[active] = torch.where(better, step, best_step[active])
        trained.take(better, kept)
        running &= step - best_step < training.patience * training.check_every
        alive = running[active].any(dim=1)
        if not alive.any():
            break
        if alive.sum() <= PRUNE_BELOW * len(alive):
            bank.put(kept, active)
            kept = trained.select_weights(kept, alive)
            fewer = trained.select(alive)
            optimizer = _prune_optimizer(optimizer, trained, fewer, alive, training)
            losses, validation = losses.select(alive), (validation[0], validation[1].select(alive))
            active, trained = active[alive], fewer
    if validation is None:
        return torch.full(shape, training.max_steps)
    bank.put(kept, active)
    return best_step


def _optimizer(bank: HeadBank, training: HeadTraining) -> torch.optim.AdamW:
    return torch.optim.AdamW(bank.parameters(), lr=training.learning_rate, fused=True)


def _prune_optimizer(
    optimizer: torch.optim.AdamW,
    bank: HeadBank,
    fewer: HeadBank,
    alive: Bool[Tensor, " A"],
    training: HeadTraining,
) -> torch.optim.AdamW:
    """An optimizer of fewer heads, with the moments that they had."""
    new = _optimizer(fewer, training)
    states = {name: optimizer.state[parameter] for name, parameter in bank.named_parameters()}
    for moment in ("exp_avg", "exp_avg_sq"):
        rows = bank.select_weights({name: state[moment] for name, state in states.items()}, alive)
        for name, parameter in fewer.named_parameters():
            new.state[parameter] |= {moment: rows[name], "step": states[name]["step"]}
    return new


def _mlps(
    inputs: Float[Tensor, "D N"],
    weight_in: Float[Tensor, "G F D"],
    bias_in: Float[Tensor, "G F 1"],
    weight_out: Float[Tensor, "G C F"],
    bias_out: Float[Tensor, "G C 1"],
) -> Float[Tensor, "GC N"]:
    """Outputs of MLPs of one size, one MLP after the other."""
    hidden = torch.addmm(bias_in.flatten(0, 1), weight_in.flatten(0, 1), inputs).relu_()
    hidden = hidden.view(len(weight_in), -1, hidden.shape[1])
    return torch.baddbmm(bias_out, weight_out, hidden).flatten(0, 1)


def _groups(sizes: Sequence[int]) -> dict[int, list[int]]:
    """The attributes whose sizes round up to the same multiple of four, by that multiple."""
    rounded = [-(-size // 4) * 4 for size in sizes]
    return {
        size: [a for a, own in enumerate(rounded) if own == size] for size in sorted(set(rounded))
    }


def _rows(sizes: Sequence[int], groups: Mapping[int, Sequence[int]]) -> Int[Tensor, " O"]:
    """Rows of the attributes' outputs among the outputs of all groups, which are padded."""
    rows: dict[int, range] = {}
    start = 0
    for size, group in groups.items():
        for a in group:
            rows[a] = range(start, start + sizes[a])
            start += size
    return torch.tensor([row for a in range(len(sizes)) for row in rows[a]], dtype=torch.int64)


def _initial_weights(dim: int, size: int, hidden_dim: int, *, seed: int) -> dict[str, Tensor]:
    """Weights `[out, in]` and biases `[out, 1]` of a head, drawn as `nn.Linear` draws them."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(fan_in: int, *shape: int) -> Tensor:
        bound = fan_in**-0.5
        return torch.empty(shape).uniform_(-bound, bound, generator=generator).T

    layers = {"in": (dim, hidden_dim), "out": (hidden_dim, size)}
    if not hidden_dim:
        layers = {"out": (dim, size)}
    weights = {}
    for name, (inputs, outputs) in layers.items():
        weights[f"weight_{name}"] = uniform(inputs, inputs, outputs)
        weights[f"bias_{name}"] = uniform(inputs, 1, outputs)
    return weights
