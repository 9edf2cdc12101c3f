"""Generate images of many scenes, as files."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from latentslots.config.sampling import Sampling
from latentslots.data.store.listing import GENERATED_FILE, SHEET_FILE, SLOTS_SUFFIX
from latentslots.files import atomic_file, exclusive, read_json, write_json
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import sample_images, use_sampling
from latentslots.pipelines.slot_output import upsample_masks
from latentslots.visualize import grid, overlay, slot_strip, to_pil
from latentslots.workflows.compose import SceneBatch
from latentslots.workflows.image_files import open_image_file
from latentslots.workflows.provenance import BatchResult, finished, image_provenance
from latentslots.workflows.scenes import locate_slots, save_scene, scene_facts

MAX_ON_SHEET = 64
SEED_STRIDE = 1000


def generate(
    pipe: LatentSlotDiffusionPipeline,
    scenes: SceneBatch,
    output_dir: Path,
    sampling: Sampling,
    *,
    guidance_scales: Sequence[float] = (1.0,),
    num_seeds: int = 1,
    batch_size: int = 32,
    progress: bool = True,
) -> BatchResult:
    """Generate images of scenes; scenes whose images exist already are skipped.

    `output_dir` gets an image NAME.png for each scene (with several scales or seeds a grid of
    images, a row for each scale) and NAME.safetensors with its slots, a contact sheet, and
    `generated.json`, which records how all were made. If scenes were encoded from images, it also
    gets NAME_slots.jpg: the image, its segmentation, and each slot's part of it.

    Args:
        pipe: The pipeline; it keeps the sampler.
        scenes: The scenes.
        output_dir: The folder of results.
        sampling: How images are sampled, apart from the guidance scale.
        guidance_scales: Guidance scales, one for each row of a scene's grid.
        num_seeds: Columns of the grid: in column j, scene i starts from the noise of
            seed + i + 1000 j.
        batch_size: Scenes at once; changes images by rounding only.
        progress: Whether to show a progress bar on stderr.

    Raises:
        ValueError: If a value is out of its range, the folder holds images that were made in
            another way, another process writes to it, or a scene has the name of the contact sheet.
    """
    _check_values(scenes, guidance_scales, num_seeds, batch_size)
    for scale in guidance_scales:
        replace(sampling, guidance_scale=scale).check()
    use_sampling(pipe, sampling)
    provenance = {
        **image_provenance(pipe),
        "guidance_scales": list(guidance_scales),
        "num_seeds": num_seeds,
        "num_inference_steps": sampling.num_inference_steps,
        "seed": sampling.seed,
        **scenes.provenance,
    }
    with exclusive(output_dir):
        _check_folder(output_dir, provenance)
        origins = {row: {"origin": scenes.origin(row)} for row in range(len(scenes.names))}
        known = finished(origins, lambda row: _read_result(output_dir, scenes.names[row]))
        missing = [row for row in origins if row not in known]
        result = BatchResult(
            skipped=[scenes.names[row] for row in known], problems=list(scenes.problems)
        )
        with tqdm(total=len(missing), disable=not progress, unit="scene") as bar:
            for start in range(0, len(missing), batch_size):
                rows = missing[start : start + batch_size]
                grids = _sample_grids(pipe, scenes, rows, sampling, guidance_scales, num_seeds)
                for row, images in zip(rows, grids, strict=True):
                    _write(pipe, scenes, row, images, output_dir, provenance=provenance)
                    result.done.append(scenes.names[row])
                bar.update(len(rows))
        _contact_sheet(output_dir, scenes.names)
    return result


def _check_values(
    scenes: SceneBatch, guidance_scales: Sequence[float], num_seeds: int, batch_size: int
) -> None:
    if not guidance_scales or num_seeds < 1 or batch_size < 1:
        raise ValueError(
            "guidance_scales, num_seeds and batch_size must be at least one, got "
            f"{list(guidance_scales)}, {num_seeds} and {batch_size}"
        )
    if Path(SHEET_FILE).stem in scenes.names:
        raise ValueError(f"a scene cannot be named as the contact sheet, {SHEET_FILE}: rename it")


def _check_folder(output_dir: Path, provenance: dict[str, Any]) -> None:
    """Record how all images of a folder are made, or refuse to mix them with others."""
    facts = output_dir / GENERATED_FILE
    output_dir.mkdir(parents=True, exist_ok=True)
    if facts.is_file():
        try:
            recorded = read_json(facts)
        except ValueError as error:
            raise ValueError(f"{facts} is damaged: {error}; name another --output-dir") from None
        changed = sorted(key for key in provenance if recorded.get(key) != provenance[key])
        if changed:
            raise ValueError(
                f"{output_dir} holds images that were made with another {', '.join(changed)}: "
                "name another --output-dir"
            )
    elif any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty and holds no generated images")
    write_json(facts, provenance)


def _read_result(output_dir: Path, name: str) -> dict[str, Any]:
    """Read what is recorded about an earlier result; empty if its image is missing."""
    if not (output_dir / f"{name}.png").is_file():
        return {}
    return {"origin": "", **scene_facts(output_dir / f"{name}.safetensors")}


def _sample_grids(
    pipe: LatentSlotDiffusionPipeline,
    scenes: SceneBatch,
    rows: list[int],
    sampling: Sampling,
    guidance_scales: Sequence[float],
    num_seeds: int,
) -> Float[Tensor, "B S T 3 H W"]:
    """Images of some of the scenes; the noise of one does not depend on the others."""
    columns = [
        sample_images(
            pipe,
            scenes.slots[rows],
            scenes.slots_mask[rows],
            sampling=replace(sampling, guidance_scale=scale),
            seeds=[sampling.seed + row + SEED_STRIDE * column for row in rows],
            batch_size=len(rows),
            progress=False,
        )
        for scale in guidance_scales
        for column in range(num_seeds)
    ]
    images = torch.stack(columns, dim=1)
    return images.unflatten(1, (len(guidance_scales), num_seeds))


def _write(
    pipe: LatentSlotDiffusionPipeline,
    scenes: SceneBatch,
    row: int,
    images: Float[Tensor, "S T 3 H W"],
    output_dir: Path,
    *,
    provenance: dict[str, Any],
) -> None:
    """Write the results of a scene: the image last, so that an existing image has its slots."""
    name = scenes.names[row]
    if scenes.encoded:
        strip = _slots_strip(pipe, *scenes.encoded[row])
        strip.save(output_dir / f"{name}{SLOTS_SUFFIX}", quality=92)
    path = output_dir / f"{name}.png"
    path.unlink(missing_ok=True)  # it may be of another file with this name
    slots = scenes.slots[row][scenes.slots_mask[row]][None]
    scene = locate_slots(pipe, slots, images[0, :1], seed=provenance["seed"])
    slots_path = output_dir / f"{name}.safetensors"
    save_scene(scene, slots_path, provenance["pipeline"], origin=scenes.origin(row))
    page = grid([[to_pil(image * 2 - 1) for image in line] for line in images])
    with atomic_file(path) as temporary:
        page.save(temporary, format="PNG")


def _slots_strip(
    pipe: LatentSlotDiffusionPipeline, path: Path, masks: Float[Tensor, "K h w"]
) -> Image.Image:
    """An image as the model sees it, its segmentation, and each slot's part of it."""
    pixels = pipe.preprocess(open_image_file(path).image)[0]
    masks = upsample_masks(masks[None], (pixels.shape[1], pixels.shape[2]))[0]
    tiles: list[Any] = [
        pixels,
        overlay(pixels, masks.argmax(dim=0)),
        slot_strip(pixels, masks, with_image=False),
    ]
    return grid([tiles])


def _contact_sheet(output_dir: Path, names: list[str]) -> None:
    images = []
    for name in names[:MAX_ON_SHEET]:
        with Image.open(output_dir / f"{name}.png") as image:
            images.append(image.convert("RGB"))
    columns = math.ceil(math.sqrt(len(images)))
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    grid(rows).save(output_dir / SHEET_FILE)
