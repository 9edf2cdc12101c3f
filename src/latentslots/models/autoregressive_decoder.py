"""A transformer that predicts an image token by token, conditioned on slots (Vaswani et al., 2017).

The decoder of SLATE (Singh et al., 2022, https://arxiv.org/abs/2110.11405, Sec. 3.2), for tokens of
a discrete autoencoder, and one of DINOSAUR's (Seitzer et al., 2023,
https://arxiv.org/abs/2209.14860), for the features of a vision transformer.

Dimensions: B batch, K slots, D slot channels, N tokens in row-major order, C channels of a token,
O channels of the prediction for a token, M width.
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
class DecoderCache:
    """Keys and values of the tokens so far, so that only one step is computed per token."""

    slots: Float[Tensor, "B K M"]
    slots_mask: Bool[Tensor, "B K"] | None
    keys_values: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Keys and values of every block."""
    num_tokens: int = 0


class AutoregressiveDecoder(ModelMixin, StrictConfigMixin):
    """Predict every token from the slots and the tokens before it.

    Blocks of masked self-attention, cross-attention to slots, and an MLP, each after a
    normalization. Differs from the official SLATE: no dropout.

    Args:
        in_dim: Channels of a token.
        out_dim: Channels of the prediction for a token, such as logits.
        slot_dim: Channels of a slot.
        num_tokens: Tokens per image.
        hidden_dim: Width of the blocks; their MLPs are four times as wide.
        num_layers: Number of blocks.
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
                f"num_heads must divide the width of the transformer, {hidden_dim}, got {num_heads}"
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
        """Predict every token of a known image (teacher forcing).

        Args:
            tokens: The whole image.
            slots: The scenes.
            slots_mask: True for the slots that exist.

        Raises:
            ValueError: If the number of tokens is not that of the model.
        """
        if tokens.shape[1] != self.config.num_tokens:
            raise ValueError(
                f"an image must have {self.config.num_tokens} tokens, got {tokens.shape[1]}"
            )
        before = self.token_in(tokens[:, :-1])
        start = self.start.to(before.dtype).expand(len(tokens), -1, -1)
        hidden = torch.cat([start, before], dim=1) + self.position_table
        slots = self.slot_in(slots)
        num_tokens = hidden.shape[1]
        past = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=hidden.device).tril()
        for block in self.blocks:
            hidden, _ = block(hidden, slots, past=past, slots_mask=slots_mask)
        return self.token_out(self.norm_out(hidden))

    def begin(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        slots_mask: Bool[Tensor, "B K"] | None = None,
    ) -> DecoderCache:
        """Begin to generate images token by token, with `step`."""
        return DecoderCache(slots=self.slot_in(slots), slots_mask=slots_mask)

    def step(
        self, previous: Float[Tensor, "B C"] | None, cache: DecoderCache
    ) -> Float[Tensor, "B O"]:
        """Predict the next token.

        Args:
            previous: The previous token; `None` before the first one.
            cache: The state, from `begin`; every step updates it.

        Raises:
            ValueError: If all tokens of the image exist already.
        """
        if cache.num_tokens == self.config.num_tokens:
            raise ValueError(f"an image has {cache.num_tokens} tokens; all of them exist already")
        if previous is None:
            hidden = self.start.expand(len(cache.slots), -1, -1)
        else:
            hidden = self.token_in(previous)[:, None]
        hidden = hidden + self.position_table[cache.num_tokens]
        updated = []
        for level, block in enumerate(self.blocks):
            before = cache.keys_values[level] if cache.keys_values else None
            hidden, key_value = block(
                hidden, cache.slots, before=before, slots_mask=cache.slots_mask
            )
            updated.append(key_value)
        cache.keys_values = updated
        cache.num_tokens += 1
        return self.token_out(self.norm_out(hidden))[:, 0]


class _Attention(nn.Module):
    """Multi-head attention whose keys and values are computed separately, to be cached."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_query = nn.Linear(dim, dim)
        self.to_key = nn.Linear(dim, dim)
        self.to_value = nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)

    def key_value(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens, each `[B, heads, n, channels]`."""
        return self._heads(self.to_key(states)), self._heads(self.to_value(states))

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        # Not fused: torch's fused attention to few slots is slower on a CPU
        # (benchmarks/attention.py).
        query = self._heads(self.to_query(hidden)) * key.shape[-1] ** -0.5
        logits = query @ key.transpose(2, 3)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        out = logits.softmax(dim=3) @ value
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class _Block(nn.Module):
    """Self-attention to the tokens before, cross-attention to slots, and an MLP."""

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
        """Return the new states, and keys and values of these tokens and those before."""
        normed = self.norm1(hidden)
        key, value = self.attention.key_value(normed)
        if before is not None:
            key = torch.cat([before[0], key], dim=2)
            value = torch.cat([before[1], value], dim=2)
        hidden = hidden + self.attention(normed, key, value, past)
        exist = None if slots_mask is None else slots_mask[:, None, None]
        hidden = hidden + self.cross_attention(
            self.norm2(hidden), *self.cross_attention.key_value(slots), exist
        )
        hidden = hidden + self.linear2(F.relu(self.linear1(self.norm3(hidden))))
        return hidden, (key, value)
