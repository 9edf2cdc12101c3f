"""Slot attention (Locatello et al., 2020, https://arxiv.org/abs/2006.15055) as LSD uses it.

Dimensions: B batch, N tokens, C input channels, K slots, D slot channels, R registers,
X cross-attention width of the decoder, h w rows and columns of the feature map.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from latentslots.models.position import PositionEmbedding, PositionKind
from latentslots.models.strict_config import StrictConfigMixin

SlotInit = Literal["gaussian", "learned"]


@dataclass
class SlotAttentionOutput(BaseOutput):
    """Slots, and their shares of each input token in the last iteration, which sum to 1 over K."""

    slots: Float[Tensor, "B K D"]
    attention: Float[Tensor, "B K N"]


def _linear(in_dim: int, out_dim: int, *, bias: bool = True, relu: bool = False) -> nn.Linear:
    """A linear layer, initialized as in STEVE (Singh et al., 2022)."""
    layer = nn.Linear(in_dim, out_dim, bias=bias)
    if relu:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        _linear(in_dim, hidden_dim, relu=True), nn.ReLU(), _linear(hidden_dim, out_dim)
    )


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
        self.to_query = _linear(slot_dim, slot_dim, bias=False)
        self.to_key = _linear(input_dim, slot_dim, bias=False)
        self.to_value = _linear(input_dim, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        nn.init.xavier_uniform_(self.gru.weight_ih)
        nn.init.orthogonal_(self.gru.weight_hh)
        nn.init.zeros_(self.gru.bias_ih)
        nn.init.zeros_(self.gru.bias_hh)
        self.mlp = _mlp(slot_dim, mlp_dim, slot_dim)

    def forward(
        self, inputs: Float[Tensor, "B N C"], slots: Float[Tensor, "B K D"]
    ) -> SlotAttentionOutput:
        """Refine `slots`, the initial guess, against `inputs`."""
        inputs = self.norm_inputs(inputs)
        key = self._split_heads(self.to_key(inputs)) * self.scale  # [B, heads, N, D / heads]
        value = self._split_heads(self.to_value(inputs))

        # In full precision also under autocast: slots start almost alike, and their differences
        # are lost if every iteration rounds to eight bits.
        device = slots.device.type
        has_autocast = torch.amp.is_autocast_available(device)  # not so `meta`
        with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
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


class SlotEncoder(ModelMixin, StrictConfigMixin):
    """Encode a feature map into slots, and slots into the conditioning of the decoder.

    Args:
        in_channels: Channels of the feature map.
        slot_dim: Channels of a slot.
        cross_attention_dim: Width that the decoder's cross-attention requires; 0 for a decoder
            that takes the slots themselves.
        num_slots: Slots per image, by default.
        num_iterations: Rounds of slot attention.
        num_heads: Heads of slot attention.
        mlp_dim: Hidden width of the slots' MLP.
        temperature: See `SlotAttention`.
        slot_init: `gaussian`, every slot a draw from one learned Gaussian; or `learned`, one
            learned vector per slot.
        bi_level: See `SlotAttention`.
        position: Kind of position embedding that is added to the features.
        learned_position_size: Rows and columns of a `learned` position table.
        num_registers: Vectors that the decoder attends to beside the slots (Nguyen et al., 2026,
            https://arxiv.org/abs/2601.01224). 0 for the plain method.
        null_condition: Whether to learn one vector as the unconditional branch of classifier-free
            guidance, for a model without registers.
        given_registers: Whether registers are constants (`set_constants`) rather than learned.
        num_given_null: Vectors of an unconditional branch that is constant (`set_constants`), not
            learned; the decoder attends to as many of them as there are slots. 0 for none.
        eps: See `SlotAttention`.
    """

    @register_to_config
    def __init__(
        self,
        *,
        in_channels: int = 192,
        slot_dim: int = 192,
        cross_attention_dim: int = 192,
        num_slots: int = 11,
        num_iterations: int = 3,
        num_heads: int = 1,
        mlp_dim: int = 192,
        temperature: float = 1.0,
        slot_init: SlotInit = "gaussian",
        bi_level: bool = False,
        position: PositionKind = "cartesian",
        learned_position_size: int = 32,
        num_registers: int = 0,
        null_condition: bool = False,
        given_registers: bool = False,
        num_given_null: int = 0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        has_null = null_condition or num_given_null > 0
        _check_encoder(num_slots, slot_init, num_registers, has_null, cross_attention_dim)
        if num_given_null < 0:
            raise ValueError(f"num_given_null must be 0 or more, got {num_given_null}")
        shape = (1, 1 if slot_init == "gaussian" else num_slots, slot_dim)
        self.slot_mean = nn.Parameter(torch.empty(shape))
        nn.init.xavier_uniform_(self.slot_mean)
        self.slot_log_std = None
        if slot_init == "gaussian":
            self.slot_log_std = nn.Parameter(torch.empty(shape))
            nn.init.xavier_uniform_(self.slot_log_std)

        self.position_embedding = None
        if position != "none":
            self.position_embedding = PositionEmbedding(
                in_channels, position, learned_size=learned_position_size
            )
        self.norm_in = nn.LayerNorm(in_channels)
        self.mlp_in = _mlp(in_channels, in_channels, in_channels)
        self.slot_attention = SlotAttention(
            in_channels,
            slot_dim,
            mlp_dim=mlp_dim,
            num_iterations=num_iterations,
            num_heads=num_heads,
            temperature=temperature,
            bi_level=bi_level,
            eps=eps,
        )
        self.norm_out = self.linear_out = None
        if cross_attention_dim:
            self.norm_out = nn.LayerNorm(slot_dim)
            self.linear_out = _linear(slot_dim, cross_attention_dim)
        self.registers = None
        if num_registers:
            self.registers = nn.Parameter(torch.randn(num_registers, cross_attention_dim) * 0.02)
            self.registers.requires_grad_(not given_registers)
        self.null = None
        if has_null and not num_registers:
            self.null = nn.Parameter(torch.zeros(num_given_null or 1, cross_attention_dim))
            self.null.requires_grad_(num_given_null == 0)

    @property
    def can_drop_condition(self) -> bool:
        """Whether there is an unconditional branch, which guidance above 1 requires."""
        return self.registers is not None or self.null is not None

    @torch.no_grad()
    def set_constants(self, states: Float[Tensor, "M X"]) -> None:
        """Set the registers, or the unconditional branch, of an encoder that does not learn them.

        Args:
            states: The vectors, such as the text encoder's embedding of the empty prompt.

        Raises:
            ValueError: If the encoder has no such constants, or they have another shape.
        """
        constants = self.registers if self.config.given_registers else self.null
        if constants is None or constants.requires_grad:
            raise ValueError("this encoder learns its registers, or has none")
        if states.shape != constants.shape:
            raise ValueError(
                f"registers must have shape {list(constants.shape)}, got {list(states.shape)}"
            )
        constants.copy_(states)

    def draw_noise(
        self,
        batch_size: int,
        *,
        num_slots: int | None = None,
        generator: Generator | list[Generator] | None = None,
    ) -> Float[Tensor, "B K D"]:
        """Draw standard normal noise for the initial slots.

        Images are drawn one by one: the noise of an image depends on its own generator alone (with
        one generator for all, on the images before it), not on how images are batched.
        """
        if not isinstance(generator, list):
            generator = [generator] * batch_size if generator is not None else None
        elif len(generator) != batch_size:
            raise ValueError(f"{len(generator)} generators were given for {batch_size} images")
        shape = (batch_size, num_slots or self.config.num_slots, self.config.slot_dim)
        return randn_tensor(
            shape, generator=generator, device=self.slot_mean.device, dtype=self.slot_mean.dtype
        )

    def initial_slots(
        self,
        batch_size: int,
        *,
        noise: Float[Tensor, "B K D"] | None = None,
        generator: Generator | list[Generator] | None = None,
        num_slots: int | None = None,
    ) -> Float[Tensor, "B K D"]:
        """Return the initial slots: draws from the learned Gaussian, or the learned vectors.

        Raises:
            ValueError: If `num_slots` is below 1, contradicts `noise`, or exceeds the number of
                learned vectors; if there is noise for learned vectors; or if `noise` or a list of
                generators is for another batch size.
        """
        if num_slots is not None and num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {num_slots}")
        if self.slot_log_std is None:
            if noise is not None:
                raise ValueError("slots that are initialized with learned vectors take no noise")
            num_slots = num_slots or self.config.num_slots
            if num_slots > self.config.num_slots:
                raise ValueError(
                    f"num_slots must be at most {self.config.num_slots}, the number of learned "
                    f"slots, got {num_slots}"
                )
            return self.slot_mean[:, :num_slots].expand(batch_size, -1, -1)
        if noise is None:
            noise = self.draw_noise(batch_size, num_slots=num_slots, generator=generator)
        elif noise.shape != (batch_size, noise.shape[1], self.config.slot_dim):
            raise ValueError(
                f"noise must have shape [{batch_size}, K, {self.config.slot_dim}], "
                f"got {list(noise.shape)}"
            )
        elif num_slots is not None and noise.shape[1] != num_slots:
            raise ValueError(f"noise is for {noise.shape[1]} slots, but num_slots={num_slots}")
        return self.slot_mean + self.slot_log_std.exp() * noise.to(self.slot_mean)

    def forward(
        self,
        features: Float[Tensor, "B C h w"],
        *,
        noise: Float[Tensor, "B K D"] | None = None,
        generator: Generator | list[Generator] | None = None,
        num_slots: int | None = None,
    ) -> SlotAttentionOutput:
        """Encode a feature map into slots.

        Args:
            features: The feature map of an image encoder.
            noise: Standard normal noise for the initial slots; drawn when absent.
            generator: Generator of that noise: one, or a list with one per image.
            num_slots: Number of slots; that of training when absent.

        Returns:
            Slots `[B, K, D]` before the projection, and attention `[B, K, N]` that sums to 1
            over K, tokens in row-major order.
        """
        batch_size, _, height, width = features.shape
        tokens = features.flatten(2).transpose(1, 2)  # [B, N, C]
        if self.position_embedding is not None:
            tokens = tokens + self.position_embedding(height, width)
        tokens = self.mlp_in(self.norm_in(tokens))
        slots = self.initial_slots(
            batch_size, noise=noise, generator=generator, num_slots=num_slots
        )
        return self.slot_attention(tokens, slots)

    def project(self, slots: Float[Tensor, "B K D"]) -> Float[Tensor, "B K X"]:
        """Project slots to the width of the decoder's cross-attention (LayerNorm and Linear).

        Raises:
            ValueError: If the decoder has no cross-attention.
        """
        if self.norm_out is None or self.linear_out is None:
            raise ValueError("slots cannot be projected: cross_attention_dim is 0")
        return self.linear_out(self.norm_out(slots))

    def condition(
        self,
        slots: Float[Tensor, "B K D"] | None,
        slots_mask: Bool[Tensor, "B K"] | None = None,
        *,
        dropped: Bool[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B S X"], Bool[Tensor, "B S"] | None]:
        """Return the conditioning of the decoder: projected slots, then registers, and a mask.

        Args:
            slots: The scenes; `None` for the unconditional branch of guidance.
            slots_mask: True for the slots that exist, where scenes differ in their number.
            dropped: True for the scenes of the batch whose slots are replaced by the
                unconditional branch (condition dropout, Ho and Salimans, 2022,
                https://arxiv.org/abs/2207.12598).

        Returns:
            States and a mask: True where the decoder attends, `None` for everywhere. For
            `slots=None` the batch size is 1, to be expanded: the registers, or the null vector, or
            zeros if the model has neither.

        Raises:
            ValueError: If slots are dropped, and there is no unconditional branch, or it has
                several vectors, but fewer than there are slots.
        """
        if slots is None:
            if self.registers is not None:
                return self.registers[None], None
            if self.null is not None:
                return self.null[None], None
            return self.slot_mean.new_zeros(1, 1, self.config.cross_attention_dim), None

        states, mask = self.project(slots), slots_mask
        if dropped is not None and not self.can_drop_condition:
            raise ValueError("dropping slots needs registers or null_condition=True")
        if dropped is not None and self.null is not None:
            null = self.null[: states.shape[1]]
            if 1 < len(null) < states.shape[1]:
                raise ValueError(
                    f"the unconditional branch has {len(null)} vectors, too few for "
                    f"{states.shape[1]} slots"
                )
            # One null vector is repeated for every slot: attention over copies of a vector equals
            # attention over that vector.
            states = torch.where(dropped[:, None, None], null.to(states.dtype), states)
            mask = None if mask is None else mask | dropped[:, None]
        if self.registers is None:
            return states, mask

        registers = self.registers.to(states.dtype).expand(states.shape[0], -1, -1)
        if dropped is not None:
            mask = states.new_ones(states.shape[:2], dtype=torch.bool) if mask is None else mask
            mask = mask & ~dropped[:, None]
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(registers.shape[:2])], dim=1)
        return torch.cat([states, registers], dim=1), mask


def _check_encoder(
    num_slots: int,
    slot_init: str,
    num_registers: int,
    null_condition: bool,
    cross_attention_dim: int,
) -> None:
    if num_slots < 1:
        raise ValueError(f"num_slots must be at least 1, got {num_slots}")
    if slot_init not in ("gaussian", "learned"):
        raise ValueError(f"slot_init must be 'gaussian' or 'learned', got {slot_init!r}")
    if num_registers < 0:
        raise ValueError(f"num_registers must be 0 or more, got {num_registers}")
    if cross_attention_dim < 0:
        raise ValueError(f"cross_attention_dim must be 0 or more, got {cross_attention_dim}")
    if cross_attention_dim == 0 and (num_registers or null_condition):
        raise ValueError(
            "registers and the null vector require cross-attention, but cross_attention_dim is 0"
        )
