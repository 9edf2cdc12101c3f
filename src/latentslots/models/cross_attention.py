"""Record the cross-attention of a denoiser.

Dimensions: B batch, N tokens, S conditioning vectors, C channels, X their width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor, nn


def attention_weights(
    attn: Attention,
    hidden_states: Float[Tensor, "B N C"],
    encoder_hidden_states: Float[Tensor, "B S X"],
    attention_mask: Tensor | None,
) -> Float[Tensor, "B N S"]:
    """Attention of every token to every conditioning vector, averaged over heads."""
    query = attn.head_to_batch_dim(attn.to_q(hidden_states))
    key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
    if attention_mask is not None:
        batch, sources = len(hidden_states), encoder_hidden_states.shape[1]
        attention_mask = attn.prepare_attention_mask(attention_mask, sources, batch)
    scores = attn.get_attention_scores(query, key, attention_mask)
    return scores.unflatten(0, (len(hidden_states), attn.heads)).mean(dim=1)


class RecordingAttnProcessor(AttnProcessor2_0):
    """diffusers' attention, which can also record its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the recording, so that a copy does not share it."""
        return {**self.__dict__, "recorded": None}

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S X"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "B N C"]:
        """Attend, and record the attention if recording is on."""
        if self.recorded is not None and encoder_hidden_states is not None:
            self.recorded.append(
                attention_weights(attn, hidden_states, encoder_hidden_states, attention_mask)
            )
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def token_grids(height: int, width: int, num_levels: int) -> dict[int, tuple[int, int]]:
    """Map numbers of tokens to rows and columns: each level halves the one above, rounded up.

    Args:
        height: Rows of the latents.
        width: Columns of the latents.
        num_levels: Levels of the denoiser.
    """
    grids = {}
    for _ in range(num_levels):
        grids[height * width] = (height, width)
        height, width = (height + 1) // 2, (width + 1) // 2
    return grids


class _Discard(list[Tensor]):
    """A list that stays empty."""

    def append(self, _: Tensor) -> None:
        """Ignore the tensor."""


def start_recording(
    unet: nn.Module, blocks: Sequence[str] = (), *, keep: bool = True
) -> list[Tensor]:
    """Record cross-attention until `stop_recording`.

    With gradient checkpointing, recording must stay on during the backward pass, which computes the
    layers again and requires the same operations as in the forward pass.

    Args:
        unet: A denoiser whose attention can be recorded.
        blocks: Blocks to record, such as `up_blocks.2`; all when empty.
        keep: Whether to store the attention; otherwise it is only computed, as that backward pass
            requires.

    Returns:
        A list to which every call of the denoiser appends the attention of its layers, in their
        order: `[B, N, S]`, which sums to 1 over S.

    Raises:
        ValueError: If no attention of the denoiser can be recorded, or a block does not exist.
    """
    layers = _recorders(unet)
    if not layers:
        raise ValueError("the attention of a denoiser with position='none' cannot be recorded")
    for block in blocks:
        if not any(_is_in(name, block) for name in layers):
            parts = [name.split(".") for name in layers]
            existing = {".".join(part[: 1 if part[0] == "mid_block" else 2]) for part in parts}
            raise ValueError(
                f"the denoiser has no block {block} with cross-attention; it has "
                f"{', '.join(sorted(existing))}"
            )
    recorded: list[Tensor] = [] if keep else _Discard()
    for name, layer in layers.items():
        if not blocks or any(_is_in(name, block) for block in blocks):
            layer.recorded = recorded
    return recorded


def stop_recording(unet: nn.Module) -> None:
    """Stop recording cross-attention."""
    for layer in _recorders(unet).values():
        layer.recorded = None


@contextmanager
def record_cross_attention(unet: nn.Module, blocks: Sequence[str] = ()) -> Iterator[list[Tensor]]:
    """Record cross-attention within a `with` block, as `start_recording` does."""
    recorded = start_recording(unet, blocks)
    try:
        yield recorded
    finally:
        stop_recording(unet)


def _recorders(unet: nn.Module) -> dict[str, Any]:
    """The attention processors of a denoiser that can record, by layer name."""
    model = getattr(unet, "model", unet)
    return {
        name: module.processor
        for name, module in model.named_modules()
        if isinstance(module, Attention) and hasattr(module.processor, "recorded")
    }


def _is_in(layer: str, block: str) -> bool:
    return layer == block or layer.startswith(f"{block}.")
