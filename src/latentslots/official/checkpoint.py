"""Load official checkpoints (JindongJiang/latent-slot-diffusion) into this package's models.

A checkpoint holds up to three folders, `unetencoder`, `multiheadstevesa` (slot attention) and
`unet2dconditionmodelwithpos`, each a `config.json` with weights in `.safetensors` or `.bin`. It
holds neither a VAE, which the user names, nor a noise schedule, for which the official one is used.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentslots.models import SlotEncoder, SlotUNet, UNetEncoder
from latentslots.models.autoencoder import downscale_factor
from latentslots.models.noise_schedule import official_schedule
from latentslots.official.config_keys import (
    ENCODER_KEYS,
    SLOT_KEYS,
    UNET_KEYS,
    OfficialCheckpointError,
    OfficialConfig,
)
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.pretrained import PretrainedParts
from latentslots.pipelines.sampling import default_sampler

STABLE_RESOLUTION = 256
"""Pixels per side of the images in the official Stable-LSD configuration."""
ENCODER, SLOTS, UNET = "unetencoder", "multiheadstevesa", "unet2dconditionmodelwithpos"

POSITIONS = {
    "cartesian": "cartesian",
    "sincos": "sinusoidal",
    "learned": "learned",
    "none": "none",
}
ATTENTION_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
"""Block types of the U-Net's levels that `SlotUNet` supports, and whether they hold attention."""
UP_BLOCKS = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D", "DownBlock2D": "UpBlock2D"}

Model = TypeVar("Model", bound=ModelMixin)

# Patterns that turn our names of tensors into the official ones.
_ENCODER_NAMES = [(r"^stem\.", "downscale_cnn."), (r"^unet\.", "")]
_SLOT_NAMES = [
    (r"^slot_mean$", "slot_mu"),
    (r"^slot_log_std$", "slot_log_sigma"),
    (r"^position_embedding\.projection\.", "pos.projection."),
    (r"^norm_in\.", "in_layer_norm."),
    (r"^mlp_in\.", "in_mlp."),
    (r"^norm_out\.", "out_layer_norm."),
    (r"^linear_out\.", "out_linear."),
    (r"^slot_attention\.to_query\.", "project_q."),
    (r"^slot_attention\.to_key\.", "project_k."),
    (r"^slot_attention\.to_value\.", "project_v."),
    (r"^slot_attention\.", ""),
]
_UNET_NAMES = [
    (r"\.processor\.position\.projection\.", ".pos_emb.1.projection."),
    (r"\.processor\.position\.gain$", ".pos_emb.1.gamma"),
    (r"\.processor\.position\.table$", ".pos_emb.pe"),
]

# Buffers of positions, which our modules compute from the size of their input.
_COMPUTED = re.compile(r"(^|\.)(pos|pos_emb\.1)\.(pe|pos_embed)$")


def load_official(
    checkpoint_dir: str | Path,
    *,
    vae: AutoencoderKL | None = None,
    parts: PretrainedParts | None = None,
) -> LatentSlotDiffusionPipeline:
    """Build a pipeline from an official LSD checkpoint.

    Args:
        checkpoint_dir: A `checkpoint-<step>` folder.
        vae: The autoencoder that the model was trained with (for MOVi-E, that of Stable
            Diffusion 2.1). Without it the pipeline encodes and segments, but decodes no images.
        parts: The DINOv2 and Stable Diffusion of a Stable-LSD checkpoint, which holds slot
            attention alone (`load_pretrained_parts`); officially those of `stable-lsd-coco`.

    Raises:
        OfficialCheckpointError: If the folder or a part of it is missing; if a config has a key or
            value that is not supported; if a tensor is missing, unexpected or of another shape; if
            parts do not fit each other or the VAE; or if `parts` are missing for a Stable-LSD
            checkpoint, or passed for another one. The message names the file, key or tensor.
    """
    folder = Path(checkpoint_dir)
    if not folder.is_dir():
        raise OfficialCheckpointError(f"there is no folder {folder}")
    present = [name for name in (ENCODER, SLOTS, UNET) if (folder / name).is_dir()]
    if present == [SLOTS]:
        return _load_stable(folder / SLOTS, parts)
    if parts is not None:
        raise OfficialCheckpointError(
            f"{folder} is not a Stable-LSD checkpoint, so it takes no pretrained parts"
        )
    missing = [name for name in (ENCODER, SLOTS, UNET) if name not in present]
    if missing:
        raise OfficialCheckpointError(
            f"{folder} is not an official LSD checkpoint: it lacks {', '.join(missing)}"
        )
    configs = _read_configs(folder)
    encoder = _load_encoder(configs[ENCODER])
    slot_encoder = _load_slot_encoder(configs[SLOTS])
    unet = _load_unet(configs[UNET])
    resolution = configs[ENCODER]["input_resolution"]
    if vae is not None:
        _check_vae(vae, configs[UNET], resolution)
    return LatentSlotDiffusionPipeline(
        encoder=encoder,
        slot_encoder=slot_encoder,
        unet=unet,
        scheduler=default_sampler(official_schedule()),
        vae=vae,
        resolution=resolution,
    )


