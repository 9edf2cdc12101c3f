"""From a feature map to slots, and from slots to the conditioning of a decoder.

Dimensions: B batch, N tokens, C input channels, K slots, D slot channels, R registers,
X cross-attention width of the decoder, h w rows and columns of the feature map, H W pixels.
"""

from typing import Literal

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from latentslots.models.framed_slots import (
    FramedSlotAttention,
    Glimpse,
    check_frames,
    initial_frames,
)
from latentslots.models.frames import FRAME_CHANNELS, join_frames, split_frames
from latentslots.models.position import PositionEmbedding, PositionKind
from latentslots.models.slot_competition import SlotAttention, SlotAttentionOutput, linear, mlp
from latentslots.models.strict_config import StrictConfigMixin

SlotInit = Literal["gaussian", "learned"]


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
            learned; the decoder attends to as many of them as there are slots, as in the official
            code. 0 for none.
        pad_null: The decoder attends to all vectors of that branch, as Stable Diffusion does to its
            empty prompt; slots are padded to their number, and the padding is masked.
        glimpse_size: Rows and columns of the crop in which each slot sees its part of the image;
            slots then have frames, in the last four of their channels (`frames`), and
            `slot_init` is `gaussian`. 0 for slots without frames, as in the paper.
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
        pad_null: bool = False,
        glimpse_size: int = 0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        has_null = null_condition or num_given_null > 0
        _check_encoder(num_slots, slot_init, num_registers, has_null, cross_attention_dim)
        if num_given_null < 0:
            raise ValueError(f"num_given_null must be 0 or more, got {num_given_null}")
        if 1 < num_given_null < num_slots:
            raise ValueError(
                f"num_slots must be at most {num_given_null}, the vectors of the unconditional "
                f"branch (the tokens of the empty prompt), got {num_slots}"
            )
        if pad_null and not num_given_null:
            raise ValueError("pad_null needs the vectors of an unconditional branch")
        if glimpse_size:
            check_frames(slot_dim, slot_init)
        content_dim = slot_dim - FRAME_CHANNELS if glimpse_size else slot_dim
        shape = (1, 1 if slot_init == "gaussian" else num_slots, content_dim)
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
        self.mlp_in = mlp(in_channels, in_channels, in_channels)
        kind = FramedSlotAttention if glimpse_size else SlotAttention
        self.slot_attention = kind(
            in_channels,
            slot_dim,
            mlp_dim=mlp_dim,
            num_iterations=num_iterations,
            num_heads=num_heads,
            temperature=temperature,
            bi_level=bi_level,
            eps=eps,
        )
        self.glimpse = self.norm_content = None
        if glimpse_size:
            self.glimpse = Glimpse(content_dim, size=glimpse_size)
            self.norm_content = nn.LayerNorm(content_dim)
        self.norm_out = self.linear_out = self.frame_out = None
        if cross_attention_dim:
            self.norm_out = nn.LayerNorm(content_dim)
            self.linear_out = linear(content_dim, cross_attention_dim)
            if glimpse_size:
                self.frame_out = linear(FRAME_CHANNELS, cross_attention_dim)
        self.registers = None
        if num_registers:
            self.registers = nn.Parameter(torch.randn(num_registers, cross_attention_dim) * 0.02)
            self.registers.requires_grad_(not given_registers)
        self.null = None
        if has_null and not num_registers:
            self.null = nn.Parameter(torch.zeros(num_given_null or 1, cross_attention_dim))
            self.null.requires_grad_(num_given_null == 0)

    @property
    def has_frames(self) -> bool:
        """Whether the last four channels of a slot are its frame."""
        return self.glimpse is not None

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
        # In float32: some releases of torch draw other numbers in half precision.
        noise = randn_tensor(shape, generator=generator, device=self.slot_mean.device)
        return noise.to(self.slot_mean.dtype)

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
        noise = noise.to(self.slot_mean)
        if not self.has_frames:
            return self.slot_mean + self.slot_log_std.exp() * noise
        content, frames = split_frames(noise)
        content = self.slot_mean + self.slot_log_std.exp() * content
        return join_frames(content, initial_frames(frames))

    def forward(
        self,
        features: Float[Tensor, "B C h w"],
        *,
        pixel_values: Float[Tensor, "B 3 H W"] | None = None,
        noise: Float[Tensor, "B K D"] | None = None,
        generator: Generator | list[Generator] | None = None,
        num_slots: int | None = None,
    ) -> SlotAttentionOutput:
        """Encode a feature map into slots.

        Args:
            features: The feature map of an image encoder.
            pixel_values: The images in [-1, 1], which slots with frames see, too.
            noise: Standard normal noise for the initial slots; drawn when absent.
            generator: Generator of that noise: one, or a list with one per image.
            num_slots: Number of slots; that of training when absent.

        Returns:
            Slots `[B, K, D]` before the projection, and attention `[B, K, N]` that sums to 1
            over K, tokens in row-major order.

        Raises:
            ValueError: If slots have frames, and there are no images.
        """
        slots = self.initial_slots(
            len(features), noise=noise, generator=generator, num_slots=num_slots
        )
        if not self.has_frames:
            return self.slot_attention(self._tokens(features), slots)
        if pixel_values is None:
            raise ValueError("slots with frames are encoded from features and pixel_values")
        height, width = features.shape[-2:]
        out = self.slot_attention(self._tokens(features), slots, height=height)
        slots = self._look(pixel_values, out.slots, out.attention.unflatten(2, (height, width)))
        return SlotAttentionOutput(slots=slots, attention=out.attention)

    def encode_masks(
        self,
        features: Float[Tensor, "B C h w"],
        masks: Float[Tensor, "B K h w"],
        *,
        pixel_values: Float[Tensor, "B 3 H W"],
    ) -> Float[Tensor, "B K D"]:
        """Encode given regions of images, as if slots had attended to them.

        Args:
            features: The feature map of an image encoder.
            masks: Each region's share of every token, from 0 to 1; they need not sum to 1.
            pixel_values: The images in [-1, 1].

        Raises:
            ValueError: If slots have no frames.
        """
        if not isinstance(self.slot_attention, FramedSlotAttention):
            raise ValueError("regions can be encoded only by a model whose slots have frames")
        tokens, height = self._tokens(features), features.shape[2]
        content = self.slot_mean.expand(*masks.shape[:2], -1)
        slots = self.slot_attention.attend_to(tokens, content, masks.flatten(2), height=height)
        return self._look(pixel_values, slots, masks)

    def _tokens(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B N C"]:
        """Embed a feature map, row by row, as input of slot attention."""
        tokens = features.flatten(2).transpose(1, 2)
        if self.position_embedding is not None:
            tokens = tokens + self.position_embedding(features.shape[2], features.shape[3])
        return self.mlp_in(self.norm_in(tokens))

    def _look(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        slots: Float[Tensor, "B K D"],
        masks: Float[Tensor, "B K h w"],
    ) -> Float[Tensor, "B K D"]:
        """Add to each slot what it sees in its frame."""
        assert self.glimpse is not None
        assert self.norm_content is not None
        content, frames = split_frames(slots)
        content = self.norm_content(content + self.glimpse(pixel_values, masks, frames))
        return join_frames(content, frames)

    def project(self, slots: Float[Tensor, "B K D"]) -> Float[Tensor, "B K X"]:
        """Project slots to the width of the decoder's cross-attention (LayerNorm and Linear).

        Raises:
            ValueError: If the decoder has no cross-attention.
        """
        if self.norm_out is None or self.linear_out is None:
            raise ValueError("slots cannot be projected: cross_attention_dim is 0")
        if self.frame_out is None:
            return self.linear_out(self.norm_out(slots))
        content, frames = split_frames(slots)
        return self.linear_out(self.norm_out(content)) + self.frame_out(frames)

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
            if 1 < len(self.null) < states.shape[1]:
                raise ValueError(
                    f"the unconditional branch has {len(self.null)} vectors, too few for "
                    f"{states.shape[1]} slots"
                )
            if self.config.pad_null:
                states, mask = pad_states(states, mask, len(self.null))
            null = self.null[: states.shape[1]]
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


def pad_states(
    states: Float[Tensor, "B S X"], mask: Bool[Tensor, "B S"] | None, length: int
) -> tuple[Float[Tensor, "B L X"], Bool[Tensor, "B L"] | None]:
    """Pad conditioning with vectors that the decoder does not attend to, up to a length."""
    missing = length - states.shape[1]
    if missing <= 0:
        return states, mask
    if mask is None:
        mask = states.new_ones(states.shape[:2], dtype=torch.bool)
    return F.pad(states, (0, 0, 0, missing)), F.pad(mask, (0, missing), value=False)


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
