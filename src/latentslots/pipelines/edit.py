"""Edits of slots, and sampling that changes an image only where the edit does.

Dimensions: B batch, K slots, D slot channels, h w latents or masks, H W pixels.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots import editing
from latentslots.editing import Indices, Shift
from latentslots.pipelines.full_size import Area, cut_out, paste_into
from latentslots.pipelines.slot_output import SlotOutput, upsample_masks

NUM_INVERSION_STEPS = 50


@dataclass(frozen=True)
class SlotEdit:
    """A change of slots, and the pixels that it changes.

    Attributes:
        before: The scenes, as `encode` returned them.
        after: The scenes after the edit. A slot from another scene keeps its mask from there.
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
        insert: Sequence[tuple[SlotOutput, Indices]] = (),
        place: Sequence[tuple[SlotOutput, Indices, Shift]] = (),
        move: Sequence[tuple[Indices, Shift]] = (),
        scale: Sequence[tuple[Indices, float]] = (),
        background: SlotOutput | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> "SlotEdit":
        """Edit slots, and derive the changed pixels from their masks.

        All indices are those of the scenes before the edit: one for all scenes, or a tensor with
        one, or several, for each (see `latentslots.editing`). Other scenes must come from the same
        pipeline, and have the same batch size.

        Args:
            scene: The scene to edit, or a batch of scenes.
            remove: Slots to remove.
            replace: For each replacement, the slots to replace, another scene, and its slots that
                take their place.
            insert: For each insertion, another scene, and its slots to add.
            place: The same, and the point (x, y) for their centers (`editing.place`).
            move: For each move, slots, and how far to the right and down (`editing.move`).
            scale: For each scaling, slots, and the factor (`editing.scale`).
            background: Another scene whose background replaces this one's (`editing.background`).
                Its objects' pixels do not change.
            size: Pixels per side of the image, or (height, width); the masks' own size when absent.

        Raises:
            ValueError: If a slot does not exist or is named twice, no slot is left, or slots
                without frames are moved, scaled or placed.
        """
        if place or move or scale:
            check_frames(scene)
        placed = [(_with_slots(o, editing.place(o.slots, i, at)), i) for o, i, at in place]

        def owned(scene: SlotOutput, index: Indices) -> Bool[Tensor, "B H W"]:
            masks = scene.masks if size is None else upsample_masks(scene.masks, size)
            return editing.owned_pixels(masks, index)

        original, changed = scene, owned(scene, remove)
        steps: list[tuple[Any, Indices, Any]] = [(editing.move, index, by) for index, by in move]
        for change, index, amount in [*steps, *((editing.scale, *one) for one in scale)]:
            changed = changed | owned(scene, index)
            scene = _with_slots(scene, change(scene.slots, index, amount))
            changed = changed | owned(scene, index)
        joined = _join(scene)
        if background is not None:
            ground, new_ground = (editing.background(each.masks) for each in (scene, background))
            joined = editing.replace(joined, ground, editing.take(_join(background), new_ground))
            changed = changed | owned(scene, ground)
        for index, other, other_index in replace:
            joined = editing.replace(joined, index, editing.take(_join(other), other_index))
            changed = changed | owned(scene, index) | owned(other, other_index).to(changed.device)
        for other, other_index in [*insert, *placed]:
            joined = editing.insert(joined, editing.take(_join(other), other_index))
            changed = changed | owned(other, other_index).to(changed.device)
        after = _split(editing.remove(joined, remove), like=scene)
        return cls(before=original, after=after, changed=changed)

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
            "the slots of this model have no frames, so they cannot be moved, scaled or placed; "
            "those of models trained with method.glimpse_size have, such as the bundled one"
        )


def _with_slots(scene: SlotOutput, slots: Float[Tensor, "B K D"]) -> SlotOutput:
    """The scene with its slots in other frames, and masks that follow them and cover the others."""
    check_frames(scene)
    masks = editing.carry_masks(scene.masks, scene.slots, slots)
    moved = (slots != scene.slots).any(dim=2)[..., None, None]
    covered = (masks * moved).sum(dim=1, keepdim=True).clamp(max=1)
    masks = torch.where(moved, masks, masks * (1 - covered))
    return dataclasses.replace(scene, slots=slots, masks=masks)


def _join(scene: SlotOutput) -> Float[Tensor, "B K E"]:
    """Concatenate slots, masks and existence as channels, so that an edit moves all of them."""
    exists = scene.slots_mask
    if exists is None:
        exists = torch.ones_like(scene.slots[..., 0], dtype=torch.bool)
    return torch.cat([scene.slots, scene.masks.flatten(2).to(scene.slots), exists[..., None]], 2)


def _split(joined: Float[Tensor, "B K E"], *, like: SlotOutput) -> SlotOutput:
    """The inverse of `_join`; masks sum to 1 again."""
    width = like.slots.shape[2]
    masks = joined[:, :, width:-1].unflatten(2, like.masks.shape[2:])
    exists = joined[:, :, -1] > 0
    return SlotOutput(
        slots=joined[:, :, :width],
        masks=masks / masks.sum(dim=1, keepdim=True).clamp_min(1e-6),
        slots_mask=None if exists.all() else exists,
        has_frames=like.has_frames,
    )