def _read_configs(folder: Path) -> dict[str, OfficialConfig]:
    """Read the three configs, and check that they fit each other."""
    keys = {ENCODER: ENCODER_KEYS, SLOTS: SLOT_KEYS, UNET: UNET_KEYS}
    configs = {name: OfficialConfig(folder / name / "config.json", keys[name]) for name in keys}
    encoder, slots, unet = configs.values()
    slots.require("input_size", encoder["out_channels"], f"the out_channels of {ENCODER}")
    slots.require("input_resolution", encoder["sample_size"], f"the sample_size of {ENCODER}")
    slots.require("out_size", unet["cross_attention_dim"], f"the cross_attention_dim of {UNET}")
    unet.require("out_channels", unet["in_channels"], "its in_channels, since it predicts noise")
    return configs


def _check_vae(vae: AutoencoderKL, unet: OfficialConfig, resolution: int) -> None:
    factor = downscale_factor(vae)
    unet.require("in_channels", vae.config.latent_channels, "the latent channels of the VAE")
    unet.require(
        "sample_size",
        resolution // factor,
        f"images of {resolution} pixels, and {factor} pixels per latent of the VAE",
    )


def _load_stable(folder: Path, parts: PretrainedParts | None) -> LatentSlotDiffusionPipeline:
    """Load slot attention for pretrained parts; the empty prompt is the unconditional branch."""
    if parts is None:
        raise OfficialCheckpointError(
            f"{folder.parent} is a Stable-LSD checkpoint: it holds slot attention ({SLOTS}) alone, "
            "and needs the frozen DINOv2 and Stable Diffusion that it was trained with"
        )
    config = OfficialConfig(folder / "config.json", SLOT_KEYS)
    config.require("input_size", parts.encoder.out_channels, "the channels of the DINOv2")
    config.require(
        "input_resolution", parts.encoder.grid_size, "patches per side of the DINOv2's images"
    )
    config.require(
        "out_size", parts.unet.cross_attention_dim, "the prompt width of the Stable Diffusion"
    )
    trained = _load_slot_encoder(config)
    options = {k: v for k, v in trained.config.items() if not k.startswith("_")}
    slots = SlotEncoder(**{**options, "num_given_null": len(parts.empty_prompt)})
    slots.load_state_dict({**trained.state_dict(), "null": parts.empty_prompt})
    return LatentSlotDiffusionPipeline(
        encoder=parts.encoder,
        slot_encoder=slots.eval(),
        unet=parts.unet,
        scheduler=default_sampler(parts.noise_schedule),
        vae=parts.vae,
        resolution=STABLE_RESOLUTION,
        pretrained=dict(parts.sources),
    )


def _load_encoder(config: OfficialConfig) -> UNetEncoder:
    def build() -> UNetEncoder:
        widths, head_dim = config["block_out_channels"], config["attention_head_dim"]
        stem = config["in_channels"]
        return UNetEncoder(
            in_channels=config["input_channels"],
            stem_channels=None if stem == widths[0] else stem,
            out_channels=config["out_channels"],
            downscale_factor=config["input_resolution"] // config["sample_size"],
            block_out_channels=tuple(widths),
            layers_per_block=config["layers_per_block"],
            # null is one head of the full width.
            attention_head_dim=widths[-1] if head_dim is None else head_dim,
            norm_num_groups=config["norm_num_groups"],
        )

    model = _build(config, build)
    if config["input_resolution"] % model.size_multiple:
        raise OfficialCheckpointError(
            f"{config.file}: input_resolution is {config['input_resolution']}, must be a multiple "
            f"of {model.size_multiple}, the stride of all levels together"
        )
    return _fill(model, config.file.parent, _ENCODER_NAMES)


