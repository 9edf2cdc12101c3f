"""Scenes that show what a model does: its slots, an object taken away, objects exchanged."""

from dataclasses import dataclass
from functools import cached_property

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from latentslots import editing
from latentslots.evaluation.page import Page
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.base import SlotOutput, upsample_masks
from latentslots.visualize import grid, overlay, slot_strip, to_pil

NUM_SHOWN = 6


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
        self._show_removed(page)
        self._show_swapped(page)

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

    def _show_removed(self, page: Page) -> None:
        images, chosen = self.images(), self.objects()
        edited = [
            editing.remove(slots, slot) if slots.shape[1] > 1 else slots
            for slots, slot in zip(self.scenes, chosen, strict=True)
        ]
        gone = self.paint(edited)
        tiles = []
        for i, slot in enumerate(chosen):
            seen = slot_strip(images[i], self.masks()[i][0, [slot]], with_image=False)
            tiles.append([images[i], seen, self.painted[i], gone[i]])
        page.heading("Take an object away")
        page.picture(
            grid([tiles[i] + tiles[i + 1] for i in range(0, NUM_SHOWN, 2)], gap=4),
            "Two scenes a row, four pictures each: the picture; one of its slots; painted from all "
            "slots; painted without that slot, from the same noise.",
            pixels=True,
        )

    def _show_swapped(self, page: Page) -> None:
        half = NUM_SHOWN // 2
        objects, backgrounds = self.objects(), self.backgrounds()
        pairs = [(i, i + half) for i in range(half)]
        exchanged, moved = self.scenes, self.scenes
        for i, j in pairs:
            one, two = self.scenes[i], self.scenes[j]
            exchanged[i], exchanged[j] = editing.swap(one, objects[i], two, objects[j])
            moved[i], moved[j] = editing.swap(one, backgrounds[i], two, backgrounds[j])
        columns = [self.painted, self.paint(exchanged), self.paint(moved)]
        rows = [[pictures[k] for pictures in columns for k in pair] for pair in pairs]
        page.heading("Exchange objects and backgrounds")
        page.picture(
            grid(rows, gap=4),
            "Each row: two scenes; the same two after they exchanged one object; and after they "
            "exchanged their backgrounds.",
            pixels=True,
        )
