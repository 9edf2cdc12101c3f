"""Paint scenes into files: composed of concepts, kept, or found in pictures."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from latentslots import editing
from latentslots.concepts import ConceptLibrary, Layout
from latentslots.evaluation.generation import Sampling, paint
from latentslots.files import atomic_file
from latentslots.fingerprint import content_hash
from latentslots.metrics.reconstruction import psnr, ssim
from latentslots.models.autoencoder import decode_latents
from latentslots.pipelines.base import upsample_masks
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.visualize import grid, overlay, slot_strip, to_pil
from latentslots.workflows.image_files import Picture, batches, open_picture
from latentslots.workflows.provenance import facts_made_alike, painted_by, write_facts
from latentslots.workflows.scenes import (
    Scene,
    find_scenes,
    load_scene,
    place,
    save_scene,
    scene_facts,
)

FACTS_FILE = "generated.json"
SHEET_FILE = "contact_sheet.png"
NUM_ON_SHEET = 64
SEED_STRIDE = 1000


@dataclass(frozen=True)
class Scenes:
    """Scenes to paint, what their files are called, and where they were found, if in pictures."""

    slots: Float[Tensor, "B K D"]
    slots_mask: Bool[Tensor, "B K"]
    names: list[str]
    places: tuple[tuple[Path, Float[Tensor, "K h w"]], ...] = ()
    origins: tuple[str, ...] = ()
    """Hashes of the files that they come from, where they come from files."""

    def origin(self, row: int) -> str:
        """The hash of the file that a scene comes from; empty where it was composed."""
        return self.origins[row] if self.origins else ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every scene is painted at every guidance scale, from the noise of several seeds.

    Attributes:
        guidance_scales: Rows of its picture.
        num_seeds: Columns. Scene i starts in column j from the noise of seed + i + 1000 j.
        num_inference_steps: Denoising steps.
        seed: See `num_seeds`.
        batch_size: Scenes to paint at once; changes no picture.
    """

    guidance_scales: Sequence[float] = (1.0,)
    num_seeds: int = 1
    num_inference_steps: int = 25
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse a grid without a field."""
        if not self.guidance_scales or self.num_seeds < 1 or self.batch_size < 1:
            raise ValueError(
                "guidance_scales, num_seeds and batch_size must be at least one, got "
                f"{list(self.guidance_scales)}, {self.num_seeds} and {self.batch_size}"
            )
        if any(not scale >= 0 for scale in self.guidance_scales):
            raise ValueError(f"guidance must be 0 or above, got {list(self.guidance_scales)}")


def compose(
    library: ConceptLibrary, num_scenes: int, *, layout: Layout, num_slots: int | None, seed: int
) -> Scenes:
    """Scenes that never were, see `ConceptLibrary.sample`.

    Without `num_slots` each has as many slots as some image of the library, so that many and few
    are as frequent as there. Scene i does not depend on how many there are.

    Raises:
        ValueError: If none is wanted, or the library cannot make such scenes.
    """
    if num_scenes < 1:
        raise ValueError(f"num_scenes must be at least 1, got {num_scenes}")
    generator = Generator().manual_seed(seed)
    counts = library.slot_counts
    if layout == "independent":
        counts = counts.clamp(max=library.num_concepts)
    made = []
    for _ in range(num_scenes):
        wanted = num_slots
        if num_slots is None and layout != "per-image":  # images of few sizes would be too few
            wanted = int(counts[torch.randint(len(counts), (), generator=generator)])
        made.append(library.sample(1, layout=layout, num_slots=wanted, generator=generator))
    digits = max(4, len(str(num_scenes - 1)))
    slots, exist = editing.pad(made)
    return Scenes(slots, exist, [f"scene_{i:0{digits}d}" for i in range(num_scenes)])


def scenes_of(found: Sequence[Scene], names: Sequence[str]) -> Scenes:
    """Scenes that were found in pictures, or kept in files, as one batch."""
    slots, exist = editing.pad([scene.slots for scene in found])
    return Scenes(slots, exist, list(names))


def read_scenes(pipe: LatentSlotDiffusionPipeline, paths: Sequence[str]) -> Scenes:
    """Scenes kept in files, called by the folder and the file they are kept in.

    Raises:
        ValueError: If one is not there, or its slots were found by another pipeline.
    """
    fingerprint = pipe.fingerprint()
    found = [load_scene(path, fingerprint) for path in paths]
    names = ["_".join(Path(path).resolve().with_suffix("").parts[-2:]) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"two files would be painted under one name: {', '.join(sorted(names))}")
    return replace(scenes_of(found, names), origins=tuple(map(content_hash, paths)))


def scenes_in(
    pipe: LatentSlotDiffusionPipeline, paths: list[Path], *, seed: int, batch_size: int
) -> tuple[Scenes, list[str]]:
    """The scenes of picture files, and a sentence for each file that cannot be read.

    Raises:
        ValueError: If none can be read.
    """
    found: list[Scene] = []
    read: list[Path] = []
    problems: list[str] = []
    for pictures, unread in batches(paths, batch_size):
        found += find_scenes(pipe, pictures, seed=seed)
        read += [picture.path for picture in pictures]
        problems += unread
    if not found:
        raise ValueError(f"none of the pictures can be read: {problems[0]}")
    scenes = scenes_of(found, [path.stem for path in read])
    places = zip(read, (scene.masks.half() for scene in found), strict=True)
    origins = tuple(map(content_hash, read))
    return replace(scenes, places=tuple(places), origins=origins), problems


def generate(
    pipe: LatentSlotDiffusionPipeline,
    scenes: Scenes,
    output_dir: Path,
    grid_options: Grid,
    *,
    facts: dict[str, Any] | None = None,
    progress: bool = True,
) -> list[str]:
    """Paint scenes; those whose pictures are there already, of the same scenes, are skipped.

    `output_dir` gets a picture NAME.png for each scene (with several scales or seeds a grid of
    them, a row for each scale) and NAME.safetensors with its slots, a contact sheet, and
    `generated.json`, which says how all was made. Where scenes were found in pictures, it also gets
    NAME_slots.jpg: the picture, its segmentation, and what each slot sees of it.

    Args:
        pipe: Paints them.
        scenes: What to paint.
        output_dir: Where the files go.
        grid_options: How often, and how.
        facts: What else `generated.json` shall say.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Names of the scenes that were painted now.

    Raises:
        ValueError: If the folder holds pictures that were made in another way, or a scene is called
            as the contact sheet is.
    """
    if Path(SHEET_FILE).stem in scenes.names:
        raise ValueError(f"a scene cannot be called as the contact sheet, {SHEET_FILE}: rename it")
    made_by = {**painted_by(pipe), **asdict(grid_options), **(facts or {})}
    made_by["guidance_scales"] = list(grid_options.guidance_scales)
    made_by.pop("batch_size")
    _check_folder(output_dir, made_by)
    waiting = [row for row in range(len(scenes.names)) if not _is_painted(scenes, row, output_dir)]
    with tqdm(total=len(waiting), disable=not progress, unit="scene") as bar:
        for start in range(0, len(waiting), grid_options.batch_size):
            rows = waiting[start : start + grid_options.batch_size]
            painted = _paint(pipe, scenes, rows, grid_options)
            for row, pictures in zip(rows, painted, strict=True):
                slots = scenes.slots[row][scenes.slots_mask[row]][None]
                scene = place(pipe, slots, pictures[0, :1], seed=grid_options.seed)
                if scenes.places:
                    strip = _strip(pipe, *scenes.places[row])
                    strip.save(output_dir / f"{scenes.names[row]}_slots.jpg", quality=92)
                facts_of = {"fingerprint": made_by["pipeline"], "origin": scenes.origin(row)}
                _save(scene, pictures, output_dir, scenes.names[row], **facts_of)
            bar.update(len(rows))
    _contact_sheet(output_dir, scenes.names)
    return [scenes.names[row] for row in waiting]


def _is_painted(scenes: Scenes, row: int, folder: Path) -> bool:
    """Whether a scene's picture is there, and shows what comes from the same file."""
    name = scenes.names[row]
    if not (folder / f"{name}.png").is_file():
        return False
    return scene_facts(folder / f"{name}.safetensors").get("origin", "") == scenes.origin(row)


