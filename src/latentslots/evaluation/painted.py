"""Attributes that a classifier of real objects recognizes in painted images.

Dimensions: I images, M objects, K slots, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from latentslots.config.sampling import Sampling
from latentslots.data.store.attributes import read_attributes
from latentslots.evaluation.edits.pairs import generators, through_autoencoder
from latentslots.evaluation.labeled_images import LabeledImages
from latentslots.metrics.crop_classifier import crop_objects, train_crop_classifier
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
        labels: Class of every object, an index of `classes`.
        owners: Index of the image of every object.
        classes: Names of the classes.
    """

    images: Float[Tensor, "I 3 H W"]
    masks: Float[Tensor, "M H W"]
    boxes: Float[Tensor, "M 4"]
    labels: Int[Tensor, " M"]
    owners: Int[Tensor, " M"]
    classes: tuple[str, ...]


def read_objects(
    dataset: Dataset, attribute: str, *, resolution: int, num_images: int
) -> LabeledObjects:
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
    return LabeledObjects(*parts, torch.tensor(labels), torch.tensor(owners), values.classes)


def _renumber(objects: LabeledObjects, classes: Sequence[str]) -> Int[Tensor, " M"]:
    """Labels as indices of the given classes."""
    return torch.tensor([classes.index(name) for name in objects.classes])[objects.labels]


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
        ValueError: If the pipeline does not paint, there are fewer than two images, or the
            attribute is missing, has no classes, or no object has it.
    """
    if not getattr(pipe, "paints", False):
        raise ValueError(f"{type(pipe).__name__} paints no images")
    sampling = sampling or Sampling()
    objects = read_objects(dataset, attribute, resolution=pipe.resolution, num_images=num_images)
    if len(objects.images) < 2:
        raise ValueError("objects are put into other images' scenes: two images are needed, got 1")
    progress("reading training objects")
    seen = read_objects(
        training, attribute, resolution=pipe.resolution, num_images=NUM_TRAINING_IMAGES
    )
    # Without a list of classes in the data set, a split knows only those that it contains.
    classes = sorted({*objects.classes, *seen.classes})
    labels = _renumber(objects, classes)
    progress("training the classifier")
    with torch.enable_grad():
        classifier = train_crop_classifier(
            crop_objects(seen.images, seen.boxes, seen.owners),
            _renumber(seen, classes),
            seen.owners,
            num_classes=len(classes),
            seed=sampling.seed,
        )
    progress("painting")
    images = _paint_all(pipe, objects, sampling, batch_size)
    accuracies: dict[str, Any] = {"autoencoder": None}
    for name, (pixels, which, owners) in images.items():
        crops = crop_objects(pixels, objects.boxes[which], owners)
        correct = classifier.predict(crops) == labels[which]
        accuracies[name] = float(correct.float().mean())
    return PaintedReport(
        attribute=attribute,
        num_objects=len(objects.labels),
        num_composed=len(images["compositions"][1]),
        guess=float(labels.bincount().max() / len(labels)),
        **accuracies,
    )


def _paint_all(
    pipe: Any, objects: LabeledObjects, sampling: Sampling, batch_size: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """All kinds of images, the objects to be read off them, and the image of each object."""
    decoded = []
    every_slot: list[Tensor] = []
    every_mask: list[Tensor] = []
    segmentations: list[Tensor] = []
    size = (objects.images.shape[2], objects.images.shape[3])
    for start in range(0, len(objects.images), batch_size):
        pixels = objects.images[start : start + batch_size]
        if getattr(pipe, "vae", None) is not None:
            decoded.append(through_autoencoder(pipe, pixels) * 2 - 1)
        scenes = pipe.encode_pixel_values(
            pixels,
            generator=generators(range(sampling.seed + start, sampling.seed + start + len(pixels))),
        )
        exist = scenes.slots_mask
        if exist is None:
            exist = torch.ones(scenes.slots.shape[:2], dtype=torch.bool)
        every_slot += scenes.slots.cpu()
        every_mask += exist.cpu()
        segmentations += scenes.segmentation(size).cpu()
    # Batches of a model that merges slots differ in their number.
    slots, exist = (pad_sequence(part, batch_first=True) for part in (every_slot, every_mask))
    composed, composed_exist, chosen = _compose(objects, slots, exist, torch.stack(segmentations))
    images_of = objects.owners[chosen]
    everyone = torch.arange(len(objects.labels))
    painted = _paint(pipe, slots, exist, sampling, torch.arange(len(slots)), batch_size)
    in_scenes = _paint(pipe, composed, composed_exist, sampling, images_of, batch_size)
    sets = {"pictures": objects.images, "reconstructions": painted}
    if decoded:
        sets["autoencoder"] = torch.cat(decoded)
    return {
        **{name: (images, everyone, objects.owners) for name, images in sets.items()},
        "compositions": (in_scenes, chosen, torch.arange(len(chosen))),
    }


def _paint(
    pipe: Any,
    slots: Tensor,
    exist: Tensor,
    sampling: Sampling,
    images: Tensor,
    batch_size: int,
) -> Float[Tensor, "B 3 H W"]:
    """Paint scenes, by sampling if the pipeline is a diffusion model; pixels in [-1, 1]."""
    if hasattr(pipe, "scheduler"):
        seeds = (sampling.seed + images).tolist()
        options: dict[str, Any] = {"sampling": sampling, "seeds": seeds, "batch_size": batch_size}
        return sample_images(pipe, slots, exist, progress=False, **options) * 2 - 1
    painted = []
    for part, mask in zip(*(torch.split(one, batch_size) for one in (slots, exist)), strict=True):
        (pixels,) = pipe(part, slots_mask=mask, output_type="pt", return_dict=False)
        painted.append(pixels.float().cpu() * 2 - 1)
    return torch.cat(painted)


def _compose(
    objects: LabeledObjects, slots: Tensor, exist: Tensor, segmentation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the largest object of every image into the scene of the next image.

    Returns:
        The scenes, their existing slots, and the index of the object of each.
    """
    num_slots = slots.shape[1]
    scenes, masks, chosen = [], [], []
    for image in torch.unique(objects.owners).tolist():
        own = (objects.owners == image).nonzero()[:, 0]
        index = int(own[objects.masks[own].sum(dim=(1, 2)).argmax()])
        inside = objects.masks[index].bool()
        slot = int(segmentation[image][inside].bincount(minlength=num_slots).argmax())
        other = (image + 1) % len(slots)
        area = segmentation[other].flatten().bincount(minlength=num_slots)
        overlap = segmentation[other][inside].bincount(minlength=num_slots)
        keep = overlap <= COVERED * area.clamp(min=1, max=int(inside.sum()))
        keep[area.argmax()] = True  # the background
        scenes.append(torch.cat([slots[other], slots[image, slot][None]]))
        masks.append(torch.cat([exist[other] & keep, torch.ones(1, dtype=torch.bool)]))
        chosen.append(index)
    return torch.stack(scenes), torch.stack(masks), torch.tensor(chosen)
