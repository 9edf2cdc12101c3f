"""A transformer that writes an image token by token, looking at slots (Vaswani et al., 2017).

SLATE paints with it (Singh et al., 2022, https://arxiv.org/abs/2110.11405, Sec. 3.2), on tokens of
a discrete autoencoder; DINOSAUR may decode with it (Seitzer et al., 2023,
https://arxiv.org/abs/2209.14860), on a vision transformer's features.

Dimensions: B batch, K slots, D slot channels, N tokens in row-major order, C channels of a token,
O channels of what is said of one, M width, h heads.
"""

from dataclasses import dataclass, field

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.models.strict_config import StrictConfigMixin


@dataclass
class DecoderMemory:
    """What was written so far, and what it looks at, so that a token costs one step."""

    slots: Float[Tensor, "B K M"]
    slots_mask: Bool[Tensor, "B K"] | None
    written: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Keys and values of every block."""
    num_tokens: int = 0


class AutoregressiveDecoder(ModelMixin, StrictConfigMixin):
    """Say of every token what it is, from the slots and the tokens before it.

    Blocks of masked attention, attention to slots, and an MLP, each after a normalization. Differs
    from the official SLATE: no dropout.

    Args:
        in_dim: Channels of a token.
        out_dim: Channels of what is said of a token.
        slot_dim: Channels of a slot.
        num_tokens: Tokens of an image.
        hidden_dim: Width; the MLPs are four times as wide.
        num_layers: Blocks.
        num_heads: Heads of every attention.
    """

    @register_to_config
    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        slot_dim: int = 192,
        num_tokens: int = 256,
        hidden_dim: int = 192,
        num_layers: int = 4,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        if hidden_dim % num_heads:
            raise ValueError(
                f"num_heads must divide the width, {hidden_dim}, of a transformer, got {num_heads}"
            )
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.token_in = nn.Linear(in_dim, hidden_dim, bias=False)
        self.slot_in = nn.Linear(slot_dim, hidden_dim, bias=False)
        self.start = nn.Parameter(torch.randn(1, 1, hidden_dim) * 0.02)
        self.position_table = nn.Parameter(torch.randn(num_tokens, hidden_dim) * 0.02)
        self.blocks = nn.ModuleList(_Block(hidden_dim, num_heads) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(hidden_dim)
        self.token_out = nn.Linear(hidden_dim, out_dim, bias=False)

    def forward(
        self,
        tokens: Float[Tensor, "B N C"],
        slots: Float[Tensor, "B K D"],
        *,
        slots_mask: Bool[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B N O"]:
        """What is said of every token of an image that is known (teacher forcing).

        Args:
            tokens: The whole image.
            slots: The scenes.
            slots_mask: True for the slots that exist.

        Raises:
            ValueError: If the image has another number of tokens than the model.
        """
        if tokens.shape[1] != self.config.num_tokens:
            raise ValueError(
                f"this decoder writes {self.config.num_tokens} tokens, got {tokens.shape[1]}"
            )
        before = self.token_in(tokens[:, :-1])
        start = self.start.to(before.dtype).expand(len(tokens), -1, -1)
        hidden = torch.cat([start, before], dim=1) + self.position_table
        known = self.slot_in(slots)
        num_tokens = hidden.shape[1]
        past = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=hidden.device).tril()
        for block in self.blocks:
            hidden, _ = block(hidden, known, past=past, slots_mask=slots_mask)
        return self.token_out(self.norm_out(hidden))

    def begin(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        slots_mask: Bool[Tensor, "B K"] | None = None,
    ) -> DecoderMemory:
        """Get ready to write images, one token after the other, by `step`."""
        return DecoderMemory(slots=self.slot_in(slots), slots_mask=slots_mask)

    def step(
        self, previous: Float[Tensor, "B C"] | None, memory: DecoderMemory
    ) -> Float[Tensor, "B O"]:
        """What is said of the next token.

        Args:
            previous: The token before; `None` for the first one.
            memory: From `begin`; goes on with every step.

        Raises:
            ValueError: If the image is full.
        """
        if memory.num_tokens == self.config.num_tokens:
            raise ValueError(f"an image has {memory.num_tokens} tokens, and all are written")
        if previous is None:
            hidden = self.start.expand(len(memory.slots), -1, -1)
        else:
            hidden = self.token_in(previous)[:, None]
        hidden = hidden + self.position_table[memory.num_tokens]
        written = []
        for level, block in enumerate(self.blocks):
            before = memory.written[level] if memory.written else None
            hidden, states = block(
                hidden, memory.slots, before=before, slots_mask=memory.slots_mask
            )
            written.append(states)
        memory.written = written
        memory.num_tokens += 1
        return self.token_out(self.norm_out(hidden))[:, 0]


class _Attention(nn.Module):
    """Several heads that look at what was remembered."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_query = nn.Linear(dim, dim)
        self.to_key = nn.Linear(dim, dim)
        self.to_value = nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)

    def remember(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, `[B, heads, n, channels]`."""
        return self._heads(self.to_key(states)), self._heads(self.to_value(states))

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        # Plain, not fused: to few slots torch's fused attention is slower on a CPU
        # (benchmarks/attention.py).
        query = self._heads(self.to_query(hidden)) * key.shape[-1] ** -0.5
        logits = query @ key.transpose(2, 3)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        seen = logits.softmax(dim=3) @ value
        return self.to_out(seen.transpose(1, 2).flatten(2))

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class _Block(nn.Module):
    """Look at the tokens before, look at the slots, think."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = _Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attention = _Attention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)

    def forward(
        self,
        hidden: Tensor,
        slots: Tensor,
        *,
        past: Tensor | None = None,
        before: tuple[Tensor, Tensor] | None = None,
        slots_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The tokens' new states, and the keys and values of them and those before."""
        normed = self.norm1(hidden)
        key, value = self.attention.remember(normed)
        if before is not None:
            key = torch.cat([before[0], key], dim=2)
            value = torch.cat([before[1], value], dim=2)
        hidden = hidden + self.attention(normed, key, value, past)
        exist = None if slots_mask is None else slots_mask[:, None, None]
        known = self.cross_attention.remember(slots)
        hidden = hidden + self.cross_attention(self.norm2(hidden), *known, exist)
        hidden = hidden + self.linear2(F.relu(self.linear1(self.norm3(hidden))))
        return hidden, (key, value)
