"""Attributes that a classifier of real objects recognizes in painted images.

Dimensions: I images, M objects, K slots, H W pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Generator, Tensor

from latentslots.config.sampling import Sampling
from latentslots.data.store.attributes import ObjectValues, read_attributes
from latentslots.evaluation.labeled_images import LabeledImages
from latentslots.metrics.crop_classifier import crop_objects, train_crop_classifier
from latentslots.models.autoencoder import decode_latents, encode_latents
from latentslots.pipelines.sampling import sample_images

NUM_TRAINING_IMAGES = 2_000
SMALLEST_AREA = 0.006
"""Share of the image that an object covers at least, to be counted: smaller ones have no shape."""
COVERED = 0.2
"""Slots of the other scene make room for an object whose mask they overlap by more than this, as a
share of the smaller mask."""


@dataclass(frozen=True, kw_only=True)
class PaintedReport:
    """Accuracy of a classifier on objects in painted images, and its references.

    Attributes:
        attribute: The attribute whose classes are recognized.
        num_objects: Objects in all rows but the last.
        num_composed: Objects in compositions, one per image.
        guess: Share of the most frequent class.
        pictures: Accuracy on the images themselves.
        autoencoder: On the images after the autoencoder, the most that a painted image can reach;
            `None` for a model without one.
        reconstructions: On images painted from their own slots.
        compositions: On objects whose slot was put into another image's scene.
    """

    attribute: str
    num_objects: int
    num_composed: int
    guess: float
    pictures: float
    autoencoder: float | None
    reconstructions: float
    compositions: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """One row for each kind of image."""
        rows = [
            ("a guess", self.guess),
            ("the images", self.pictures),
            ("the images after the autoencoder", self.autoencoder),
            ("painted from their own slots", self.reconstructions),
            ("put into another image's scene", self.compositions),
        ]
        lines = [
            f"Accuracy of a classifier of `{self.attribute}`, trained on real objects, on "
            f"{self.num_objects} objects ({self.num_composed} of them in other scenes).",
            "",
            "| | accuracy |",
            "|---|---|",
            *(f"| {name} | {value:.3f} |" for name, value in rows if value is not None),
        ]
        return "\n".join(lines) + "\n"


class LabeledObjects(NamedTuple):
    """Objects of images, with their boxes and classes.

    Attributes:
        images: The images, in [-1, 1].
        masks: Pixels of every object.
        boxes: Top, left, bottom and right of every object, in pixels.
        labels: Class of every object.
        owners: Index of the image of every object.
    """

    images: Float[Tensor, "I 3 H W"]
    masks: Float[Tensor, "M H W"]
    boxes: Float[Tensor, "M 4"]
    labels: Int[Tensor, " M"]
    owners: Int[Tensor, " M"]


def read_objects(
    dataset: Dataset, attribute: str, *, resolution: int, num_images: int
) -> tuple[LabeledObjects, ObjectValues]:
    """Read the objects of the first images that have a class and cover enough pixels.

    Raises:
        ValueError: If the attribute is missing or has numbers instead of classes, or no object is
            left.
    """
    (values,) = read_attributes(dataset, [attribute], num_images=num_images, integer_classes=True)
    if not values.classes:
        raise ValueError(f"the attribute {attribute!r} has numbers, not classes")
    labeled = LabeledImages(dataset, resolution=resolution, num_images=num_images)
    images, masks, boxes, labels, owners = [], [], [], [], []
    for index, one in enumerate(labeled[i] for i in range(len(labeled))):
        images.append(one.pixel_values)
        for number, label in enumerate(values.values[index], start=1):
            mask = one.segmentation == number
            if label is None or mask.float().mean() < SMALLEST_AREA:
                continue
            rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
            boxes.append(
                torch.stack([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]).float()[:, 0]
            )
            masks.append(mask.float())
            labels.append(label)
            owners.append(index)
    if not labels:
        raise ValueError(f"no object of the first {len(labeled)} images has {attribute!r}")
    parts = torch.stack(images), torch.stack(masks), torch.stack(boxes)
    return LabeledObjects(*parts, torch.tensor(labels), torch.tensor(owners)), values


@torch.no_grad()
def evaluate_painted(
    pipe: Any,
    dataset: Dataset,
    training: Dataset,
    attribute: str,
    *,
    num_images: int = 256,
    sampling: Sampling | None = None,
    batch_size: int = 32,
    progress: Callable[[str], None] = lambda _: None,
) -> PaintedReport:
    """Measure which classes of an attribute a classifier recognizes in painted images.

    Args:
        pipe: A pipeline that paints; it keeps the sampler.
        dataset: Images with masks and the attribute.
        training: Other images of the same kind, on whose objects the classifier is trained.
        attribute: An attribute with classes, such as `shape_label`.
        num_images: At most this many images, from the start of the data set.
        sampling: How images are sampled; by default as `Sampling()`. Image i draws slot noise and
            starting noise from `seed` + i.
        batch_size: Images at once.
        progress: Called with the name of every stage.

    Raises:
        ValueError: If the pipeline does not paint, or the attribute is missing, has no classes, or
            no object has it.
    """
    if not getattr(pipe, "paints", False):
        raise ValueError(f"{type(pipe).__name__} paints no images")
    sampling = sampling or Sampling()
    objects, values = read_objects(
        dataset, attribute, resolution=pipe.resolution, num_images=num_images
    )
    progress("reading training objects")
    seen, _ = read_objects(
        training, attribute, resolution=pipe.resolution, num_images=NUM_TRAINING_IMAGES
    )
    progress("training the classifier")
    with torch.enable_grad():
        classifier = train_crop_classifier(
            crop_objects(seen.images, seen.boxes, seen.owners),
            seen.labels,
            seen.owners,
            num_classes=len(values.classes),
            seed=sampling.seed,
        )
    progress("painting")
    images = _paint_all(pipe, objects, sampling, batch_size)
    accuracies: dict[str, Any] = {"autoencoder": None}
    for name, (pixels, which, owners) in images.items():
        crops = crop_objects(pixels, objects.boxes[which], owners)
        correct = classifier.predict(crops) == objects.labels[which]
        accuracies[name] = float(correct.float().mean())
    return PaintedReport(
        attribute=attribute,
        num_objects=len(objects.labels),
        num_composed=len(images["compositions"][1]),
        guess=float(objects.labels.bincount().max() / len(objects.labels)),
        **accuracies,
    )


def _paint_all(
    pipe: Any, objects: LabeledObjects, sampling: Sampling, batch_size: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """All kinds of images, the objects to be read off them, and the image of each object."""
    decoded, painted = [], []
    composed: list[tuple[Tensor, int]] = []
    for start in range(0, len(objects.images), batch_size):
        part = range(start, min(start + batch_size, len(objects.images)))
        pixels = objects.images[part.start : part.stop]
        if getattr(pipe, "vae", None) is not None:
            decoded.append(decode_latents(pipe.vae, encode_latents(pipe.vae, pixels)).float().cpu())
        seeds = [sampling.seed + i for i in part]
        generators = [Generator().manual_seed(seed) for seed in seeds]
        scenes = pipe.encode_pixel_values(pixels, generator=generators)
        painted.append(_paint(pipe, scenes.slots, scenes.slots_mask, sampling, seeds))
        composed += _compose(pipe, scenes, objects, part, sampling)
    everything = torch.arange(len(objects.labels))
    chosen = torch.tensor([index for _, index in composed], dtype=torch.long)
    in_scenes = torch.stack([image for image, _ in composed])
    sets = {"pictures": objects.images, "reconstructions": torch.cat(painted)}
    if decoded:
        sets["autoencoder"] = torch.cat(decoded)
    return {
        **{name: (images, everything, objects.owners) for name, images in sets.items()},
        "compositions": (in_scenes, chosen, torch.arange(len(composed))),
    }


def _paint(
    pipe: Any, slots: Tensor, slots_mask: Tensor | None, sampling: Sampling, seeds: Sequence[int]
) -> Float[Tensor, "B 3 H W"]:
    """Paint scenes, by sampling if the pipeline is a diffusion model; pixels in [-1, 1]."""
    if hasattr(pipe, "scheduler"):
        options: dict[str, Any] = {"sampling": sampling, "seeds": seeds, "batch_size": len(slots)}
        return sample_images(pipe, slots, slots_mask, progress=False, **options) * 2 - 1
    (images,) = pipe(slots, slots_mask=slots_mask, output_type="pt", return_dict=False)
    return images.float().cpu() * 2 - 1


def _compose(
    pipe: Any, scenes: Any, objects: LabeledObjects, part: range, sampling: Sampling
) -> Iterator[tuple[Tensor, int]]:
    """Put the largest object of every image into the scene of the next one of its batch.

    Yields:
        The painted image, and the index of the object.
    """
    size = (objects.images.shape[2], objects.images.shape[3])
    owned = torch.nn.functional.one_hot(scenes.segmentation(size).cpu(), scenes.slots.shape[1])
    owned = owned.permute(0, 3, 1, 2).float()  # [B, K, H, W]
    exist = torch.ones(scenes.slots.shape[:2], dtype=torch.bool)
    if scenes.slots_mask is not None:
        exist = scenes.slots_mask.cpu()
    slots, masks, chosen = [], [], []
    for row, image in enumerate(part):
        own = (objects.owners == image).nonzero()[:, 0]
        if not len(own):
            continue
        index = int(own[objects.masks[own].sum(dim=(1, 2)).argmax()])
        mask = objects.masks[index]
        slot = int((owned[row] * mask).sum(dim=(1, 2)).argmax())
        other = (row + 1) % len(part)
        area = owned[other].sum(dim=(1, 2))
        smaller = area.clamp(min=1, max=float(mask.sum()))
        overlap = (owned[other] * mask).sum(dim=(1, 2)) / smaller
        keep = exist[other] & (overlap <= COVERED)
        keep[area.argmax()] = True  # the background
        slots.append(torch.cat([scenes.slots[other].cpu(), scenes.slots[row, slot].cpu()[None]]))
        masks.append(torch.cat([keep, torch.ones(1, dtype=torch.bool)]))
        chosen.append((row, index))
    if not chosen:
        return
    seeds = [sampling.seed + part[row] for row, _ in chosen]
    images = _paint(pipe, torch.stack(slots), torch.stack(masks), sampling, seeds)
    for image, (_, index) in zip(images, chosen, strict=True):
        yield image, index
