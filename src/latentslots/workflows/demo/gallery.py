"""The demo's figures: segmentations, reconstructions, edits, concepts and composed scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from datasets import Dataset
from PIL import Image
from torch import Generator, Tensor

from latentslots import editing
from latentslots.concepts import ConceptLibrary
from latentslots.config.sampling import Sampling
from latentslots.evaluation.report.html_page import Page
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import sample_images
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.pipelines.slot_output import SlotOutput, upsample_masks
from latentslots.visualize import grid, overlay, slot_strip, to_pil

NUM_SHOWN = 6
NUM_INFERENCE_STEPS = 25
NUM_CONCEPTS = 12
NUM_COMPOSED = 8


@dataclass(frozen=True)
class Gallery:
    """A few images and their scenes.

    Attributes:
        pipe: The model.
        pixel_values: The images, in [-1, 1].
        scenes: Their slots and masks, each with a batch size of 1.
        seed: Image i is sampled from the noise of seed + i, whatever its slots.
    """

    pipe: LatentSlotDiffusionPipeline
    pixel_values: Tensor
    scenes: list[SlotOutput]
    seed: int

    @classmethod
    def of(cls, pipe: LatentSlotDiffusionPipeline, dataset: Dataset, *, seed: int) -> "Gallery":
        """Encode images spread over a data set."""
        rows = [dataset[i * len(dataset) // NUM_SHOWN] for i in range(NUM_SHOWN)]
        pixel_values = pipe.preprocess([row["image"] for row in rows])
        scenes = [
            pipe.encode_pixel_values(pixels[None], generator=Generator().manual_seed(seed + i))
            for i, pixels in enumerate(pixel_values)
        ]
        return cls(pipe, pixel_values, scenes, seed)

    @cached_property
    def reconstructions(self) -> list[Image.Image]:
        """The images, reconstructed from all of their slots."""
        slots, exist = editing.pad([scene.slots for scene in self.scenes])
        (images,) = self.pipe(
            slots,
            slots_mask=exist,
            num_inference_steps=NUM_INFERENCE_STEPS,
            generator=self.generators(),
            return_dict=False,
        )
        return list(images)

    def generators(self) -> list[Generator]:
        """Fresh generators of the images' starting noise, one per image."""
        return [Generator().manual_seed(self.seed + i) for i in range(len(self.scenes))]

    def images(self) -> list[Image.Image]:
        """The images as the model receives them: resized and cropped."""
        return [to_pil(pixels) for pixels in self.pixel_values]

    def masks(self) -> list[Tensor]:
        """The soft masks of each scene at the size of its image, `[1, K, H, W]`, on the CPU."""
        height, width = self.pixel_values.shape[-2:]
        return [upsample_masks(scene.masks, (height, width)).cpu() for scene in self.scenes]

    def objects(self) -> list[int]:
        """For each scene the largest slot other than the background.

        The size of a slot is the sum of its mask over the pixels in which it is the largest.
        """
        largest = []
        for masks in self.masks():
            owned = masks * (masks == masks.amax(dim=1, keepdim=True))
            areas = owned.sum(dim=(0, 2, 3))
            areas[int(editing.background(masks))] = -1
            largest.append(int(areas.argmax()))
        return largest

    def show(self, page: Page) -> None:
        """Add segmentations, reconstructions and edits to a page."""
        page.heading("What it finds in images")
        self.show_slots(page)
        self._show_edits(page)

    def show_slots(self, page: Page) -> None:
        """Add segmentations, reconstructions and slots."""
        rows = []
        columns = (self.images(), self.masks(), self.reconstructions)
        for image, masks, reconstruction in zip(*columns, strict=True):
            strip = slot_strip(image, masks[0], with_image=False)
            rows.append([image, overlay(image, masks[0].argmax(dim=0)), reconstruction, strip])
        page.picture(
            grid(rows),
            "Each row: an image that the model was not trained on; its segmentation, in arbitrary "
            "colors; the image reconstructed from its slots alone; and each slot's part of it.",
            pixels=True,
        )

    def _show_edits(self, page: Page) -> None:
        images = self.images()
        objects = [
            slot_strip(image, masks[0, [slot]], with_image=False)
            for image, masks, slot in zip(images, self.masks(), self.objects(), strict=True)
        ]
        edited = (self.without_object(), self.with_next_object(), self.on_next_background())
        page.heading("Edit an image, object by object")
        page.picture(
            grid(list(zip(images, objects, *edited, strict=True)), gap=4),
            "Each row: an image; one of its objects; the image without it; with an object of the "
            "next row in its place; and on the background of the next row. An edit changes the set "
            "of slots, and pixels only where it changes something.",
            pixels=True,
        )

    def without_object(self) -> list[Image.Image]:
        """Each image without its largest object. A scene of one slot stays as it is."""
        pairs = zip(self.scenes, self.objects(), strict=True)
        return self.edit(
            [
                SlotEdit.of(scene, remove=slot if scene.slots.shape[1] > 1 else (), size=self._size)
                for scene, slot in pairs
            ]
        )

    def with_next_object(self) -> list[Image.Image]:
        """Each image with its largest object replaced by that of the next image."""
        pairs = list(zip(self.scenes, self.objects(), strict=True))
        return self.edit(
            [
                SlotEdit.of(scene, replace=[(slot, *other)], size=self._size)
                for (scene, slot), other in zip(pairs, [*pairs[1:], pairs[0]], strict=True)
            ]
        )

    def on_next_background(self) -> list[Image.Image]:
        """Each image with its background replaced by that of the next image."""
        others = [*self.scenes[1:], self.scenes[0]]
        return self.edit(
            [
                SlotEdit.of(scene, background=other, size=self._size)
                for scene, other in zip(self.scenes, others, strict=True)
            ]
        )

    def edit(self, edits: Sequence[SlotEdit]) -> list[Image.Image]:
        """Apply one edit to each image."""
        out = self.pipe.edit(
            (self.pixel_values + 1) / 2,
            SlotEdit.batch(edits),
            num_inference_steps=NUM_INFERENCE_STEPS,
            generator=self.generators(),
        )
        return list(out.images)

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.pixel_values.shape[-2:]
        return height, width


def show_concepts(
    page: Page, pipe: LatentSlotDiffusionPipeline, dataset: Dataset, *, seed: int
) -> None:
    """Add a concept library of a data set, and images of scenes composed of it, to a page.

    Args:
        page: The page, to which two sections are added.
        pipe: The model.
        dataset: Images to collect slots from.
        seed: Seed of slot noise, of clustering, and of all draws.
    """
    library = ConceptLibrary.fit(pipe, dataset, NUM_CONCEPTS, seed=seed, progress=False)
    page.heading("A library of concepts")
    page.picture(
        library.show(),
        f"The slots of {len(dataset)} images, clustered: for each cluster its mean mask, and the "
        "objects nearest to its center.",
    )
    slots = library.sample(NUM_COMPOSED, generator=Generator().manual_seed(seed))
    sampling = Sampling(num_inference_steps=NUM_INFERENCE_STEPS, seed=seed)
    sampled = sample_images(pipe, slots, sampling=sampling, progress=False)
    images = [to_pil(image * 2 - 1) for image in sampled]
    page.heading("New scenes")
    page.picture(
        grid([images[: NUM_COMPOSED // 2], images[NUM_COMPOSED // 2 :]], gap=4),
        "Each is composed of slots from the library, every one from another image, in the layout "
        "of a real image's objects, and sampled by the diffusion model.",
        pixels=True,
    )
