"""Concept libraries: slots of many images, clustered, to compose new scenes from.

A scene that never was is a set of slots that were, each taken from another image (Jiang et al.,
2023, https://arxiv.org/abs/2303.10834, Sec. 4.3).

Dimensions: M slots in the library, C concepts, D slot channels, G side of the stored masks, B
scenes, K slots per scene.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from latentslots.files import atomic_folder
from latentslots.pipelines.base import SlotOutput, SlotPipeline, upsample_masks
from latentslots.visualize import grid, slot_crop

Metric = Literal["cosine", "euclidean"]
Layout = Literal["layout", "independent", "per-image"]

MASK_SIZE = 16
AUTO_RANGE = (4, 6, 8, 12, 16, 24, 32, 48)
NUM_CROPS = 8
CROP_SIZE = 48
SILHOUETTE_SAMPLE = 2000
MAX_OVERLAP = 0.1
"""Share of the smaller mask that two members of a composed scene may share."""
SMALLEST_FIT = 0.3
"""IoU below which nothing fits a place, and the slot that is there in its image stays."""
GOOD_FIT = 0.8
"""A concept fits a place where its best IoU with it is this share of any concept's best."""
BATCH_SIZE = 64
TENSORS_NAME = "library.safetensors"
INFO_NAME = "library.json"
CROPS_DIR = "crops"