def _paint(
    pipe: LatentSlotDiffusionPipeline, scenes: Scenes, rows: list[int], options: Grid
) -> Float[Tensor, "B S T 3 H W"]:
    """Some of the scenes; what one of them starts from does not depend on the others."""
    columns = []
    for scale in options.guidance_scales:
        sampling = Sampling(guidance_scale=scale, num_inference_steps=options.num_inference_steps)
        for column in range(options.num_seeds):
            seeds = [options.seed + row + SEED_STRIDE * column for row in rows]
            slots, exist = scenes.slots[rows], scenes.slots_mask[rows]
            columns.append(
                paint(
                    pipe,
                    slots,
                    exist,
                    sampling=sampling,
                    seeds=seeds,
                    batch_size=options.batch_size,
                    progress=False,
                )
            )
    pictures = torch.stack(columns, dim=1)
    shape = (len(rows), len(options.guidance_scales), options.num_seeds, *pictures.shape[2:])
    return pictures.reshape(shape)


def _strip(pipe: LatentSlotDiffusionPipeline, path: Path, masks: Tensor) -> Image.Image:
    """A picture as the model sees it, its segmentation, and what each slot sees of it."""
    seen = pipe.preprocess(open_picture(path).image)[0]
    fine = upsample_masks(masks[None], (seen.shape[1], seen.shape[2]))[0]
    tiles: list[Any] = [
        seen,
        overlay(seen, fine.argmax(dim=0)),
        slot_strip(seen, fine, with_image=False),
    ]
    return grid([tiles])


