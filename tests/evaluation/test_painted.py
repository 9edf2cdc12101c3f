"""A pipeline whose slots are objects of known images, so that what it paints is known."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn.functional import pad

from latentslots.config.sampling import Sampling
from latentslots.evaluation.painted import evaluate_painted, read_objects
from latentslots.models.autoencoder import encode_latents
from latentslots.models.noise_schedule import official_schedule
from latentslots.pipelines import SlotOutput
from tests.evaluation.squares import png
from tests.tiny import tiny_autoencoder

SIDE = 32
CLASSES = ClassLabel(names=["square", "disc"])


def shapes(number: int, seed: int, feature: Any = CLASSES, names: Any = (0, 1)) -> Dataset:
    """Two shapes on gray per image, of different color, each a square or a disc."""
    draws = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    rows = []
    for _ in range(number):
        pixels, ids = torch.full((SIDE, SIDE, 3), 90), torch.zeros(SIDE, SIDE)
        kinds = torch.randint(2, (2,), generator=draws).tolist()
        for index, (kind, center) in enumerate(zip(kinds, (8, 23), strict=True)):
            top = int(torch.randint(8, 24, (1,), generator=draws))
            far = (y - top).abs().maximum((x - center).abs())
            inside = (y - top) ** 2 + (x - center) ** 2 < 40 if kind else far < 6
            ids[inside] = index + 1
            pixels[inside] = torch.randint(120, 255, (3,), generator=draws)
        rows.append(
            {
                "image": png(pixels.numpy().astype("uint8")),
                "segmentation": png(ids.numpy().astype("uint8")),
                "attributes": {"kind": [names[one] for one in kinds], "width": [12.0, 12.0]},
            }
        )
    attributes = {"kind": List(feature), "width": List(Value("float32"))}
    features = Features(image=Image(), segmentation=Image(), attributes=attributes)
    return Dataset.from_list(rows, features=features)


@dataclass
class Painter:
    """Slots are (image, object); it paints them over one another, or gray if it is blind."""

    blind: bool = False
    paints: bool = True
    resolution: int = SIDE
    vae: Any = field(default_factory=tiny_autoencoder)
    scheduler: Any = field(
        default_factory=lambda: DDIMScheduler.from_config(official_schedule().config)
    )
    known: list[Tensor] = field(default_factory=list)

    def set_progress_bar_config(self, **_: Any) -> None: ...

    def encode_latents(self, pixel_values: Tensor) -> Tensor:
        return encode_latents(self.vae, pixel_values)

    def encode_pixel_values(self, pixel_values: Tensor, **_: Any) -> SlotOutput:
        slots, masks = [], []
        for image in pixel_values:
            colors, ids = image.flatten(1).unique(dim=1, return_inverse=True)
            assert colors.shape[1] == 3
            gray = int((colors - (90 / 127.5 - 1)).abs().sum(dim=0).argmin())
            order = [gray, *(i for i in range(3) if i != gray)]
            masks.append(torch.stack([(ids == i).view(SIDE, SIDE).float() for i in order]))
            slots.append(torch.tensor([[len(self.known), i] for i in range(3)]).float())
            self.known.append(
                torch.cat([image[None].expand(3, -1, -1, -1), masks[-1][:, None]], dim=1)
            )
        # As from a model that merges slots, batches differ in their number.
        absent = len(pixel_values) % 2
        exist = torch.ones(len(slots), 3 + absent, dtype=torch.bool)
        exist[:, 3:] = False
        return SlotOutput(
            slots=pad(torch.stack(slots), (0, 0, 0, absent)),
            masks=pad(torch.stack(masks), (0, 0, 0, 0, 0, absent)),
            slots_mask=exist,
        )

    def __call__(self, slots: Tensor, *, slots_mask: Tensor | None, **_: Any) -> tuple[Tensor]:
        images = torch.full((len(slots), 3, SIDE, SIDE), 90 / 127.5 - 1)
        for row, scene in enumerate(slots if not self.blind else []):
            for number, (image, index) in enumerate(scene.long().tolist()):
                if slots_mask is None or slots_mask[row, number]:
                    part = self.known[image][index]
                    images[row] = torch.where(part[3] > 0, part[:3], images[row])
        return ((images + 1) / 2,)


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return shapes(20, seed=1), shapes(50, seed=0)


def test_what_is_painted_as_it_is_is_recognized_as_it_is(data: tuple[Dataset, Dataset]) -> None:
    report = evaluate_painted(Painter(), *data, "kind", sampling=Sampling(), batch_size=8)
    assert (report.num_objects, report.num_composed) == (40, 20)
    assert report.pictures > 0.9
    assert report.reconstructions == report.pictures
    assert evaluate_painted(Painter(), *data, "kind", batch_size=3) == report
    assert report.compositions > 0.85, "only the objects around them differ"
    assert 0.5 <= report.guess < 0.7
    assert len(report.to_markdown().splitlines()) == 9
    assert report.to_dict()["attribute"] == "kind"


def test_nothing_is_recognized_where_nothing_is_painted(data: tuple[Dataset, Dataset]) -> None:
    report = evaluate_painted(Painter(blind=True), *data, "kind", batch_size=8)
    assert report.pictures > 0.9
    assert report.reconstructions <= report.guess
    assert report.compositions < 0.75


def test_words_are_the_same_classes_in_splits_that_contain_others() -> None:
    """Among images of squares alone `square` is class 0, and class 1 among all."""
    words = Value("string")
    training = shapes(50, seed=0, feature=words, names=("square", "disc"))
    images = shapes(20, seed=1, feature=words, names=("square", "disc"))
    kinds = enumerate(images["attributes"])
    few = images.select([i for i, row in kinds if set(row["kind"]) == {"square"}])
    assert len(few) >= 2
    report = evaluate_painted(Painter(), few, training, "kind", sampling=Sampling())
    assert report.guess == 1
    assert report.pictures > 0.8


def test_objects_have_boxes_and_classes(data: tuple[Dataset, Dataset]) -> None:
    objects = read_objects(data[0], "kind", resolution=SIDE, num_images=3)
    assert objects.classes == ("square", "disc")
    assert objects.owners.tolist() == [0, 0, 1, 1, 2, 2]
    for mask, (top, left, bottom, right) in zip(
        objects.masks, objects.boxes.int().tolist(), strict=True
    ):
        assert mask[top:bottom, left:right].sum() == mask.sum()
        assert mask[top].any()
        assert mask[:, right - 1].any()


def test_one_image_is_too_few(data: tuple[Dataset, Dataset]) -> None:
    with pytest.raises(ValueError, match="two images are needed, got 1"):
        evaluate_painted(Painter(), *data, "kind", num_images=1)


def test_numbers_are_refused(data: tuple[Dataset, Dataset]) -> None:
    with pytest.raises(ValueError, match="'width' has numbers, not classes"):
        evaluate_painted(Painter(), *data, "width")
