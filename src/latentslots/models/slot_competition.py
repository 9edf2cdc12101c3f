"""Slot attention (Locatello et al., 2020, https://arxiv.org/abs/2006.15055) as LSD uses it.

Dimensions: B batch, N tokens, C input channels, K slots, D slot channels.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class SlotAttentionOutput(BaseOutput):
    """Slots, and their shares of each input token in the last iteration, which sum to 1 over K."""

    slots: Float[Tensor, "B K D"]
    attention: Float[Tensor, "B K N"]


def linear(in_dim: int, out_dim: int, *, bias: bool = True, relu: bool = False) -> nn.Linear:
    """A linear layer, initialized as in STEVE (Singh et al., 2022)."""
    layer = nn.Linear(in_dim, out_dim, bias=bias)
    if relu:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Two linear layers with a ReLU between them, initialized as in STEVE."""
    return nn.Sequential(
        linear(in_dim, hidden_dim, relu=True), nn.ReLU(), linear(hidden_dim, out_dim)
    )


def full_precision(slots: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast.

    Slots start almost alike, and their differences are lost if every iteration rounds to eight
    bits.
    """
    device = slots.device.type
    has_autocast = torch.amp.is_autocast_available(device)  # not so `meta`
    return torch.autocast(device, enabled=False) if has_autocast else nullcontext()


class SlotAttention(nn.Module):
    """Let `K` slots compete, over a few iterations, to explain `N` input tokens (Alg. 1).

    Differs from the paper, as the official code does: keys are scaled by the slot width, not the
    head width, and with several heads the softmax runs over heads and slots jointly.

    Args:
        input_dim: Channels of the input tokens.
        slot_dim: Channels of the slots.
        mlp_dim: Hidden width of the slots' residual MLP.
        num_iterations: Rounds of competition. Three is the usual choice for images.
        num_heads: Attention heads; they divide `slot_dim`.
        temperature: Divisor of the attention logits. Below 1, each token is assigned to fewer
            slots from the first training step on, so that slots start as parts of the image rather
            than as means of all of it.
        bi_level: Pass gradients straight from the last iteration to the initial slots
            (BO-QSA, Jia et al., 2023, https://arxiv.org/abs/2210.08990).
        eps: Added to the attention before it is renormalized, so that a slot without any token
            is updated by the plain mean of the inputs instead of 0 / 0.
    """

    def __init__(
        self,
        input_dim: int,
        slot_dim: int,
        *,
        mlp_dim: int,
        num_iterations: int = 3,
        num_heads: int = 1,
        temperature: float = 1.0,
        bi_level: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if num_iterations < 1:
            raise ValueError(f"num_iterations must be at least 1, got {num_iterations}")
        if num_heads < 1 or slot_dim % num_heads:
            raise ValueError(f"num_heads must divide slot_dim {slot_dim}, got {num_heads}")
        if temperature <= 0:
            raise ValueError(f"temperature must be more than 0, got {temperature}")
        self.num_iterations = num_iterations
        self.num_heads = num_heads
        self.bi_level = bi_level
        self.eps = eps
        self.scale = slot_dim**-0.5 / temperature

        self.norm_inputs = nn.LayerNorm(input_dim)
        self.norm_slots = nn.LayerNorm(slot_dim)
        self.norm_mlp = nn.LayerNorm(slot_dim)
        self.to_query = linear(slot_dim, slot_dim, bias=False)
        self.to_key = linear(input_dim, slot_dim, bias=False)
        self.to_value = linear(input_dim, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        nn.init.xavier_uniform_(self.gru.weight_ih)
        nn.init.orthogonal_(self.gru.weight_hh)
        nn.init.zeros_(self.gru.bias_ih)
        nn.init.zeros_(self.gru.bias_hh)
        self.mlp = mlp(slot_dim, mlp_dim, slot_dim)

    def forward(
        self, inputs: Float[Tensor, "B N C"], slots: Float[Tensor, "B K D"]
    ) -> SlotAttentionOutput:
        """Refine `slots`, the initial guess, against `inputs`."""
        inputs = self.norm_inputs(inputs)
        key = self._split_heads(self.to_key(inputs)) * self.scale  # [B, heads, N, D / heads]
        value = self._split_heads(self.to_value(inputs))

        with full_precision(slots):
            return self._iterate(slots, key.to(slots.dtype), value.to(slots.dtype))

    def _iterate(
        self,
        slots: Float[Tensor, "B K D"],
        key: Float[Tensor, "B heads N d"],
        value: Float[Tensor, "B heads N d"],
    ) -> SlotAttentionOutput:
        initial = slots
        for iteration in range(self.num_iterations):
            if self.bi_level and iteration == self.num_iterations - 1:
                slots = slots.detach() + initial - initial.detach()
            query = self._split_heads(self.to_query(self.norm_slots(slots)))

            # The softmax runs over slots, not over inputs, so that slots compete for each input.
            # In fp32 even in a half-precision pipeline, where a share of 1/4096 would be lost.
            logits = (query @ key.transpose(2, 3)).float()  # [B, heads, K, N]
            attention = logits.flatten(1, 2).softmax(dim=1).view_as(logits)

            weights = attention + self.eps
            weights = weights / weights.sum(dim=3, keepdim=True)
            updates = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)  # [B, K, D]

            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(self.norm_mlp(slots))

        return SlotAttentionOutput(slots=slots, attention=attention.sum(dim=1))

    def _split_heads(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B heads N d"]:
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
