"""The concept library: its members, how they are composed, and its folder.

Dimensions: M slots in the library, N slots of a concept, C concepts, D slot channels, G side of the
stored masks, I images, B scenes, K slots per scene.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots.concepts import layouts
from latentslots.concepts.clustering import (
    AUTO_RANGE,
    Metric,
    cluster,
    collect_slots,
    encode_rows,
    silhouette,
)
from latentslots.concepts.layouts import Layout
from latentslots.files import FormatError, atomic_folder, check_format, read_json
from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.slot_output import upsample_masks
from latentslots.visualize import grid, slot_crop

FORMAT = 1
"""Format of a library's folder."""
NUM_CROPS = 8
CROP_SIZE = 48
TENSORS_NAME = "library.safetensors"
INFO_NAME = "library.json"
CROPS_DIR = "crops"


@dataclass(frozen=True, kw_only=True)
class LibraryInfo:
    """How a library was made.

    Attributes:
        pipeline: Fingerprint of the pipeline; other pipelines cannot use its slots.
        num_images: Images whose slots were collected.
        metric: Distance between slots.
        min_area: Share of an image's pixels that a slot must own to be collected.
        seed: Image i drew its slot noise from seed + i.
        silhouettes: Mean silhouette by number of concepts, if that number was chosen by it.
    """

    pipeline: str
    num_images: int
    metric: Metric
    min_area: float
    seed: int
    silhouettes: dict[str, float]


