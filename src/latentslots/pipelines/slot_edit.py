"""Edits of slots, and the pixels that they change.

Dimensions: B batch, K slots, N slots of an index, D slot channels, h w masks, H W pixels.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latentslots import editing
from latentslots.editing import Indices, Shift
from latentslots.pipelines.slot_output import SlotOutput, upsample_masks


@dataclass(frozen=True)
class SlotEdit:
    """A change of slots, and the pixels that it changes.

    Attributes:
        before: The scenes, as `encode` returned them.
        after: The scenes after the edit. A slot from another scene keeps its mask from there,
            unless it is placed elsewhere.
        changed: True for the pixels of slots that are taken out or put in.
    """

    before: SlotOutput
    after: SlotOutput
    changed: Bool[Tensor, "B H W"]

    @classmethod
    def of(
        cls,
        scene: SlotOutput,
        *,
        remove: Indices = (),
        replace: Sequence[tuple[Indices, SlotOutput, Indices]] = (),
        exchange: Sequence[tuple[Indices, SlotOutput, Indices]] = (),
        mix: Sequence[tuple[Indices, SlotOutput, Indices, float]] = (),
        insert: Sequence[tuple[SlotOutput, Indices]] = (),
        place: Sequence[
            tuple[SlotOutput, Indices, Shift] | tuple[SlotOutput, Indices, Shift, float]
        ] = (),
        copy: Sequence[tuple[Indices, Shift] | tuple[Indices, Shift, float]] = (),
        move: Sequence[tuple[Indices, Shift]] = (),
        scale: Sequence[tuple[Indices, float]] = (),
        background: SlotOutput | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> "SlotEdit":
        """Edit slots, and derive the changed pixels from their masks.

        All indices are those of the scenes before the edit: one for all scenes, or a tensor with
        one, or several, for each (see `latentslots.editing`). Other scenes must come from the same
        pipeline, and have the same batch size. What is exchanged or mixed can be moved and scaled
        in the same edit; copies and other scenes are as they were before it.

        Args:
            scene: The scene to edit, or a batch of scenes.
            remove: Slots to remove.
            replace: For each replacement, the slots to replace, another scene, and its slots that
                take their place; they stay where they are in the other scene.
            exchange: The same, but the new slots stand where the old ones stood
                (`editing.exchange`); without frames, they stay where they are in the other scene.
            mix: The same, and the weight of the new slots, from 0 to 1 (`editing.mix`); without
                frames, their positions are mixed as well (`editing.interpolate`).
            insert: For each insertion, another scene, and its slots to add.
            place: The same, the point (x, y) for their centers (`editing.place`) and, optionally,
                a factor for their size.
            copy: For each copy, slots of this scene, the point for the copy's center and,
                optionally, a factor for its size.
            move: For each move, slots, and how far to the right and down (`editing.move`).
            scale: For each scaling, slots, and the factor (`editing.scale`).
            background: Another scene whose background replaces this one's (`editing.background`).
                Its objects' pixels do not change.
            size: Pixels per side of the image, or (height, width); the masks' own size when absent.

        Raises:
            ValueError: If a slot does not exist or is named twice, no slot is left, a weight is
                out of its range, or slots without frames are moved, scaled, placed or copied.
        """
        if place or move or scale or copy:
            check_frames(scene)
        change = _Change(scene, size)
        for index, other, other_index in exchange:
            change.mix(index, other, other_index, 1.0)
        for one in mix:
            change.mix(*one)
        for index, by in move:
            change.reframe(index, editing.move(change.scene.slots, index, by))
        for index, factor in scale:
            change.reframe(index, editing.scale(change.scene.slots, index, factor))
        if background is not None:
            ground, new = (editing.background(each.masks) for each in (change.scene, background))
            change.mark(ground)
            change.apply(editing.replace, ground, change.taken(background, new))
        for index, other, other_index in replace:
            change.mark(index)
            change.mark(other_index, other)
            change.apply(editing.replace, index, change.taken(other, other_index))
        change.mark(remove)
        placed = [*place, *((scene, *one) for one in copy)]
        for other, other_index in [*insert, *(_placed(*one) for one in placed)]:
            change.insert(other, other_index)
        change.apply(editing.remove, remove)
        return cls(before=scene, after=change.scene, changed=change.changed)

    @classmethod
    def batch(cls, edits: Sequence["SlotEdit"]) -> "SlotEdit":
        """Join edits of images of one size, whose scenes may differ in their number of slots."""
        before, after = (
            _split(editing.pad([_join(scene) for scene in scenes])[0], like=scenes[0])
            for scenes in ([edit.before for edit in edits], [edit.after for edit in edits])
        )
        return cls(before=before, after=after, changed=torch.cat([edit.changed for edit in edits]))


def check_frames(scene_or_pipe: Any) -> None:
    """Refuse to move slots that have no frames.

    Raises:
        ValueError: If those of the scene, or of the pipeline, have none.
    """
    if not scene_or_pipe.has_frames:
        raise ValueError(
            "the slots of this model have no frames, so they cannot be moved, scaled, placed or "
            "copied; those of models trained with method.glimpse_size have"
        )


class _Change:
    """A scene on its way through an edit.

    Attributes:
        scene: The scene so far.
        changed: The pixels that have changed so far.
    """

    def __init__(self, scene: SlotOutput, size: int | tuple[int, int] | None) -> None:
        self.scene, self._size = scene, size
        self.changed = torch.zeros_like(self._owned(scene, ()))

    def _owned(self, scene: SlotOutput, index: Indices) -> Bool[Tensor, "B H W"]:
        masks = scene.masks if self._size is None else upsample_masks(scene.masks, self._size)
        return editing.owned_pixels(masks, index)

    def mark(self, index: Indices, scene: SlotOutput | None = None) -> None:
        """Mark the pixels of slots of this scene, or of another one, as changed."""
        owned = self._owned(self.scene if scene is None else scene, index)
        self.changed = self.changed | owned.to(self.changed.device)

    def apply(self, function: Any, *arguments: Any) -> None:
        """Apply a function of `editing` to slots and masks."""
        self.scene = _split(function(_join(self.scene), *arguments), like=self.scene)

    def taken(self, other: SlotOutput, index: Indices) -> Float[Tensor, "B N E"]:
        """Slots of another scene with their masks, at the size of this scene's."""
        size = (self.scene.masks.shape[2], self.scene.masks.shape[3])
        if other.masks.shape[2:] != size:
            other = dataclasses.replace(other, masks=upsample_masks(other.masks, size))
        return editing.take(_join(other), index).to(self.scene.slots.device)

    def insert(self, other: SlotOutput, index: Indices) -> None:
        """Insert slots of another scene in front of all others."""
        self.mark(index, other)
        taken = self.taken(other, index)
        masks = _split(taken, like=self.scene, normalize=False).masks
        self.scene = dataclasses.replace(self.scene, masks=_covered(self.scene.masks, masks))
        self.apply(editing.insert, taken)

    def reframe(self, index: Indices, slots: Float[Tensor, "B K D"]) -> None:
        """Carry slots to other frames, and their masks with them; they cover the others."""
        self.mark(index)
        masks = editing.carry_masks(self.scene.masks, self.scene.slots, slots)
        self._put(slots, masks)
        self.mark(index)

    def mix(self, index: Indices, other: SlotOutput, other_index: Indices, weight: float) -> None:
        """Mix slots with those of another scene, where they stand."""
        self.mark(index)
        taken = self.taken(other, other_index)
        new = _split(taken, like=self.scene, normalize=False)
        old = self.scene.slots
        if self.scene.has_frames:
            mixed = editing.mix(old, index, new.slots, weight)
            stood = editing.take(mixed, index)
            new_masks = editing.carry_masks(new.masks, new.slots, stood)
        else:
            slots = editing.interpolate(editing.take(old, index), new.slots, weight)
            mixed, new_masks = editing.replace(old, index, slots), new.masks
        masks = self.scene.masks
        if weight < 1:  # what is mixed may cover the pixels of both
            own = editing.take(masks.flatten(2), index).unflatten(2, masks.shape[2:])
            new_masks = torch.maximum(own, new_masks)
        masks = editing.replace(masks.flatten(2), index, new_masks.flatten(2))
        self._put(mixed, masks.unflatten(2, new_masks.shape[2:]))
        self.mark(index)

    def _put(self, slots: Float[Tensor, "B K D"], masks: Float[Tensor, "B K h w"]) -> None:
        """Set slots and masks; those of slots that differ from before cover all others."""
        moved = (slots != self.scene.slots).any(dim=2)[..., None, None]
        masks = torch.where(moved, masks, _covered(masks, masks * moved))
        self.scene = dataclasses.replace(self.scene, slots=slots, masks=_filled(masks))


