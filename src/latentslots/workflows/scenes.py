"""The slots of picture files, kept in files beside what is shown of them.

Dimensions: K slots, D slot channels, h w the size of masks.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from latentslots import editing
from latentslots.pipelines.base import SlotPipeline
from latentslots.workflows.image_files import Picture

SLOTS_FILE = "slots.safetensors"


@dataclass(frozen=True)
class Scene:
    """One scene: its slots, and where they are.

    Attributes:
        slots: `[1, K, D]`.
        masks: `[K, h, w]`, sum to 1 over K.
    """

    slots: Float[Tensor, "1 K D"]
    masks: Float[Tensor, "K h w"]


def find_scenes(pipe: SlotPipeline, pictures: list[Picture], *, seed: int) -> list[Scene]:
    """The slots of pictures; each draws its start from the seed itself, whatever its batch."""
    if not pictures:
        return []
    generators = [Generator().manual_seed(seed) for _ in pictures]
    found = pipe.encode([picture.image for picture in pictures], generator=generators)
    scenes = []
    for i in range(len(pictures)):
        exist = slice(None) if found.slots_mask is None else found.slots_mask[i]
        slots, masks = found.slots[i][exist], found.masks[i][exist]
        scenes.append(Scene(slots[None].float().cpu(), masks.float().cpu()))
    return scenes


@torch.no_grad()
def place(
    pipe: Any, slots: Float[Tensor, "1 K D"], image: Float[Tensor, "1 3 H W"], *, seed: int
) -> Scene:
    """Where slots are in a picture that was painted from them.

    The patch decoder tells; without one, the picture's own slots are found and matched to these.

    Args:
        pipe: The pipeline that painted it.
        slots: What it was painted from.
        image: What was painted, in [0, 1].
        seed: Of the start of the picture's own slots.
    """
    pixel_values = image.to(pipe.device) * 2 - 1
    if pipe.patch_decoder is not None:
        masks = pipe.patch_decoder.segment(slots.to(pipe.device), pixel_values)[0].cpu()
        return Scene(slots.cpu(), masks)
    found = pipe.encode_pixel_values(pixel_values, generator=Generator().manual_seed(seed))
    partner = editing.match(slots, found.slots.cpu())[0]
    masks = found.masks[0].float().cpu()[partner.clamp(min=0)] * (partner >= 0)[:, None, None]
    return Scene(slots.cpu(), masks / masks.sum(dim=0).clamp_min(1e-6))


def save_scene(scene: Scene, path: Path, fingerprint: str, **facts: Any) -> None:
    """Write a scene as safetensors, with its pipeline's fingerprint and other facts."""
    tensors = {"slots": scene.slots.contiguous(), "masks": scene.masks.half().contiguous()}
    metadata = {"pipeline": fingerprint, **facts}
    save_file(tensors, path, metadata={"latentslots": json.dumps(metadata)})


def load_scene(path: str | Path, fingerprint: str) -> Scene:
    """Read a scene that `save_scene` wrote.

    Raises:
        ValueError: If there is none, or another pipeline found its slots.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("latentslots", "{}"))
            scene = Scene(file.get_tensor("slots"), file.get_tensor("masks").float())
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no slots: {error}") from error
    if metadata.get("pipeline") != fingerprint:
        raise ValueError(
            f"the slots in {path} were found by another pipeline, in which they mean other things"
        )
    return scene


def scene_facts(path: Path) -> dict[str, Any]:
    """The facts that `save_scene` wrote; none where there is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get("latentslots", "{}"))
    except (SafetensorError, json.JSONDecodeError, OSError):
        return {}
    return found


def bounding_box(owned: Tensor) -> list[int] | None:
    """Left, top, right and bottom (the first pixels outside) of what is True; `None` if nothing."""
    places = owned.nonzero()
    if not len(places):
        return None
    top, left = places.amin(dim=0).tolist()
    bottom, right = (places.amax(dim=0) + 1).tolist()
    return [left, top, right, bottom]
