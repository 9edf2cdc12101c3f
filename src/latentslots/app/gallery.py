"""Scenes that show what a model does: its slots, an object taken away, objects exchanged."""

from dataclasses import dataclass

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
        found: Their slots and masks.
        seed: Scene i is painted from the noise of seed + i, whatever its slots.
    """

    pipe: LatentSlotDiffusionPipeline
    pixel_values: Tensor
    found: SlotOutput
    seed: int

    @classmethod
    def of(cls, pipe: LatentSlotDiffusionPipeline, dataset: Dataset, *, seed: int) -> "Gallery":
        """Find the slots of scenes spread over a data set."""
        rows = [dataset[i * len(dataset) // NUM_SHOWN] for i in range(NUM_SHOWN)]
        pixel_values = pipe.preprocess([row["image"] for row in rows])
        generators = [torch.Generator().manual_seed(seed + i) for i in range(NUM_SHOWN)]
        found = pipe.encode_pixel_values(pixel_values, generator=generators)
        return cls(pipe, pixel_values, found, seed)

    def paint(self, slots: Tensor) -> list[Image.Image]:
        """Paint scenes, each from its own noise."""
        generators = [torch.Generator().manual_seed(self.seed + i) for i in range(len(slots))]
        (images,) = self.pipe(slots, generator=generators, return_dict=False)
        return images

    def masks(self) -> Tensor:
        """Soft masks as large as the pictures, `[B, K, H, W]`, on the CPU."""
        height, width = self.pixel_values.shape[-2:]
        return upsample_masks(self.found.masks, (height, width)).cpu()

    def backgrounds(self) -> list[int]:
        """For each scene the slot that owns most pixels."""
        owners = self.masks().argmax(dim=1).flatten(1)
        return [int(ids.bincount().argmax()) for ids in owners]

    def objects(self) -> list[int]:
        """For each scene the slot that owns most pixels after the background's.

        A pixel counts as much as the slot's mask is sure of it.
        """
        masks = self.masks()
        sure = masks * (masks == masks.amax(dim=1, keepdim=True))
        shares = sure.sum(dim=(2, 3))
        shares[torch.arange(len(shares)), self.backgrounds()] = 0
        return shares.argmax(dim=1).tolist()

    def show(self, page: Page) -> None:
        """Add what was found and what can be done with it to a page."""
        images = [to_pil(pixels) for pixels in self.pixel_values]
        slots = self.found.slots
        painted = self.paint(slots)
        self._show_found(page, images, painted)
        self._show_removed(page, images, painted)
        self._show_swapped(page, images, painted)

    def _show_found(
        self, page: Page, images: list[Image.Image], painted: list[Image.Image]
    ) -> None:
        segmentation = self.masks().argmax(dim=1)
        rows = []
        for i, image in enumerate(images):
            strip = slot_strip(image, self.found.masks[i].float().cpu(), with_image=False)
            rows.append([image, overlay(image, segmentation[i]), strip, painted[i]])
        page.heading("What it sees")
        page.picture(
            grid(rows),
            "Each row: a picture it never saw; the masks of its slots, in colors that only number "
            "them; the picture as each slot sees it; and, on the right, painted back from the "
            "slots alone.",
            pixels=True,
        )

    def _show_removed(
        self, page: Page, images: list[Image.Image], painted: list[Image.Image]
    ) -> None:
        chosen, slots = self.objects(), self.found.slots
        edited = torch.cat([editing.remove(slots[[i]], slot) for i, slot in enumerate(chosen)])
        gone = self.paint(edited)
        tiles = []
        for i, slot in enumerate(chosen):
            mask = self.found.masks[i, [slot]].float().cpu()
            seen = slot_strip(images[i], mask, with_image=False)
            tiles.append([images[i], seen, painted[i], gone[i]])
        page.heading("Take a slot away")
        page.picture(
            grid([tiles[i] + tiles[i + 1] for i in range(0, NUM_SHOWN, 2)], gap=4),
            "Two scenes a row, four pictures each: the picture; one of its slots; painted from all "
            "slots; painted without that slot, from the same noise.",
            pixels=True,
        )

    def _show_swapped(
        self, page: Page, images: list[Image.Image], painted: list[Image.Image]
    ) -> None:
        slots, half = self.found.slots, NUM_SHOWN // 2
        objects, backgrounds = self.objects(), self.backgrounds()
        pairs = [(i, i + half) for i in range(half)]
        exchanged = slots.clone()
        for i, j in pairs:
            exchanged[[i]], exchanged[[j]] = editing.swap(
                slots[[i]], objects[i], slots[[j]], objects[j]
            )
        moved = slots.clone()
        for i in range(NUM_SHOWN):
            other = (i + half) % NUM_SHOWN
            new = slots[[other], backgrounds[other]]
            moved[[i]] = editing.replace(slots[[i]], backgrounds[i], new)
        with_objects, with_backgrounds = self.paint(exchanged), self.paint(moved)
        rows = [
            [pictures[k] for pictures in (painted, with_objects, with_backgrounds) for k in pair]
            for pair in pairs
        ]
        page.heading("Exchange slots")
        page.picture(
            grid(rows, gap=4),
            "Each row: two scenes; the same two after they exchanged their second largest slots, "
            "objects where slots are objects; and after they exchanged their largest slots, the "
            "backgrounds.",
            pixels=True,
        )