def _load_slot_encoder(config: OfficialConfig) -> SlotEncoder:
    model = _build(
        config,
        lambda: SlotEncoder(
            in_channels=config["input_size"],
            slot_dim=config["slot_size"],
            cross_attention_dim=config["out_size"],
            num_slots=config["num_slots"],
            num_iterations=config["num_iterations"],
            num_heads=config["num_heads"],
            mlp_dim=config["mlp_hidden_size"],
            slot_init="learned" if config["learnable_slot_init"] else "gaussian",
            bi_level=config["bi_level"],
            eps=config["epsilon"],
        ),
    )
    return _fill(model, config.file.parent, _SLOT_NAMES)


def _load_unet(config: OfficialConfig) -> SlotUNet:
    if config["pos_type"] not in POSITIONS:
        raise OfficialCheckpointError(
            f"{config.file}: pos_type is {config['pos_type']!r}, must be one of "
            f"{', '.join(POSITIONS)}"
        )
    model = _build(
        config,
        lambda: SlotUNet(
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            sample_size=config["sample_size"],
            block_out_channels=tuple(config["block_out_channels"]),
            attention_levels=_attention_levels(config),
            layers_per_block=config["layers_per_block"],
            cross_attention_dim=config["cross_attention_dim"],
            num_attention_heads=config["attention_head_dim"],
            norm_num_groups=config["norm_num_groups"],
            position=POSITIONS[config["pos_type"]],
        ),
    )
    return _fill(model, config.file.parent, _UNET_NAMES)


def _attention_levels(config: OfficialConfig) -> tuple[bool, ...]:
    """Whether each level of the U-Net, from the top, holds attention."""
    down = config["down_block_types"]
    unsupported = [kind for kind in down if kind not in ATTENTION_BLOCKS]
    if unsupported:
        raise OfficialCheckpointError(
            f"{config.file}: down_block_types has {unsupported[0]!r}, must be made of "
            f"{', '.join(ATTENTION_BLOCKS)}"
        )
    mirrored = [UP_BLOCKS[kind] for kind in reversed(down)]
    config.require("up_block_types", mirrored, "down_block_types, mirrored")
    return tuple(ATTENTION_BLOCKS[kind] for kind in down)


def _build(config: OfficialConfig, build: Callable[[], Model]) -> Model:
    """Build a model; errors are reported as errors of its config."""
    try:
        return build()
    except OfficialCheckpointError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        raise OfficialCheckpointError(f"{config.file} describes no valid model: {error}") from None


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of one part. A `.bin` is read as tensors, never as code."""
    safe, pickled = (
        folder / f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin")
    )
    if safe.is_file():
        return _read_file(safe, load_file)
    if pickled.is_file():
        return _read_file(pickled, partial(torch.load, map_location="cpu", weights_only=True))
    raise OfficialCheckpointError(f"{folder} holds neither {safe.name} nor {pickled.name}")


def _read_file(file: Path, load: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        tensors: Any = load(file)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError):
        tensors = None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise OfficialCheckpointError(
            f"{file} is damaged, or holds objects other than named tensors, which are never loaded"
        )
    return tensors


def _fill(model: Model, folder: Path, names: list[tuple[str, str]]) -> Model:
    """Load official tensors into our module; none may be missing or left over."""
    tensors = _read_tensors(folder)
    left = {name: tensor for name, tensor in tensors.items() if not _COMPUTED.search(name)}
    state = {}
    for name, ours in model.state_dict().items():
        official = name
        for pattern, replacement in names:
            official = re.sub(pattern, replacement, official)
        if official not in left:
            raise OfficialCheckpointError(f"{folder} lacks the tensor {official}")
        tensor = left.pop(official)
        expected = _official_shape(name, tuple(ours.shape))
        if tensor.shape != expected:
            raise OfficialCheckpointError(
                f"{folder}: the tensor {official} has shape {tuple(tensor.shape)}, but the config "
                f"requires {expected}"
            )
        state[name] = tensor.reshape(ours.shape)
    if left:
        raise OfficialCheckpointError(f"{folder} holds the unexpected tensor {sorted(left)[0]}")
    model.load_state_dict(state)
    return model.eval()


def _official_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that one of our tensors has in the official code.

    Positions are a 1x1 convolution there and a linear layer here; a learned table is one row of
    tokens there and a grid here.
    """
    if re.search(r"position(_embedding)?\.projection\.weight$", name):
        return (*shape, 1, 1)
    if name.endswith("position.table"):
        return (1, shape[1] * shape[2], shape[3])
    return shape
