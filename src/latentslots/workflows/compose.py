"""Batches of scenes to generate images from: composed, saved in files, or encoded from images.

Dimensions: B scenes, K slots, D slot channels, h w the size of masks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from latentslots import editing
from latentslots.concepts import TENSORS_NAME, ConceptLibrary, Layout
from latentslots.fingerprint import content_hash
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.slot_output import SlotOutput
from latentslots.workflows.image_files import read_batches
from latentslots.workflows.scenes import encode_files, load_scene


@dataclass(frozen=True)
class SceneBatch:
    """Scenes, the names of their images, and where they come from.

    Attributes:
        slots: Their slots.
        slots_mask: True for the slots that exist.
        names: Names of the images that are generated from them.
        provenance: Everything that the batch as a whole depends on.
        origins: For each scene the hash of the file it comes from; empty if all are composed.
        encoded: For each scene its image file and masks, if the scenes were encoded from images.
        library: The library that the scenes are composed of, if they are composed.
        problems: A sentence for each image file that could not be read.
    """

    slots: Float[Tensor, "B K D"]
    slots_mask: Bool[Tensor, "B K"]
    names: list[str]
    provenance: dict[str, Any] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    encoded: tuple[tuple[Path, Float[Tensor, "K h w"]], ...] = ()
    library: ConceptLibrary | None = None
    problems: tuple[str, ...] = ()

    def origin(self, row: int) -> str:
        """The hash of the file that a scene comes from; empty if it is composed."""
        return self.origins[row] if self.origins else ""


def compose(
    library: ConceptLibrary,
    num_scenes: int,
    *,
    layout: Layout,
    num_slots: int | None,
    seed: int,
    concepts: Collection[int] | None = None,
) -> SceneBatch:
    """Compose new scenes, see `ConceptLibrary.sample`.

    Without `num_slots`, each scene has as many slots as an image of the library drawn at random.
    Scene i does not depend on `num_scenes`.

    Raises:
        ValueError: If `num_scenes` is below 1, or the library cannot compose such scenes.
    """
    if num_scenes < 1:
        raise ValueError(f"num_scenes must be at least 1, got {num_scenes}")
    generator = Generator().manual_seed(seed)
    counts = library.slot_counts
    if layout == "independent":
        usable = library.num_concepts if concepts is None else len(set(concepts))
        counts = counts.clamp(max=usable)
    scenes = []
    for _ in range(num_scenes):
        count = num_slots
        # The layout per-image requires many images with the same number of slots.
        if num_slots is None and layout != "per-image":
            count = int(counts[torch.randint(len(counts), (), generator=generator)])
        draw = partial(library.sample, 1, layout=layout, num_slots=count, generator=generator)
        scenes.append(draw(concepts=concepts))
    digits = max(4, len(str(num_scenes - 1)))
    slots, exist = editing.pad(scenes)
    names = [f"scene_{i:0{digits}d}" for i in range(num_scenes)]
    return SceneBatch(slots, exist, names, library=library)


def compose_from(
    pipe: LatentSlotDiffusionPipeline,
    folder: str,
    num_scenes: int,
    *,
    layout: Layout,
    num_slots: int | None,
    seed: int,
    concepts: Collection[int] | None = None,
) -> SceneBatch:
    """Compose new scenes from a library folder, see `compose`.

    Raises:
        ValueError: If the folder holds no library, or one of another pipeline.
    """
    library = ConceptLibrary.load(folder)
    library.check(pipe)
    scenes = compose(
        library, num_scenes, layout=layout, num_slots=num_slots, seed=seed, concepts=concepts
    )
    provenance = {
        "concepts": folder,
        "library": content_hash(Path(folder) / TENSORS_NAME),
        "layout": layout,
        "slots_per_scene": num_slots,
        # Only where it has an effect: results of releases without it stay valid.
        **({} if concepts is None else {"only_concepts": sorted({*concepts})}),
    }
    return replace(scenes, provenance=provenance)


def load_scenes(pipe: LatentSlotDiffusionPipeline, paths: Sequence[str]) -> SceneBatch:
    """Read scenes from files; each is named after its folder and its file.

    Raises:
        ValueError: If a file does not exist, holds slots of another pipeline, or two scenes would
            have the same name.
    """
    fingerprint = pipe.fingerprint()
    scenes = [load_scene(path, fingerprint) for path in paths]
    names = ["_".join(Path(path).resolve().with_suffix("").parts[-2:]) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"two images would have the same name: {', '.join(sorted(names))}")
    return _join(
        scenes, names, {"slots": list(paths)}, origins=tuple(content_hash(path) for path in paths)
    )


def encode_scenes(
    pipe: LatentSlotDiffusionPipeline, paths: Sequence[Path], *, seed: int, batch_size: int
) -> SceneBatch:
    """Encode image files as scenes. Files that cannot be read are listed in `problems`.

    Raises:
        ValueError: If none of the files can be read.
    """
    scenes: list[SlotOutput] = []
    read: list[Path] = []
    problems: list[str] = []
    for files, unread in read_batches(paths, batch_size):
        scenes += encode_files(pipe, files, seed=seed)
        read += [file.path for file in files]
        problems += unread
    if not scenes:
        raise ValueError(f"none of the images can be read: {problems[0]}")
    masks = (scene.masks[0].half() for scene in scenes)
    return _join(
        scenes,
        [path.stem for path in read],
        {
            "num_slots": pipe.num_slots,
            "merge_overlap": pipe.inference.merge_overlap,
            "merge_error": pipe.inference.merge_error,
        },
        origins=tuple(content_hash(path) for path in read),
        encoded=tuple(zip(read, masks, strict=True)),
        problems=tuple(problems),
    )


def _join(
    scenes: Sequence[SlotOutput], names: list[str], provenance: dict[str, Any], **others: Any
) -> SceneBatch:
    slots, exist = editing.pad([scene.slots for scene in scenes])
    return SceneBatch(slots, exist, names, provenance, **others)
