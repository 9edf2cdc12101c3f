"""Segment picture files: a folder of results for each."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from latentslots import editing
from latentslots.files import atomic_folder, check_output_dir
from latentslots.fingerprint import content_hash
from latentslots.pipelines.base import SlotPipeline
from latentslots.visualize import overlay
from latentslots.workflows.image_files import OUTSIDE, Picture, batches
from latentslots.workflows.provenance import Outcome, facts_made_alike, found_by, write_facts
from latentslots.workflows.scenes import SLOTS_FILE, Scene, bounding_box, find_scenes, save_scene

FACTS_FILE = "segments.json"
BATCH_SIZE = 32


def segment_files(
    pipe: SlotPipeline, paths: list[Path], output_dir: Path, *, seed: int = 0, progress: bool = True
) -> Outcome:
    """Write, for each picture, what the model finds in it.

    `output_dir/NAME` gets `overlay.png`, `ids.png` (the slot of every pixel, 255 where the model
    does not look), `slot_00.png` and so on (what each slot sees, the background's left out, the
    rest transparent), `slots.safetensors` for `latentslots edit`, and `segments.json`. A picture
    whose results are there, of the same bytes and by the same pipeline from the same seed, is
    skipped.

    Args:
        pipe: Finds the slots.
        paths: Picture files of different names.
        output_dir: Where the folders go.
        seed: Of every picture's slot noise.
        progress: Whether to show a progress bar on stderr.
    """
    how = {**found_by(pipe), "seed": seed}
    made_by = {path: {**how, "sha256": content_hash(path)} for path in paths}
    waiting = [
        path
        for path in paths
        if facts_made_alike(output_dir / path.stem / FACTS_FILE, made_by[path]) is None
    ]
    for path in waiting:
        check_output_dir(output_dir / path.stem, mark=FACTS_FILE)
    outcome = Outcome(skipped=[path.stem for path in paths if path not in waiting])
    with tqdm(total=len(waiting), disable=not progress, unit="image") as bar:
        for pictures, problems in batches(waiting, BATCH_SIZE):
            for picture, scene in zip(
                pictures, find_scenes(pipe, pictures, seed=seed), strict=True
            ):
                with atomic_folder(output_dir / picture.name, mark=FACTS_FILE) as folder:
                    _write(picture, scene, folder, made_by[picture.path])
                outcome.done.append(picture.name)
            outcome.problems.extend(problems)
            bar.update(len(pictures) + len(problems))
    return outcome


def _write(picture: Picture, scene: Scene, folder: Path, made_by: dict[str, Any]) -> None:
    """Write what is known of a picture into a folder."""
    ids = picture.segmentation(scene.masks)
    ground = int(editing.background(scene.masks[None]))
    seen = ids != OUTSIDE
    overlaid = np.asarray(picture.image).copy()
    overlaid[seen.numpy()] = np.asarray(overlay(picture.image, ids))[seen.numpy()]
    Image.fromarray(overlaid).save(folder / "overlay.png")
    Image.fromarray(ids.numpy()).save(folder / "ids.png")
    slots = []
    for slot in range(len(scene.masks)):
        owned = ids == slot
        pixels = int(owned.sum())
        facts: dict[str, Any] = {"slot": slot, "pixels": pixels}
        facts["share"] = round(pixels / int(seen.sum()), 4)
        facts |= {"box": bounding_box(owned), "is_background": slot == ground}
        if pixels and slot != ground:
            facts["file"] = f"slot_{slot:02d}.png"
            cut = picture.image.convert("RGBA")
            cut.putalpha(Image.fromarray((owned.numpy() * 255).astype(np.uint8)))
            cut.save(folder / facts["file"])
        slots.append(facts)
    save_scene(scene, folder / SLOTS_FILE, made_by["pipeline"], seed=made_by["seed"])
    content = {
        "image": picture.path.name,
        "size": list(picture.image.size),
        "seen": list(picture.square),
        **made_by,
        "background": ground,
        "slots": slots,
    }
    write_facts(folder / FACTS_FILE, content)