@dataclass(frozen=True)
class ConceptLibrary:
    """Clusters of slots. Concept 0 has most members.

    Attributes:
        slots: All members, in the order of their images.
        masks: Their masks, averaged to a small grid.
        concept: The concept of each member.
        image: The data set's row of each member's image.
        crops: For each concept crops of its members, the nearest to its center first.
        info: How the library was made.
    """

    slots: Float[Tensor, "M D"]
    masks: Float[Tensor, "M G G"]
    concept: Int[Tensor, " M"]
    image: Int[Tensor, " M"]
    crops: tuple[tuple[Image.Image, ...], ...]
    info: LibraryInfo

    @classmethod
    def fit(
        cls,
        pipe: SlotPipeline,
        dataset: Dataset,
        num_concepts: int | Literal["auto"] = "auto",
        *,
        metric: Metric = "cosine",
        min_area: float = 0.005,
        seed: int = 0,
        progress: bool = True,
    ) -> "ConceptLibrary":
        """Collect the slots of all images and cluster them (k-means in small batches).

        Args:
            pipe: The pipeline.
            dataset: Has the column `image`.
            num_concepts: How many clusters; `auto` chooses the number among 4, 6, 8, 12, 16, 24, 32
                and 48 with the greatest mean silhouette (Rousseeuw, 1987), and records the
                silhouettes in `info`.
            metric: `cosine` clusters slots by their direction only, `euclidean` by their vectors.
            min_area: Slots that own less than this share of their image's pixels are left out.
            seed: Seed of slot noise (image i draws it from seed + i) and of clustering.
            progress: Whether to show a progress bar on stderr.

        Raises:
            ValueError: If a value is out of its range, or there are fewer slots than concepts.
        """
        if metric not in get_args(Metric):
            raise ValueError(f"metric must be cosine or euclidean, got {metric!r}")
        if not 0 <= min_area < 1:
            raise ValueError(f"min_area must be at least 0 and below 1, got {min_area:g}")
        if num_concepts != "auto" and num_concepts < 1:
            raise ValueError(f"num_concepts must be at least 1 or 'auto', got {num_concepts}")
        members = collect_slots(pipe, dataset, min_area=min_area, seed=seed, progress=progress)
        points = F.normalize(members.slots, dim=1) if metric == "cosine" else members.slots
        numbers = (
            [num_concepts] if num_concepts != "auto" else [n for n in AUTO_RANGE if n < len(points)]
        )
        if len(points) < (numbers or AUTO_RANGE)[0]:
            raise ValueError(
                f"{(numbers or AUTO_RANGE)[0]} concepts need at least as many slots, but the "
                f"{len(dataset)} images have only {len(points)} that own {min_area:.1%} of their "
                "pixels or more"
            )
        fits = {number: cluster(points, number, seed) for number in numbers}
        silhouettes = {}
        if num_concepts == "auto":
            silhouettes = {n: silhouette(points, fits[n], metric, seed) for n in numbers}
        concept = fits[max(silhouettes, key=silhouettes.__getitem__) if silhouettes else numbers[0]]
        info = LibraryInfo(
            pipeline=pipe.fingerprint(),
            num_images=len(dataset),
            metric=metric,
            min_area=min_area,
            seed=seed,
            silhouettes={str(n): round(value, 4) for n, value in silhouettes.items()},
        )
        library = cls(members.slots, members.masks, concept, members.image, (), info)
        return replace(library, crops=library._crops(pipe, dataset, members.number))

    @property
    def num_concepts(self) -> int:
        """Number of concepts."""
        return int(self.concept.max()) + 1

    @property
    def shares(self) -> Float[Tensor, " C"]:
        """The share of all members that belong to each concept."""
        return self.concept.bincount() / len(self.concept)

    @property
    def slot_counts(self) -> Int[Tensor, " I"]:
        """The number of members from each image that has any."""
        counts = self.image.bincount()
        return counts[counts > 0]

    @property
    def mean_masks(self) -> Float[Tensor, "C G G"]:
        """The mean mask of each concept's members."""
        masks = [self.masks[self.concept == c].mean(dim=0) for c in range(self.num_concepts)]
        return torch.stack(masks)

    def members(self, concept: int) -> Int[Tensor, " N"]:
        """The members of a concept, the nearest to its center first, as in `crops`."""
        members = (self.concept == concept).nonzero()[:, 0]
        points = self.slots[members]
        if self.info.metric == "cosine":
            points = F.normalize(points, dim=1)
        distance = (points - points.mean(dim=0)).norm(dim=1)
        return members[distance.argsort()]

    def check(self, pipe: SlotPipeline) -> None:
        """Check that the library was made by a pipeline.

        Raises:
            ValueError: If another pipeline made it.
        """
        if pipe.fingerprint() != self.info.pipeline:
            raise ValueError(
                "this concept library was made by another pipeline, whose slots this one cannot "
                "use: fit a library with this pipeline"
            )

    def sample(
        self,
        num_scenes: int = 1,
        *,
        layout: Layout = "layout",
        num_slots: int | None = None,
        concepts: Collection[int] | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "B K D"]:
        """Compose new scenes.

        Args:
            num_scenes: Number of scenes.
            layout: `layout`: for each mask of a random image, a concept is drawn, and its member
                whose mask fits best without overlapping others is chosen; the background last, to
                fit the space around the objects. `independent`: members of different concepts,
                regardless of their positions (as in the paper). `per-image`: slot i from image
                b + i (Wu et al., 2023, https://arxiv.org/abs/2305.11281).
            num_slots: Slots per scene. By default the most frequent number of an image's members.
            concepts: The concepts of the objects, for the layouts `layout` (whose background may be
                of any; objects that none of them fits are left out) and `independent`. By default
                all.
            generator: The source of all draws.

        Raises:
            ValueError: If there is no such layout or concept, or there are too few concepts or
                images for it.
        """
        if concepts is not None:
            if layout == "per-image":
                raise ValueError("the layout per-image takes slots of all concepts")
            self.check_concepts(concepts)
        if layout not in get_args(Layout):
            raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
        if num_scenes < 1:
            raise ValueError(f"num_scenes must be at least 1, got {num_scenes}")
        usable = range(self.num_concepts) if concepts is None else sorted({*concepts})
        most = len(usable) if layout == "independent" else int(self.slot_counts.max())
        if num_slots is None:
            num_slots = int(self.slot_counts.mode().values)
            num_slots = num_slots if concepts is None else min(num_slots, most)
        if not 1 <= num_slots <= most:
            what = "concepts" if layout == "independent" else "slots of one image"
            raise ValueError(
                f"num_slots must be 1 to {most}, the number of {what}, got {num_slots}"
            )
        allowed = torch.isin(self.concept, torch.tensor(usable))
        draw = partial(self._draw_scene, layout, num_slots, allowed, generator)
        scenes = [self.slots[draw()] for _ in range(num_scenes)]
        if len({len(scene) for scene in scenes}) > 1:
            raise ValueError(
                "scenes of these concepts differ in their number of slots: sample one at a time"
            )
        return torch.stack(scenes)

    def check_concepts(self, concepts: Collection[int]) -> None:
        """Check numbers of concepts.

        Raises:
            ValueError: If none is given, or one does not exist.
        """
        if not concepts:
            raise ValueError("no concept is given")
        for concept in concepts:
            if not 0 <= concept < self.num_concepts:
                raise ValueError(
                    f"there is no concept {concept}: the library has concepts 0 to "
                    f"{self.num_concepts - 1}"
                )

    def _draw_scene(
        self,
        layout: Layout,
        num_slots: int,
        allowed: Bool[Tensor, " M"],
        generator: Generator | None,
    ) -> Int[Tensor, " K"]:
        """The members of a new scene."""
        if layout == "independent":
            return layouts.independent(self.concept, num_slots, allowed, generator)
        if layout == "per-image":
            return layouts.per_image(self.image, num_slots, generator)
        return layouts.in_layout(
            self.masks, self.concept, self.image, num_slots, allowed, generator
        )

    def show(self) -> Image.Image:
        """Draw the library: a row for each concept with its mean mask and its crops."""
        rows, captions = [], []
        shares, masks = self.shares.tolist(), self.mean_masks
        for number, (share, mask) in enumerate(zip(shares, masks, strict=True)):
            soft = Image.fromarray((mask / mask.max().clamp_min(1e-6) * 255).byte().numpy())
            rows.append([soft.resize((CROP_SIZE, CROP_SIZE)), *self.crops[number]])
            captions.append(f"concept {number}: {share:.1%} of the slots")
        return grid(rows, captions=captions, gap=4)

    def save(self, folder: str | Path) -> None:
        """Write the library: tensors, `info`, and crops as image files.

        Raises:
            ValueError: If the folder holds something other than a library.
        """
        with atomic_folder(Path(folder), mark=INFO_NAME) as partial:
            tensors = {name: getattr(self, name) for name in ("slots", "masks", "concept", "image")}
            save_file({k: v.contiguous() for k, v in tensors.items()}, partial / TENSORS_NAME)
            (partial / CROPS_DIR).mkdir()
            for number, crops in enumerate(self.crops):
                for rank, crop in enumerate(crops):
                    crop.save(partial / CROPS_DIR / f"concept_{number:03d}_{rank}.png")
            content = {
                "format": FORMAT,
                "concepts": self.num_concepts,
                "shares": self.shares.tolist(),
            }
            text = json.dumps({**asdict(self.info), **content}, indent=2)
            (partial / INFO_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "ConceptLibrary":
        """Read a library that `save` wrote.

        Raises:
            ValueError: If there is none in the folder, it is damaged, or a newer release wrote it.
        """
        folder = Path(folder)
        if not (folder / INFO_NAME).is_file():
            raise ValueError(f"{folder} holds no concept library: {INFO_NAME} is missing")
        try:
            content = read_json(folder / INFO_NAME)
            if isinstance(content, dict):
                check_format(content.pop("format", None), FORMAT, f"the library {folder}")
            number = content.pop("concepts")
            content.pop("shares")
            info = LibraryInfo(**content)
            tensors = load_file(folder / TENSORS_NAME)
            found = int(tensors["concept"].max()) + 1
            if number != found:
                raise ValueError(f"it has {found} concepts instead of {number}")
            crops = tuple(tuple(_read_crops(folder / CROPS_DIR, c)) for c in range(number))
            library = cls(**tensors, crops=crops, info=info)
        except FormatError:
            raise
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            RuntimeError,
            AttributeError,
            SafetensorError,
        ) as error:
            raise ValueError(f"the concept library {folder} is damaged: {error}") from error
        return library

    def _crops(
        self, pipe: SlotPipeline, dataset: Dataset, number: Int[Tensor, " M"]
    ) -> tuple[tuple[Image.Image, ...], ...]:
        """Crops of the members nearest to each concept's center."""
        crops = []
        for concept in range(self.num_concepts):
            best = self.members(concept)[:NUM_CROPS]
            rows = self.image[best].tolist()
            pixel_values, scenes = encode_rows(pipe, dataset, rows, self.info.seed)
            size = pixel_values.shape[-2:]
            masks = upsample_masks(scenes.masks, (size[0], size[1])).cpu()
            slot = number[best]
            crops.append(
                tuple(
                    slot_crop(pixel_values[i], masks[i, slot[i]], CROP_SIZE)
                    for i in range(len(best))
                )
            )
        return tuple(crops)


def _read_crops(folder: Path, concept: int) -> Iterator[Image.Image]:
    for path in sorted(folder.glob(f"concept_{concept:03d}_*.png")):
        with Image.open(path) as image:
            yield image.convert("RGB")
