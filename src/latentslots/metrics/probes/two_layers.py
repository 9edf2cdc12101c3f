"""Many small MLPs on the same inputs, forward and backward as few passes over memory.

What autograd would do costs twice as much on a CPU: it copies the gradients of the hidden layers
together, and writes every one of them once more.

Dimensions: N objects, D input channels, A MLPs of F hidden units, O outputs.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class TwoLayers(torch.autograd.Function):
    """Linear, ReLU, linear: hidden layers at once, last layers in groups of the same size.

    Args:
        inputs: `[N, D]`; has no gradient.
        rows: Which of the outputs are wanted, in which order.
        weight_in: `[A * F, D]`.
        bias_in: `[A * F, 1]`.
        *last: For each group of G of the MLPs, in their order, weight `[G, size, F]` and bias
            `[G, size, 1]`.

    Returns:
        `[O, N]`, of the outputs of all groups, one MLP after the other, those that are wanted.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Float[Tensor, "N D"],
        rows: Int[Tensor, " O"],
        weight_in: Float[Tensor, "AF D"],
        bias_in: Float[Tensor, "AF 1"],
        *last: Tensor,
    ) -> Float[Tensor, "O N"]:
        """What the MLPs say."""
        hidden = torch.addmm(bias_in, weight_in, inputs.T).relu_()
        ctx.save_for_backward(inputs, rows, hidden, *last[::2])
        width, counts = last[0].shape[2], [len(weight) for weight in last[::2]]
        groups = torch.split(hidden.view(-1, width, len(inputs)), counts)
        said = [
            torch.baddbmm(bias, weight, own).flatten(0, 1)
            for weight, bias, own in zip(last[::2], last[1::2], groups, strict=True)
        ]
        return torch.cat(said).index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "O N"]) -> tuple[Tensor | None, ...]:
        """Gradients of all weights."""
        inputs, rows, hidden, *weights = ctx.saved_tensors
        counts = [len(weight) for weight in weights]
        outputs = [weight.shape[0] * weight.shape[1] for weight in weights]
        of_outputs = gradient.new_zeros(sum(outputs), len(inputs)).index_copy_(0, rows, gradient)
        of_hidden = torch.empty_like(hidden)
        shape = -1, weights[0].shape[2], len(inputs)
        last: list[Tensor] = []
        for weight, flat, own, out in zip(
            weights,
            torch.split(of_outputs, outputs),
            torch.split(hidden.view(shape), counts),
            torch.split(of_hidden.view(shape), counts),
            strict=True,
        ):
            each = flat.view(*weight.shape[:2], -1)
            last += [each @ own.mT, each.sum(dim=2, keepdim=True)]
            torch.bmm(weight.mT, each, out=out)
        torch.ops.aten.threshold_backward(of_hidden, hidden, 0, grad_input=of_hidden)
        return None, None, of_hidden @ inputs, of_hidden.sum(dim=1, keepdim=True), *last
