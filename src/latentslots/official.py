"""Reads checkpoints of the official implementation (JindongJiang/latent-slot-diffusion).

Such a checkpoint holds up to three folders: `unetencoder`, `multiheadstevesa` (slot attention) and
`unet2dconditionmodelwithpos`, each a `config.json` with weights in `.safetensors` or `.bin`. It
holds no VAE and no noise schedule: the schedule is the official one, the VAE is given by the user.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentslots.models import SlotEncoder, SlotUNet, UNetEncoder
from latentslots.models.noise_schedule import official_schedule
from latentslots.pipelines.lsd import (
    LatentSlotDiffusionPipeline,
    default_sampler,
)
from latentslots.pipelines.pretrained import PretrainedParts

STABLE_RESOLUTION = 256
"""Pixels per side of the images in the official Stable-LSD configuration."""
ENCODER, SLOTS, UNET = "unetencoder", "multiheadstevesa", "unet2dconditionmodelwithpos"

POSITIONS = {
    "cartesian": "cartesian",
    "sincos": "sinusoidal",
    "learned": "learned",
    "none": "none",
}

# Our tensor names, turned into the official ones.
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

# Buffers that we compute from the input's size instead.
_COMPUTED = re.compile(r"(^|\.)(pos|pos_emb\.1)\.(pe|pos_embed)$")


class OfficialCheckpointError(ValueError):
    """A folder that is not, or not completely, an official checkpoint."""


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
            Diffusion 2.1). Without it the pipeline encodes and segments, but cannot paint.
        parts: The DINOv2 and Stable Diffusion of a Stable-LSD checkpoint, which holds slot
            attention alone (`load_pretrained_parts`); officially those of `stable-lsd-coco`.

    Raises:
        OfficialCheckpointError: If the folder or a part is missing, a tensor is missing,
            unexpected or of another shape (each is named), if a Stable-LSD checkpoint is given no
            parts or parts of other widths, or others are given some.
    """
    folder = Path(checkpoint_dir)
    if not folder.is_dir():
        raise OfficialCheckpointError(f"there is no folder {folder}")
    found = [name for name in (ENCODER, SLOTS, UNET) if (folder / name).is_dir()]
    if found == [SLOTS]:
        return _stable(folder / SLOTS, parts)
    if parts is not None:
        raise OfficialCheckpointError(
            f"{folder} is no Stable-LSD checkpoint, and so takes no pretrained parts"
        )
    missing = [name for name in (ENCODER, SLOTS, UNET) if name not in found]
    if missing:
        raise OfficialCheckpointError(
            f"{folder} is no official LSD checkpoint: it lacks {', '.join(missing)}"
        )
    encoder_config, encoder_tensors = _read(folder / ENCODER)
    return LatentSlotDiffusionPipeline(
        encoder=_encoder(folder / ENCODER, encoder_config, encoder_tensors),
        slot_encoder=_slot_encoder(folder / SLOTS),
        unet=_unet(folder / UNET),
        scheduler=default_sampler(official_schedule()),
        vae=vae,
        resolution=encoder_config["input_resolution"],
    )


def _stable(folder: Path, parts: PretrainedParts | None) -> LatentSlotDiffusionPipeline:
    """Slots between pretrained parts; without slots, the denoiser is shown the empty prompt."""
    if parts is None:
        raise OfficialCheckpointError(
            f"{folder.parent} is a Stable-LSD checkpoint: it holds slot attention ({SLOTS}) alone, "
            "and needs the frozen DINOv2 and Stable Diffusion that it was trained with"
        )
    trained = _slot_encoder(folder)
    for name, own, others in (
        ("input_size", trained.config.in_channels, parts.encoder.out_channels),
        ("out_size", trained.config.cross_attention_dim, parts.unet.cross_attention_dim),
    ):
        if own != others:
            part = "DINOv2" if name == "input_size" else "Stable Diffusion"
            raise OfficialCheckpointError(
                f"{folder / 'config.json'}: {name} is {own}, and the {part} given has {others} "
                "channels"
            )
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


def _encoder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> UNetEncoder:
    model = UNetEncoder(
        in_channels=config["input_channels"],
        out_channels=config["out_channels"],
        downscale_factor=config["input_resolution"] // config["sample_size"],
        block_out_channels=tuple(config["block_out_channels"]),
        layers_per_block=config["layers_per_block"],
        attention_head_dim=config["attention_head_dim"],
        norm_num_groups=config["norm_num_groups"],
    )
    return _fill(model, tensors, _ENCODER_NAMES, folder)


def _slot_encoder(folder: Path) -> SlotEncoder:
    config, tensors = _read(folder)
    model = SlotEncoder(
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
    )
    return _fill(model, tensors, _SLOT_NAMES, folder)


def _unet(folder: Path) -> SlotUNet:
    config, tensors = _read(folder)
    if config["pos_type"] not in POSITIONS:
        raise OfficialCheckpointError(
            f"{folder}: pos_type is {config['pos_type']!r}, must be one of {', '.join(POSITIONS)}"
        )
    model = SlotUNet(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        sample_size=config["sample_size"],
        block_out_channels=tuple(config["block_out_channels"]),
        attention_levels=tuple("CrossAttn" in kind for kind in config["down_block_types"]),
        layers_per_block=config["layers_per_block"],
        cross_attention_dim=config["cross_attention_dim"],
        num_attention_heads=config["attention_head_dim"],
        norm_num_groups=config["norm_num_groups"],
        position=POSITIONS[config["pos_type"]],
    )
    return _fill(model, tensors, _UNET_NAMES, folder)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of one part. A `.bin` is read as tensors, never as code."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise OfficialCheckpointError(f"{folder} holds no config.json")
    try:
        values = json.loads(config_file.read_text())
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise OfficialCheckpointError(f"{config_file} is not a JSON object")
    config = _Config(values, config_file)
    safe, pickled = (
        folder / f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin")
    )
    if safe.is_file():
        return config, _load(safe, load_file)
    if pickled.is_file():
        return config, _load(pickled, partial(torch.load, map_location="cpu", weights_only=True))
    raise OfficialCheckpointError(f"{folder} holds neither {safe.name} nor {pickled.name}")


def _load(file: Path, load: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        tensors: Any = load(file)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError):
        tensors = None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise OfficialCheckpointError(
            f"{file} is damaged, or holds other things than named tensors, which are never loaded"
        )
    return tensors


class _Config(dict[str, Any]):
    """A config file in which a missing key is an error that names key and file."""

    def __init__(self, values: dict[str, Any], file: Path) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise OfficialCheckpointError(f"{self.file} lacks the key {key!r}")


def _fill(
    model: ModelMixin, tensors: dict[str, Tensor], names: list[tuple[str, str]], folder: Path
) -> Any:
    """Load official tensors into our module, one by one and none left over."""
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
                f"{folder}: the tensor {official} has shape {tuple(tensor.shape)}, where the config"
                f" asks for {expected}"
            )
        state[name] = tensor.reshape(ours.shape)
    if left:
        raise OfficialCheckpointError(f"{folder} holds the unexpected tensor {sorted(left)[0]}")
    model.load_state_dict(state)
    return model.eval()


def _official_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Positions are a 1x1 convolution there and a linear layer here, or a row there and a grid."""
    if re.search(r"position(_embedding)?\.projection\.weight$", name):
        return (*shape, 1, 1)
    if name.endswith("position.table"):
        return (1, shape[1] * shape[2], shape[3])
    return shape