def edit_images(
    pipe: Any,
    images: Any,
    edit: SlotEdit,
    *,
    output_type: str,
    full_size: bool,
    area: Area | None,
    **options: Any,
) -> Any:
    """Edit images by their slots; the implementation of `LatentSlotDiffusionPipeline.edit`.

    Args:
        pipe: The pipeline.
        images: See `LatentSlotDiffusionPipeline.edit`, as for the following.
        edit: The edit of their slots.
        output_type: `pil`, `np`, `pt` or `latent`.
        full_size: Whether PIL images keep their size.
        area: The square of a PIL image that is edited.
        **options: See `_edit_pixels`.
    """
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type must be pil, np, pt or latent, got {output_type!r}")
    photographs = images if isinstance(images, list) else [images]
    are_pil = all(isinstance(image, Image.Image) for image in photographs)
    if area is not None:
        if len(photographs) != 1 or not are_pil:
            raise ValueError("an area applies to a single PIL image")
        images = cut_out(photographs[0], area)
    pixel_values = pipe.preprocess(images)
    as_latents = output_type == "latent"
    edited, weight = _edit_pixels(pipe, pixel_values, edit, as_latents=as_latents, **options)
    if as_latents:
        return edited
    if output_type == "pil" and full_size and are_pil:
        parts = zip(photographs, edited, weight, strict=True)
        return [paste_into(one, new, share, area) for one, new, share in parts]
    edited = torch.lerp(pixel_values.to(edited) / 2 + 0.5, edited, weight.to(edited))
    if output_type in ("pil", "np"):
        edited = pipe.image_processor.pt_to_numpy(edited)
    return pipe.image_processor.numpy_to_pil(edited) if output_type == "pil" else edited


@torch.no_grad()
def _edit_pixels(
    pipe: Any,
    pixel_values: Float[Tensor, "B 3 H W"],
    edit: SlotEdit,
    *,
    inversion: bool,
    blending: bool,
    paste: bool,
    margin: int,
    generator: Generator | list[Generator] | None,
    as_latents: bool = False,
    **options: Any,
) -> tuple[Tensor, Float[Tensor, "B 1 H W"]]:
    """Edit images at the size that the model sees.

    Args:
        pipe: The pipeline.
        pixel_values: The images, in [-1, 1].
        edit: The edit of their slots.
        inversion: Start from the noise of the images themselves (DDIM inversion).
        blending: Keep the images' latents outside of the edit.
        paste: Keep their pixels outside of the edit as well.
        margin: Pixels around the edit that may change with it.
        generator: Source of the starting noise.
        as_latents: Return latents, which are not pasted.
        **options: Arguments of the pipeline's call, such as `guidance_scale`.

    Returns:
        What is sampled, in [0, 1], or its latents; and how much of each pixel is to be replaced by
        it, in [0, 1].
    """
    batch_size, _, height, width = pixel_values.shape
    if tuple(edit.changed.shape) != (batch_size, height, width):
        raise ValueError(
            f"the edit must be of {batch_size} images of {height} x {width} pixels, as those given,"
            f" but `changed` has shape {list(edit.changed.shape)}; see `size` of SlotEdit.of"
        )
    before, after = edit.before, edit.after
    latents = pipe.encode_latents(pixel_values)
    if inversion:
        options["latents"] = pipe.invert(
            latents,
            before.slots,
            slots_mask=before.slots_mask,
            num_inference_steps=NUM_INVERSION_STEPS,
        )
    if blending:
        options["image_latents"] = latents
        options["edit_mask"] = edit_mask(edit.changed, latents.shape[-2:], margin=margin)
    (images,) = pipe(
        after.slots,
        slots_mask=after.slots_mask,
        generator=generator,
        height=height,
        width=width,
        output_type="latent" if as_latents else "pt",
        return_dict=False,
        **options,
    )
    weight = torch.ones_like(pixel_values[:, :1])
    if blending and paste and not as_latents:
        weight = _soften(_grow(edit.changed, margin)).maximum(edit.changed[:, None].float())
    return images, weight


def edit_mask(
    changed: Bool[Tensor, "B H W"], size: tuple[int, int] | torch.Size, *, margin: int
) -> Float[Tensor, "B 1 h w"]:
    """Latents that an edit may change: 1 where one of their pixels changes, else 0.

    Args:
        changed: The pixels.
        size: Height and width of the latents.
        margin: Width in pixels of the border around them that may change as well.
    """
    return F.adaptive_max_pool2d(_grow(changed, margin), (size[0], size[1]))


def _grow(changed: Bool[Tensor, "B H W"], margin: int) -> Float[Tensor, "B 1 H W"]:
    mask = changed[:, None].float()
    return F.max_pool2d(mask, 2 * margin + 1, stride=1, padding=margin)


def _soften(mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """The mask with an edge of two pixels; the image's own edge stays sharp."""
    return F.avg_pool2d(mask, 3, stride=1, padding=1, count_include_pad=False)
