"""Slot attention with a loop for every index: image, head, slot, token."""

import math

import torch
from torch import Tensor


def slot_attention(
    weights: dict[str, Tensor],
    inputs: Tensor,
    slots: Tensor,
    *,
    num_iterations: int,
    num_heads: int,
    temperature: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Slots `[B, K, D]` and attention `[B, K, N]` of the last iteration, summed over heads.

    Args:
        weights: State dict of `SlotAttention`.
        inputs: `[B, N, C]`.
        slots: `[B, K, D]`, where they start.
        num_iterations: Rounds.
        num_heads: Heads; the softmax is over heads and slots together.
        temperature: What logits are divided by.
        eps: Added to the attention before it is renormalized over tokens.
    """
    results = [
        _image(weights, tokens, list(start), num_iterations, num_heads, temperature, eps)
        for tokens, start in zip(inputs, slots, strict=True)
    ]
    return torch.stack([new for new, _ in results]), torch.stack([share for _, share in results])


def _image(
    weights: dict[str, Tensor],
    tokens: Tensor,
    slots: list[Tensor],
    num_iterations: int,
    num_heads: int,
    temperature: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    slot_dim = slots[0].numel()
    width = slot_dim // num_heads
    tokens = torch.stack([_layer_norm(weights, "norm_inputs", token) for token in tokens])
    keys = [weights["to_key.weight"] @ token for token in tokens]
    values = [weights["to_value.weight"] @ token for token in tokens]
    shares = torch.zeros(len(slots), len(tokens))

    for _ in range(num_iterations):
        queries = [
            weights["to_query.weight"] @ _layer_norm(weights, "norm_slots", slot) for slot in slots
        ]
        attention = torch.zeros(num_heads, len(slots), len(tokens))
        for n, key in enumerate(keys):
            exponentials = {}
            for h in range(num_heads):
                part = slice(h * width, (h + 1) * width)
                for k, query in enumerate(queries):
                    dot = (query[part] * key[part]).sum().item()
                    exponentials[h, k] = math.exp(dot / math.sqrt(slot_dim) / temperature)
            for (h, k), exponential in exponentials.items():
                attention[h, k, n] = exponential / sum(exponentials.values())
        shares = attention.sum(dim=0)

        updated = []
        for k, slot in enumerate(slots):
            update = torch.zeros(slot_dim)
            for h in range(num_heads):
                part = slice(h * width, (h + 1) * width)
                total = sum(attention[h, k, n].item() + eps for n in range(len(tokens)))
                for n, value in enumerate(values):
                    update[part] += (attention[h, k, n] + eps) / total * value[part]
            slot = _gru(weights, update, slot)
            hidden = weights["mlp.0.weight"] @ _layer_norm(weights, "norm_mlp", slot)
            hidden = (hidden + weights["mlp.0.bias"]).clamp(min=0)
            updated.append(slot + weights["mlp.2.weight"] @ hidden + weights["mlp.2.bias"])
        slots = updated
    return torch.stack(slots), shares


def _layer_norm(weights: dict[str, Tensor], name: str, vector: Tensor) -> Tensor:
    centered = vector - vector.mean()
    normal = centered / (centered.square().mean() + 1e-5).sqrt()
    return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _gru(weights: dict[str, Tensor], x: Tensor, h: Tensor) -> Tensor:
    """Cho et al. (2014); PyTorch stacks the gates as reset, update, new."""
    from_x = (weights["gru.weight_ih"] @ x + weights["gru.bias_ih"]).chunk(3)
    from_h = (weights["gru.weight_hh"] @ h + weights["gru.bias_hh"]).chunk(3)
    reset = torch.sigmoid(from_x[0] + from_h[0])
    update = torch.sigmoid(from_x[1] + from_h[1])
    new = torch.tanh(from_x[2] + reset * from_h[2])
    return (1 - update) * new + update * h