def _covered(
    masks: Float[Tensor, "B K h w"], front: Float[Tensor, "B N h w"]
) -> Float[Tensor, "B K h w"]:
    """Masks, as far as those in front of them leave them visible."""
    return masks * (1 - front.sum(dim=1, keepdim=True).clamp(max=1))


def _filled(masks: Float[Tensor, "B K h w"]) -> Float[Tensor, "B K h w"]:
    """Give the pixels that nothing owns (any more) to the largest slot; masks sum to 1 again."""
    total = masks.sum(dim=1)
    ground = masks.sum(dim=(2, 3)).argmax(dim=1)
    rows = torch.arange(len(masks), device=masks.device)
    filled = masks.clone()
    filled[rows, ground] += (1 - total).clamp(min=0)
    return filled / filled.sum(dim=1, keepdim=True)


def _placed(
    scene: SlotOutput, index: Indices, at: Shift, factor: float = 1.0
) -> tuple[SlotOutput, Indices]:
    """A scene with slots elsewhere, which are about to be taken from it."""
    slots = editing.scale(editing.place(scene.slots, index, at), index, factor)
    masks = editing.carry_masks(scene.masks, scene.slots, slots)
    return dataclasses.replace(scene, slots=slots, masks=_in_front(masks, index)), index


def _in_front(masks: Float[Tensor, "B K h w"], index: Indices) -> Float[Tensor, "B K h w"]:
    """Masks of which those of an index cover all others."""
    flat = masks.flatten(2)
    front = editing.take(flat, index)
    flat = editing.replace(
        _covered(masks, front.unflatten(2, masks.shape[2:])).flatten(2), index, front
    )
    return flat.unflatten(2, masks.shape[2:])


def _join(scene: SlotOutput) -> Float[Tensor, "B K E"]:
    """Concatenate slots, masks and existence as channels, so that an edit moves all of them."""
    exists = scene.slots_mask
    if exists is None:
        exists = torch.ones_like(scene.slots[..., 0], dtype=torch.bool)
    return torch.cat([scene.slots, scene.masks.flatten(2).to(scene.slots), exists[..., None]], 2)


def _split(
    joined: Float[Tensor, "B K E"], *, like: SlotOutput, normalize: bool = True
) -> SlotOutput:
    """The inverse of `_join`; masks sum to 1 again (`_filled`), unless it is a part of a scene."""
    width = like.slots.shape[2]
    masks = joined[:, :, width:-1].unflatten(2, like.masks.shape[2:])
    exists = joined[:, :, -1] > 0
    if normalize:
        masks = _filled(masks)
    return SlotOutput(
        slots=joined[:, :, :width],
        masks=masks,
        slots_mask=None if exists.all() else exists,
        has_frames=like.has_frames,
    )