@dataclass(frozen=True, kw_only=True)
class LibraryInfo:
    """How a library was made.

    Attributes:
        pipeline: Fingerprint of what finds slots; slots of another model mean other things.
        num_images: Images whose slots were collected.
        metric: Distance of slots.
        min_area: Share of an image's pixels that a slot must own to be collected.
        seed: Image i drew its slot noise with seed + i.
        silhouettes: Mean silhouette by number of concepts, where that number was chosen by it.
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
        image: Row of the data set that each came from.
        crops: For each concept the crops that show it best, nearest to its center first.
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
        """Find the slots of all images and cluster them (k-means in small batches).

        Args:
            pipe: Finds the slots.
            dataset: Has the column `image`.
            num_concepts: How many clusters; `auto` takes the number out of 4, 6, 8, 12, 16, 24, 32
                and 48 whose clusters have the greatest mean silhouette (Rousseeuw, 1987), and
                keeps the silhouettes in `info`.
            metric: `cosine` clusters slots by their direction, `euclidean` by their place.
            min_area: Slots that own less than this share of their image's pixels are left out.
            seed: Of the slot noise, image by image, and of the clustering.
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
        slots, masks, image, index = _collect(pipe, dataset, min_area, seed, progress)
        points = F.normalize(slots, dim=1) if metric == "cosine" else slots
        numbers = (
            [num_concepts] if num_concepts != "auto" else [n for n in AUTO_RANGE if n < len(slots)]
        )
        if len(slots) < (numbers or AUTO_RANGE)[0]:
            raise ValueError(
                f"{(numbers or AUTO_RANGE)[0]} concepts need at least as many slots, but the "
                f"{len(dataset)} images have only {len(slots)} that own {min_area:.1%} of their "
                "pixels or more"
            )
        fits = {number: _cluster(points, number, seed) for number in numbers}
        silhouettes = {}
        if num_concepts == "auto":
            silhouettes = {n: _silhouette(points, fits[n], metric, seed) for n in numbers}
        concept = fits[max(silhouettes, key=silhouettes.__getitem__) if silhouettes else numbers[0]]
        info = LibraryInfo(
            pipeline=pipe.fingerprint(),
            num_images=len(dataset),
            metric=metric,
            min_area=min_area,
            seed=seed,
            silhouettes={str(n): round(value, 4) for n, value in silhouettes.items()},
        )
        library = cls(slots, masks, concept, image, (), info)
        return replace(library, crops=library._crops(pipe, dataset, index))

    @property
    def num_concepts(self) -> int:
        """How many concepts there are."""
        return int(self.concept.max()) + 1

    @property
    def shares(self) -> Float[Tensor, " C"]:
        """The share of all members that each concept has."""
        return self.concept.bincount() / len(self.concept)

    @property
    def slot_counts(self) -> Int[Tensor, " I"]:
        """How many slots each image gave, of those that gave any."""
        counts = self.image.bincount()
        return counts[counts > 0]

    @property
    def mean_masks(self) -> Float[Tensor, "C G G"]:
        """Where the members of each concept are, on average."""
        masks = [self.masks[self.concept == c].mean(dim=0) for c in range(self.num_concepts)]
        return torch.stack(masks)

    def check(self, pipe: SlotPipeline) -> None:
        """Refuse a pipeline other than the one whose slots these are.

        Raises:
            ValueError: If it is another one.
        """
        if pipe.fingerprint() != self.info.pipeline:
            raise ValueError(
                "this concept library was made by another pipeline, whose slots mean other things: "
                "fit one with this pipeline"
            )

    def sample(
        self,
        num_scenes: int = 1,
        *,
        layout: Layout = "layout",
        num_slots: int | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "B K D"]:
        """Compose scenes that never were.

        Args:
            num_scenes: How many.
            layout: `layout`: places from an image's masks; for each, a concept is drawn, and its
                member taken whose mask comes nearest and collides with no other; the ground last,
                with holes where the objects are. `independent`: members of different concepts,
                whatever their places (the paper's way). `per-image`: slot i from image b + i (Wu
                et al., 2023, https://arxiv.org/abs/2305.11281).
            num_slots: Slots per scene. By default as many as most images gave to the library.
            generator: Where all is drawn from.

        Raises:
            ValueError: If there is no such layout, or there are too few concepts or images for it.
        """
        if layout not in get_args(Layout):
            raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
        if num_scenes < 1:
            raise ValueError(f"num_scenes must be at least 1, got {num_scenes}")
        if num_slots is None:
            num_slots = int(self.slot_counts.mode().values)
        most = self.num_concepts if layout == "independent" else int(self.slot_counts.max())
        if not 1 <= num_slots <= most:
            what = "concepts" if layout == "independent" else "slots of one image"
            raise ValueError(
                f"num_slots must be 1 to {most}, the number of {what}, got {num_slots}"
            )
        draw = {"layout": self._fill, "independent": self._pick, "per-image": self._shift}[layout]
        return torch.stack([self.slots[draw(num_slots, generator)] for _ in range(num_scenes)])

    def _pick(self, num_slots: int, generator: Generator | None) -> Tensor:
        """One member each of different concepts."""
        concepts = torch.randperm(self.num_concepts, generator=generator)[:num_slots]
        return torch.stack([_draw(self.concept == c, generator) for c in concepts])

    def _shift(self, num_slots: int, generator: Generator | None) -> Tensor:
        """Slot i of image b + i."""
        counts = self.image.bincount()
        images = (counts >= num_slots).nonzero()[:, 0]
        start = int(torch.randint(len(images), (), generator=generator))
        first = counts.cumsum(0) - counts
        chosen = images[(start + torch.arange(num_slots)) % len(images)]
        return first[chosen] + torch.arange(num_slots)

    def _fill(self, num_slots: int, generator: Generator | None) -> Tensor:
        """Members of drawn concepts in the places of one image's slots, the ground first."""
        counts = self.image.bincount()
        image = _draw(counts >= num_slots, generator)
        own = (self.image == image).nonzero()[:, 0]
        areas = self.masks.sum(dim=(1, 2))
        own = own[areas[own].argsort(descending=True)][:num_slots]
        others = self.image != image
        free, chosen = others, []
        for place in own[1:]:
            member = self._nearest(self.masks[place], free, generator)
            if member is None:  # nothing else fits there
                member = place
            shared = torch.minimum(self.masks, self.masks[member]).sum(dim=(1, 2))
            free = free & (shared <= MAX_OVERLAP * torch.minimum(areas, areas[member]))
            chosen.append(member)
        # The largest is the ground. It is chosen last, so that its holes are where the objects are.
        holes = self.masks[torch.stack(chosen)].sum(dim=0) if chosen else torch.zeros(())
        ground = (1 - holes).clamp(min=0).expand_as(self.masks[0])
        found = self._nearest(ground, others, generator)
        return torch.stack([own[0] if found is None else found, *chosen])

    def _nearest(
        self, place: Tensor, free: Tensor, generator: Generator | None
    ) -> Int[Tensor, ""] | None:
        """Of a concept that is drawn among those that fit a place, the member that fits best."""
        shared = torch.minimum(self.masks, place).sum(dim=(1, 2))
        iou = shared / torch.maximum(self.masks, place).sum(dim=(1, 2))
        iou = iou.masked_fill(~free, 0)
        by_concept = [iou.where(self.concept == c, 0).max() for c in range(self.num_concepts)]
        best = torch.stack(by_concept)
        if best.max() < SMALLEST_FIT:
            return None
        fitting = best >= GOOD_FIT * best.max()
        concept = torch.multinomial(self.shares * fitting, 1, generator=generator)[0]
        return iou.where(self.concept == concept, 0).argmax()

    def show(self) -> Image.Image:
        """Draw the library: one row per concept with its mean mask and its crops."""
        rows, captions = [], []
        shares, masks = self.shares.tolist(), self.mean_masks
        for number, (share, mask) in enumerate(zip(shares, masks, strict=True)):
            soft = Image.fromarray((mask / mask.max().clamp_min(1e-6) * 255).byte().numpy())
            rows.append([soft.resize((CROP_SIZE, CROP_SIZE)), *self.crops[number]])
            captions.append(f"concept {number}: {share:.1%} of the slots")
        return grid(rows, captions=captions, gap=4)

    def save(self, folder: str | Path) -> None:
        """Write the library: tensors, what it is, and the crops as pictures.

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
            content = {"concepts": self.num_concepts, "shares": self.shares.tolist()}
            text = json.dumps({**asdict(self.info), **content}, indent=2)
            (partial / INFO_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "ConceptLibrary":
        """Read a library that `save` wrote.

        Raises:
            ValueError: If there is none in the folder, or it is damaged.
        """
        folder = Path(folder)
        if not (folder / INFO_NAME).is_file():
            raise ValueError(f"{folder} holds no concept library: {INFO_NAME} is missing")
        try:
            content = json.loads((folder / INFO_NAME).read_text(encoding="utf-8"))
            number = content.pop("concepts")
            content.pop("shares")
            info = LibraryInfo(**content)
            tensors = load_file(folder / TENSORS_NAME)
            crops = tuple(tuple(_read_crops(folder / CROPS_DIR, c)) for c in range(number))
            library = cls(**tensors, crops=crops, info=info)
            if library.num_concepts != number:
                raise ValueError(f"{number} concepts were expected, {library.num_concepts} found")
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise ValueError(f"the concept library {folder} is damaged: {error}") from error
        return library

    def _crops(
        self, pipe: SlotPipeline, dataset: Dataset, index: Int[Tensor, " M"]
    ) -> tuple[tuple[Image.Image, ...], ...]:
        """The members nearest to each center, cut out of their images."""
        found = []
        for concept in range(self.num_concepts):
            members = (self.concept == concept).nonzero()[:, 0]
            points = self.slots[members]
            if self.info.metric == "cosine":
                points = F.normalize(points, dim=1)
            distance = (points - points.mean(dim=0)).norm(dim=1)
            best = members[distance.argsort()[:NUM_CROPS]]
            rows = self.image[best].tolist()
            pixel_values, scenes = _encode(pipe, dataset, rows, self.info.seed)
            size = pixel_values.shape[-2:]
            masks = upsample_masks(scenes.masks, (size[0], size[1])).cpu()
            slot = index[best]
            found.append(
                tuple(
                    slot_crop(pixel_values[i], masks[i, slot[i]], CROP_SIZE)
                    for i in range(len(best))
                )
            )
        return tuple(found)


def _collect(
    pipe: SlotPipeline, dataset: Dataset, min_area: float, seed: int, progress: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slots, small masks, row and number in their scene of all slots that own enough pixels."""
    parts: list[tuple[Tensor, ...]] = []
    with tqdm(total=len(dataset), disable=not progress, unit="image") as bar:
        for start in range(0, len(dataset), BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, len(dataset)))
            _, scenes = _encode(pipe, dataset, rows, seed)
            masks = scenes.masks.float().cpu()
            owned = F.one_hot(masks.argmax(dim=1), masks.shape[1]).float().mean(dim=(1, 2))
            large = owned >= min_area
            if scenes.slots_mask is not None:
                large &= scenes.slots_mask.cpu()
            scene, index = large.nonzero(as_tuple=True)
            small = F.adaptive_avg_pool2d(masks, MASK_SIZE)
            slots = scenes.slots.float().cpu()
            image = torch.tensor(rows)[scene]
            parts.append((slots[scene, index], small[scene, index], image, index))
            bar.update(len(rows))
    if not parts:
        raise ValueError("there is no image to take slots from: the data set is empty")
    slots, small, image, index = (torch.cat(column) for column in zip(*parts, strict=True))
    return slots, small, image, index


