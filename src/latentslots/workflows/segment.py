"""Segment image files: a folder of results for each."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from latentslots import editing
from latentslots.config.conventions import SEGMENTED, UNSEEN
from latentslots.files import atomic_folder, check_output_dir, write_json
from latentslots.fingerprint import content_hash
from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.slot_output import SlotOutput
from latentslots.visualize import overlay
from latentslots.workflows.image_files import ImageFile, read_batches
from latentslots.workflows.provenance import BatchResult, finished, read_facts, slot_provenance
from latentslots.workflows.scenes import SLOTS_FILE, bounding_box, encode_files, save_scene

FACTS_FILE = "segments.json"
BATCH_SIZE = 32


def segment_files(
    pipe: SlotPipeline, paths: list[Path], output_dir: Path, *, seed: int = 0, progress: bool = True
) -> BatchResult:
    """Infer the slots of image files, and write masks, cutouts and slots.

    `output_dir/NAME` gets `overlay.png`, `ids.png` (the slot of every pixel, 255 outside of what
    the model sees), `slot_00.png` and so on (the pixels of each slot but the background's, the
    rest transparent), `slots.safetensors` for `latentslots edit`, and `segments.json`. Images that
    already have results made in the same way from the same file are skipped.

    Args:
        pipe: The pipeline.
        paths: Image files with different names.
        output_dir: The folder of results.
        seed: Seed of every image's slot noise.
        progress: Whether to show a progress bar on stderr.
    """
    settings = {**slot_provenance(pipe), "seed": seed}
    provenance = {path: {**settings, "sha256": content_hash(path)} for path in paths}
    known = finished(provenance, lambda path: read_facts(output_dir / path.stem / FACTS_FILE))
    missing = [path for path in paths if path not in known]
    for path in missing:
        check_output_dir(output_dir / path.stem, mark=FACTS_FILE)
    result = BatchResult(skipped=[path.stem for path in known])
    with tqdm(total=len(missing), disable=not progress, unit="image") as bar:
        # Rounding depends on the batch: an interrupted run is completed in the same ones.
        for files, problems in read_batches(paths, BATCH_SIZE, only=missing):
            for file, scene in zip(files, encode_files(pipe, files, seed=seed), strict=True):
                if file.path in known:
                    continue
                with atomic_folder(output_dir / file.name, mark=FACTS_FILE) as folder:
                    _write(file, scene, folder, provenance[file.path])
                result.done.append(file.name)
            result.problems.extend(problems)
            bar.update(sum(file.path not in known for file in files) + len(problems))
    return result


def _write(file: ImageFile, scene: SlotOutput, folder: Path, provenance: dict[str, Any]) -> None:
    """Write the results of one image."""
    ids = file.segmentation(scene.masks[0])
    seen = (ids != UNSEEN).numpy()
    tinted = np.asarray(file.image).copy()
    tinted[seen] = np.asarray(overlay(file.image, ids))[seen]
    Image.fromarray(tinted).save(folder / "overlay.png")
    Image.fromarray(ids.numpy()).save(folder / SEGMENTED)
    background = int(editing.background(scene.masks))
    slots = []
    for slot in range(scene.slots.shape[1]):
        owned = ids == slot
        pixels = int(owned.sum())
        facts: dict[str, Any] = {
            "slot": slot,
            "pixels": pixels,
            "share": round(pixels / int(seen.sum()), 4),
            "box": bounding_box(owned),
            "is_background": slot == background,
        }
        if pixels and slot != background:
            facts["file"] = f"slot_{slot:02d}.png"
            cutout = file.image.convert("RGBA")
            cutout.putalpha(Image.fromarray((owned.numpy() * 255).astype(np.uint8)))
            cutout.save(folder / facts["file"])
        slots.append(facts)
    fingerprint, seed = provenance["pipeline"], provenance["seed"]
    save_scene(scene, folder / SLOTS_FILE, fingerprint, seed=seed, seen=list(file.square))
    content = {
        "image": file.path.name,
        "size": list(file.image.size),
        "seen": list(file.square),
        **provenance,
        "background": background,
        "slots": slots,
    }
    write_json(folder / FACTS_FILE, content)
