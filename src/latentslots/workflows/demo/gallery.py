"""Pictures that show what a model does: its slots, edits, concepts, composed scenes."""

from dataclasses import dataclass
from functools import cached_property

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from latentslots import editing
from latentslots.concepts import ConceptLibrary
from latentslots.evaluation.generation import Sampling, paint
from latentslots.evaluation.report.html_page import Page
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.base import SlotOutput, upsample_masks
from latentslots.pipelines.edit import paint_edit
from latentslots.visualize import grid, overlay, slot_strip, to_pil

NUM_SHOWN = 6
NUM_CONCEPTS = 12
NUM_COMPOSED = 8


@dataclass(frozen=True)
class Gallery:
    """A few scenes, their slots, and the noise that each is painted from, before and after.

    Attributes:
        pipe: The model.
        pixel_values: The scenes, in [-1, 1].
        found: Their slots and masks, one scene each.
        seed: Scene i is painted from the noise of seed + i, whatever its slots.
    """

    pipe: LatentSlotDiffusionPipeline
    pixel_values: Tensor
    found: list[SlotOutput]
    seed: int

    @classmethod
    def of(cls, pipe: LatentSlotDiffusionPipeline, dataset: Dataset, *, seed: int) -> "Gallery":
        """Find the slots of scenes spread over a data set."""
        rows = [dataset[i * len(dataset) // NUM_SHOWN] for i in range(NUM_SHOWN)]
        pixel_values = pipe.preprocess([row["image"] for row in rows])
        found = [
            pipe.encode_pixel_values(
                pixels[None], generator=torch.Generator().manual_seed(seed + i)
            )
            for i, pixels in enumerate(pixel_values)
        ]
        return cls(pipe, pixel_values, found, seed)

    @property
    def scenes(self) -> list[Tensor]:
        """The slots of each scene, `[1, K, D]`."""
        return [scene.slots for scene in self.found]

    @cached_property
    def painted(self) -> list[Image.Image]:
        """The scenes, painted back from all of their slots."""
        return self.paint(self.scenes)

    def paint(self, scenes: list[Tensor]) -> list[Image.Image]:
        """Paint scenes, each from its own noise."""
        slots, exist = editing.pad(scenes)
        generators = [torch.Generator().manual_seed(self.seed + i) for i in range(len(slots))]
        (images,) = self.pipe(slots, slots_mask=exist, generator=generators, return_dict=False)
        return images

    def images(self) -> list[Image.Image]:
        """The scenes as pictures."""
        return [to_pil(pixels) for pixels in self.pixel_values]

    def masks(self) -> list[Tensor]:
        """For each scene its soft masks, `[1, K, H, W]`, as large as the pictures, on the CPU."""
        height, width = self.pixel_values.shape[-2:]
        return [upsample_masks(scene.masks, (height, width)).cpu() for scene in self.found]

    def backgrounds(self) -> list[int]:
        """For each scene the slot that owns most pixels."""
        return [int(editing.background(masks)) for masks in self.masks()]

    def objects(self) -> list[int]:
        """For each scene the slot that owns most pixels after the background's.

        A pixel counts as much as the slot's mask is sure of it.
        """
        chosen = []
        for masks, ground in zip(self.masks(), self.backgrounds(), strict=True):
            sure = masks * (masks == masks.amax(dim=1, keepdim=True))
            shares = sure.sum(dim=(0, 2, 3))
            shares[ground] = -1
            chosen.append(int(shares.argmax()))
        return chosen

    def show(self, page: Page) -> None:
        """Add what was found and what can be done with it to a page."""
        page.heading("What it sees")
        self.show_found(page)
        self._show_edits(page)

    def show_found(self, page: Page) -> None:
        """Add what every slot sees, and what is painted from all of them."""
        rows = []
        for image, masks, painted in zip(self.images(), self.masks(), self.painted, strict=True):
            strip = slot_strip(image, masks[0], with_image=False)
            rows.append([image, overlay(image, masks[0].argmax(dim=0)), painted, strip])
        page.picture(
            grid(rows),
            "Each row: a picture it never saw; the masks of its slots, in colors that only number "
            "them; the picture painted back from the slots alone; and what each slot sees.",
            pixels=True,
        )

    def _show_edits(self, page: Page) -> None:
        images, masks, objects = self.images(), self.masks(), self.objects()
        seen = [
            slot_strip(image, mask[0, [slot]], with_image=False)
            for image, mask, slot in zip(images, masks, objects, strict=True)
        ]
        columns = [images, seen, self.without_object(), self.with_object(), self.elsewhere()]
        page.heading("Edit a picture, object by object")
        page.picture(
            grid(list(zip(*columns, strict=True)), gap=4),
            "Each row: a picture; one of its slots; the picture without it; with an object of the "
            "next row in its place; and on the ground of the next row. An edit changes the "
            "set of slots, and only what it touches is painted anew.",
            pixels=True,
        )

    def without_object(self) -> list[Image.Image]:
        """Each scene after its object was taken away."""
        objects, owned = self.objects(), self._owned()
        edited = [
            editing.remove(slots, slot) if slots.shape[1] > 1 else slots
            for slots, slot in zip(self.scenes, objects, strict=True)
        ]
        return self.edit(edited, [mask == slot for mask, slot in zip(owned, objects, strict=True)])

    def with_object(self) -> list[Image.Image]:
        """Each scene with the next one's object in the place of its own."""
        objects = self.objects()
        old = [mask == slot for mask, slot in zip(self._owned(), objects, strict=True)]
        changed = [one | other for one, other in zip(old, [*old[1:], old[0]], strict=True)]
        return self.edit(self._exchange(objects), changed)

    def elsewhere(self) -> list[Image.Image]:
        """Each scene on the next one's background; what stands before it stays."""
        owned, grounds = self._owned(), self.backgrounds()
        changed = [mask == ground for mask, ground in zip(owned, grounds, strict=True)]
        return self.edit(self._exchange(grounds), changed)

    def edit(self, scenes: list[Tensor], changed: list[Tensor]) -> list[Image.Image]:
        """Paint the scenes after an edit; what did not change stays.

        Args:
            scenes: Their slots after the edit.
            changed: For each `[1, H, W]`, where something was or shall be.
        """
        before, before_mask = editing.pad(self.scenes)
        after, after_mask = editing.pad(scenes)
        images = paint_edit(
            self.pipe,
            self.pixel_values,
            before,
            after,
            torch.cat(changed),
            before_mask=before_mask,
            after_mask=after_mask,
            generator=[torch.Generator().manual_seed(self.seed + i) for i in range(len(before))],
        )
        return list(images)

    def _exchange(self, chosen: list[int]) -> list[Tensor]:
        """The slots of each scene, with the next one's chosen slot in the place of its own."""
        scenes, count = self.scenes, len(chosen)
        given = [(i + 1) % count for i in range(count)]
        return [
            editing.replace(scenes[i], chosen[i], scenes[j][:, chosen[j]])
            for i, j in enumerate(given)
        ]

    def _owned(self) -> list[Tensor]:
        """For each scene the slot that owns each pixel, `[1, H, W]`."""
        return [masks.argmax(dim=1) for masks in self.masks()]


def show_concepts(
    page: Page, pipe: LatentSlotDiffusionPipeline, dataset: Dataset, *, seed: int
) -> None:
    """Cluster the slots of a data set, and paint scenes composed of them.

    Args:
        page: Gets two sections.
        pipe: Finds slots, and paints.
        dataset: Scenes to take slots from.
        seed: Of everything drawn.
    """
    library = ConceptLibrary.fit(pipe, dataset, NUM_CONCEPTS, seed=seed, progress=False)
    page.heading("A library of concepts")
    page.picture(
        library.show(),
        f"The slots of {len(dataset)} scenes, clustered: for each cluster its mean mask, and the "
        "objects that show it best.",
    )
    slots = library.sample(NUM_COMPOSED, generator=torch.Generator().manual_seed(seed))
    painted = paint(pipe, slots, sampling=Sampling(seed=seed), progress=False)
    pictures = [to_pil(image * 2 - 1) for image in painted]
    page.heading("Scenes that never were")
    page.picture(
        grid([pictures[: NUM_COMPOSED // 2], pictures[NUM_COMPOSED // 2 :]], gap=4),
        "Each is composed of slots out of the library, every one from another picture, in the "
        "places that a real scene's objects have, and painted by the diffusion model.",
        pixels=True,
    )