def _encode(
    pipe: SlotPipeline, dataset: Dataset, rows: Sequence[int], seed: int
) -> tuple[Float[Tensor, "B 3 H W"], SlotOutput]:
    """Pixel values and scenes of some rows, each with its own slot noise."""
    images = dataset.select_columns(["image"])
    pixel_values = pipe.preprocess([images[row]["image"] for row in rows])
    generators = [Generator().manual_seed(seed + row) for row in rows]
    return pixel_values, pipe.encode_pixel_values(pixel_values, generator=generators)


def _cluster(points: Float[Tensor, "M D"], number: int, seed: int) -> Int[Tensor, " M"]:
    """Cluster of every point; cluster 0 is the largest."""
    # Imported here, because composing from a saved library does without it.
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(number, random_state=seed, n_init=3, batch_size=1024)
    labels = torch.from_numpy(means.fit_predict(points.numpy())).long()
    used, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    rank = torch.empty_like(used)
    rank[counts.argsort(descending=True, stable=True)] = torch.arange(len(used))
    return rank[labels]


def _silhouette(
    points: Float[Tensor, "M D"], labels: Int[Tensor, " M"], metric: Metric, seed: int
) -> float:
    from sklearn.metrics import silhouette_score

    rows = torch.randperm(len(points), generator=Generator().manual_seed(seed))
    rows = rows[:SILHOUETTE_SAMPLE]
    if len(labels[rows].unique()) < 2:
        return -1.0
    return float(silhouette_score(points[rows].numpy(), labels[rows].numpy(), metric=metric))


def _draw(allowed: Tensor, generator: Generator | None) -> Tensor:
    """One of the places that are True."""
    places = allowed.nonzero()[:, 0]
    return places[torch.randint(len(places), (), generator=generator)]


def _read_crops(folder: Path, concept: int) -> Iterator[Image.Image]:
    for path in sorted(folder.glob(f"concept_{concept:03d}_*.png")):
        with Image.open(path) as picture:
            yield picture.convert("RGB")
