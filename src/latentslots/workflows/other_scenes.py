"""Scenes that an edit takes slots from: images, saved slots, and concept libraries.

Dimensions: K slots, D slot channels, N things.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.concepts import TENSORS_NAME, ConceptLibrary
from latentslots.fingerprint import content_hash
from latentslots.models.frames import FRAME_CHANNELS
from latentslots.pipelines.slot_output import SlotOutput
from latentslots.workflows.image_files import open_image_file
from latentslots.workflows.scenes import encode_files, load_scene

Thing = tuple[SlotOutput, int]
"""A scene, and the number of one of its slots."""


class OtherScenes:
    """Reads other scenes, each once.

    Args:
        pipe: The pipeline that edits.
        seed: Seed of the slot noise of images.
        lock: Held while an image is encoded, where several threads use the pipeline.
    """

    def __init__(
        self, pipe: Any, *, seed: int, lock: AbstractContextManager[Any] | None = None
    ) -> None:
        self._pipe, self._seed, self._lock = pipe, seed, lock or Lock()
        self._fingerprint = pipe.fingerprint()
        self._scenes: dict[str, SlotOutput] = {}
        self._libraries: dict[str, ConceptLibrary] = {}

    def scene(self, name: str) -> SlotOutput:
        """The scene of an image file, or of a file of slots.

        Raises:
            ValueError: If it cannot be read, or holds slots of another pipeline.
        """
        if Path(name).is_dir():
            raise ValueError(f"{name} is a folder: name an image, or a concept of a library")
        if name not in self._scenes:
            if name.endswith(".safetensors"):
                self._scenes[name] = load_scene(name, self._fingerprint)
            else:
                files = [open_image_file(name)]
                with self._lock:
                    (self._scenes[name],) = encode_files(self._pipe, files, seed=self._seed)
        return self._scenes[name]

    def thing(self, name: str, number: str) -> Thing:
        """A slot of another scene, or a concept of a library.

        Args:
            name: An image file, a file of slots, or the folder of a library.
            number: The slot, the concept, or CONCEPT.RANK for another of its crops.

        Raises:
            ValueError: If it does not exist.
        """
        if Path(name).is_dir():
            return self._concept(name, number)
        scene = self.scene(name)
        return scene, slot_number(number, scene)

    def _concept(self, folder: str, text: str) -> Thing:
        if folder not in self._libraries:
            library = ConceptLibrary.load(folder)
            library.check(self._pipe)
            self._libraries[folder] = library
        library = self._libraries[folder]
        concept, _, rank = text.strip().partition(".")
        if not concept.isdecimal() or int(concept) >= library.num_concepts:
            raise ValueError(
                f"there is no concept {text!r}: {folder} has concepts 0 to "
                f"{library.num_concepts - 1}"
            )
        members = library.members(int(concept))
        if not (rank or "0").isdecimal() or int(rank or 0) >= len(members):
            raise ValueError(
                f"there is no member {text!r}: concept {concept} has members {concept}.0 to "
                f"{concept}.{len(members) - 1}"
            )
        member = members[int(rank or 0)]
        mask = library.masks[member]
        slot = library.slots[member]
        # The rest of its image, whose slots do not matter.
        scene = SlotOutput(
            slots=torch.stack([slot, torch.zeros_like(slot)])[None],
            masks=torch.stack([mask, 1 - mask])[None],
            has_frames=self._pipe.has_frames,
        )
        return scene, 0


def slot_number(text: str, scene: SlotOutput) -> int:
    """Parse the number of a slot of a scene.

    Raises:
        ValueError: If the scene has no such slot.
    """
    count = scene.slots.shape[1]
    if not text.strip().isdecimal() or int(text) >= count:
        raise ValueError(f"there is no slot {text!r}: the scene has slots 0 to {count - 1}")
    return int(text)


def source_hash(name: str) -> str:
    """The hash of what an edit takes slots from."""
    path = Path(name)
    return content_hash(path / TENSORS_NAME if path.is_dir() else path)


def likeness(scene: SlotOutput, things: Sequence[Thing]) -> Float[Tensor, "N K"]:
    """The cosine of the slots of a scene and others, whatever their places, from -1 to 1.

    Args:
        scene: The scene.
        things: Slots of other scenes.
    """
    others = torch.stack([other.slots[0, index] for other, index in things])
    slots = scene.slots[0]
    if scene.has_frames:
        others, slots = others[:, :-FRAME_CHANNELS], slots[:, :-FRAME_CHANNELS]
    return F.normalize(others, dim=1) @ F.normalize(slots, dim=1).T