def _save(
    scene: Scene, pictures: Tensor, folder: Path, name: str, *, fingerprint: str, origin: str
) -> None:
    """The slots first: a picture that is there has its slots."""
    path = folder / f"{name}.png"
    path.unlink(missing_ok=True)  # of another file of the same name
    save_scene(scene, folder / f"{name}.safetensors", fingerprint, origin=origin)
    page = grid([[to_pil(picture * 2 - 1) for picture in row] for row in pictures])
    _save_whole(page, path)


def _save_whole(image: Image.Image, path: Path) -> None:
    """Under its name when all of it is there."""
    with atomic_file(path) as partial:
        image.save(partial, format="PNG")


def _check_folder(output_dir: Path, made_by: dict[str, Any]) -> None:
    facts = output_dir / FACTS_FILE
    output_dir.mkdir(parents=True, exist_ok=True)
    if facts.is_file():
        try:
            known = json.loads(facts.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{facts} is damaged: {error}; name another --output-dir") from None
        changed = sorted(key for key in made_by if known.get(key) != made_by[key])
        if changed:
            raise ValueError(
                f"{output_dir} holds pictures that were made with another {', '.join(changed)}: "
                "name another --output-dir"
            )
    elif any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty and holds no generated pictures")
    facts.write_text(json.dumps(made_by, indent=2) + "\n", encoding="utf-8")


def _contact_sheet(output_dir: Path, names: list[str]) -> None:
    pictures = []
    for name in names[:NUM_ON_SHEET]:
        with Image.open(output_dir / f"{name}.png") as picture:
            pictures.append(picture.convert("RGB"))
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    grid(rows).save(output_dir / SHEET_FILE)


@torch.no_grad()
def reconstruct(
    pipe: LatentSlotDiffusionPipeline,
    pictures: list[Picture],
    output_dir: Path,
    *,
    sampling: Sampling,
    perceptual: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Paint pictures again from their slots alone, and say how close it comes.

    Writes NAME.png for each: the picture as the model sees it, what its autoencoder makes of it,
    and what is painted from its slots; and NAME.json, how close both come and how it was made. Each
    starts from the noise of the seed itself.

    Args:
        pipe: Finds the slots, and paints.
        pictures: What to paint.
        output_dir: Where the files go.
        sampling: How they are painted.
        perceptual: See `load_lpips`; no LPIPS without it.

    Returns:
        For each picture PSNR, SSIM and, if it can be had, LPIPS of both.
    """
    made_by = reconstructed_by(pipe, sampling)
    found = scenes_of(
        find_scenes(pipe, pictures, seed=sampling.seed), [picture.name for picture in pictures]
    )
    pixel_values = pipe.preprocess([picture.image for picture in pictures])
    original = (pixel_values.cpu() + 1) / 2
    kept = decode_latents(pipe.vae, pipe.encode_latents(pixel_values)).float().cpu()
    kept = ((kept + 1) / 2).clamp(0, 1)
    painted = paint(
        pipe,
        found.slots,
        found.slots_mask,
        sampling=sampling,
        seeds=[sampling.seed] * len(pictures),
        batch_size=len(pictures),
        progress=False,
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    scores = []
    for i, name in enumerate(found.names):
        row = [to_pil(each[i] * 2 - 1) for each in (original, kept, painted)]
        numbers: dict[str, Any] = {"picture": name}
        for kind, images in (("slots", painted), ("autoencoder", kept)):
            pair = (images[i : i + 1], original[i : i + 1])
            numbers |= {f"psnr_{kind}": float(psnr(*pair)), f"ssim_{kind}": float(ssim(*pair))}
            if perceptual is not None:
                numbers[f"lpips_{kind}"] = float(perceptual(*(image * 2 - 1 for image in pair)))
        origin = {"sha256": content_hash(pictures[i].path)}
        # The picture last: one that is there has its numbers.
        (output_dir / f"{name}.png").unlink(missing_ok=True)
        write_facts(output_dir / f"{name}.json", {**numbers, **made_by, **origin})
        _save_whole(grid([row]), output_dir / f"{name}.png")
        scores.append(numbers)
    return scores


def check_strip(output_dir: Path, name: str) -> None:
    """Refuse to write over what is no earlier result, such as the original itself.

    Raises:
        ValueError: If there is such a file.
    """
    if "psnr_slots" in (facts_made_alike(output_dir / f"{name}.json", {}) or {}):
        return
    for path in (output_dir / f"{name}.png", output_dir / f"{name}.json"):
        if path.exists():
            raise ValueError(f"{path} exists and is no earlier result: name another --output-dir")


def reconstructed_by(pipe: LatentSlotDiffusionPipeline, sampling: Sampling) -> dict[str, Any]:
    """How reconstructions are made: pictures that were made alike need not be made again."""
    return {**painted_by(pipe), **asdict(sampling)}


def known_reconstruction(
    output_dir: Path, name: str, made_by: dict[str, Any]
) -> dict[str, Any] | None:
    """What is known of a picture that was painted already, in the same way."""
    if not (output_dir / f"{name}.png").is_file():
        return None
    return facts_made_alike(output_dir / f"{name}.json", made_by)
