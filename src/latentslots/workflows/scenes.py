"""Scenes of image files: encoding them, and saving their slots and masks.

A scene is a `SlotOutput` of batch size 1, on the CPU, with existing slots only.

Dimensions: K slots or regions, D slot channels, H W pixels.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots import editing
from latentslots.files import atomic_file, check_format
from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.slot_output import SlotOutput
from latentslots.workflows.image_files import ImageFile

SLOTS_FILE = "slots.safetensors"
FORMAT = 1
"""Format of such a file."""


def encode_files(pipe: SlotPipeline, files: list[ImageFile], *, seed: int) -> list[SlotOutput]:
    """Encode image files; every image draws its slot noise from the same seed."""
    if not files:
        return []
    generators = [Generator().manual_seed(seed) for _ in files]
    out = pipe.encode([file.seen for file in files], generator=generators)
    scenes = []
    for i in range(len(files)):
        exist = slice(None) if out.slots_mask is None else out.slots_mask[i]
        slots, masks = (each[i][exist][None].float().cpu() for each in (out.slots, out.masks))
        scenes.append(SlotOutput(slots=slots, masks=masks, has_frames=pipe.has_frames))
    return scenes


@torch.no_grad()
def encode_regions(pipe: Any, file: ImageFile, regions: Bool[Tensor, "K H W"]) -> SlotOutput:
    """Encode given regions of an image as slots.

    Args:
        pipe: A pipeline whose slots have frames.
        file: The image.
        regions: The regions, in pixels of the square that the model sees.

    Raises:
        ValueError: If the slots of the pipeline have no frames.
    """
    pixel_values = pipe.preprocess(file.seen).to(pipe.device, pipe.encoder.dtype)
    features = pipe.encoder(pixel_values)
    masks = F.interpolate(regions[None].float(), pixel_values.shape[2:], mode="area")
    shares = F.interpolate(masks, features.shape[2:], mode="area").to(features)
    slots = pipe.slot_encoder.encode_masks(features, shares, pixel_values=pixel_values)
    return SlotOutput(slots=slots.float().cpu(), masks=masks, has_frames=True)


@torch.no_grad()
def locate_slots(
    pipe: Any, slots: Float[Tensor, "1 K D"], image: Float[Tensor, "1 3 H W"], *, seed: int
) -> SlotOutput:
    """Predict the masks of slots in an image that was sampled from them.

    The patch decoder predicts them. Without one, the image is encoded, and the slots found in it
    are matched to those given.

    Args:
        pipe: The pipeline that sampled the image.
        slots: The slots that it was sampled from.
        image: The image, in [0, 1].
        seed: Seed of the slot noise for encoding the image.
    """
    pixel_values = image.to(pipe.device) * 2 - 1
    if pipe.patch_decoder is not None:
        masks = pipe.patch_decoder.segment(slots.to(pipe.device), pixel_values)
        return SlotOutput(slots=slots.cpu(), masks=masks.cpu(), has_frames=pipe.has_frames)
    out = pipe.encode_pixel_values(pixel_values, generator=Generator().manual_seed(seed))
    partner = editing.match(slots, out.slots.cpu())[0]
    masks = out.masks[0].float().cpu()[partner.clamp(min=0)] * (partner >= 0)[:, None, None]
    masks = masks / masks.sum(dim=0).clamp_min(1e-6)
    return SlotOutput(slots=slots.cpu(), masks=masks[None], has_frames=pipe.has_frames)


def save_scene(scene: SlotOutput, path: Path, fingerprint: str, **facts: Any) -> None:
    """Write a scene as safetensors: its slots and masks, and the slots' frames as an extra copy.

    Args:
        scene: The scene.
        path: The file.
        fingerprint: Fingerprint of the pipeline; other pipelines cannot use its slots.
        **facts: Further metadata.
    """
    tensors = {"slots": scene.slots.contiguous(), "masks": scene.masks[0].half().contiguous()}
    if scene.frames is not None:
        tensors["frames"] = scene.frames[0].contiguous()
    metadata = {"format": FORMAT, "pipeline": fingerprint, **facts}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"latentslots": json.dumps(metadata)})


def load_scene(path: str | Path, fingerprint: str) -> SlotOutput:
    """Read a scene that `save_scene` wrote.

    Raises:
        ValueError: If the file does not exist, holds no slots or those of another pipeline, or a
            newer release wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("latentslots", "{}"))
            slots, masks = file.get_tensor("slots"), file.get_tensor("masks")[None].float()
            has_frames = "frames" in file.keys()  # noqa: SIM118  (a file, not a dictionary)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no slots: {error}") from error
    check_format(metadata.get("format"), FORMAT, str(path))
    if metadata.get("pipeline") != fingerprint:
        raise ValueError(
            f"the slots in {path} are those of another pipeline: encode its image anew"
        )
    return SlotOutput(slots=slots, masks=masks, has_frames=has_frames)


def scene_facts(path: Path) -> dict[str, Any]:
    """Read the metadata that `save_scene` wrote; empty if the file does not exist."""
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {}).get("latentslots", "{}"))
    except (SafetensorError, json.JSONDecodeError, OSError):
        return {}
    return facts


def bounding_box(owned: Tensor) -> list[int] | None:
    """Left, top, right and bottom (the first pixels outside) of True pixels; `None` without any."""
    pixels = owned.nonzero()
    if not len(pixels):
        return None
    top, left = pixels.amin(dim=0).tolist()
    bottom, right = (pixels.amax(dim=0) + 1).tolist()
    return [left, top, right, bottom]
