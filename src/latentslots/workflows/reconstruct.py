"""Reconstruct image files from their slots alone, and measure how close the results come."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from latentslots import editing
from latentslots.config.sampling import Sampling
from latentslots.files import atomic_file, write_json
from latentslots.fingerprint import content_hash
from latentslots.metrics.reconstruction import psnr, ssim
from latentslots.models.autoencoder import decode_latents
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import sample_images, use_sampling
from latentslots.visualize import grid, to_pil
from latentslots.workflows.image_files import ImageFile, read_batches
from latentslots.workflows.provenance import BatchResult, finished, image_provenance, read_facts
from latentslots.workflows.scenes import encode_files


def reconstruct_files(
    pipe: LatentSlotDiffusionPipeline,
    paths: list[Path],
    output_dir: Path,
    sampling: Sampling,
    *,
    perceptual: nn.Module | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> tuple[BatchResult, list[dict[str, Any]]]:
    """Reconstruct image files from their slots.

    Writes NAME.png for each: the image as the model sees it, its reconstruction by the autoencoder,
    and the one from its slots; and NAME.json: PSNR, SSIM and, if it is available, LPIPS of both,
    and how they were made. Images that already have results made in the same way from the same file
    are skipped.

    Args:
        pipe: The pipeline; it keeps the sampler.
        paths: Image files with different names.
        output_dir: The folder of results.
        sampling: How images are sampled. All draw slot noise and starting noise from the same seed.
        perceptual: See `load_lpips`; no LPIPS without it.
        batch_size: Images at once; changes results by rounding only.
        progress: Whether to show a progress bar on stderr.

    Returns:
        What was done, and the scores of all images, also of those skipped, in the order of `paths`.

    Raises:
        ValueError: If a file would be overwritten that is not an earlier result.
    """
    use_sampling(pipe, sampling)
    settings = {**asdict(sampling), **image_provenance(pipe)}
    provenance = {path: {**settings, "sha256": content_hash(path)} for path in paths}
    known = finished(provenance, lambda path: _read_result(output_dir, path.stem))
    missing = [path for path in paths if path not in known]
    for path in missing:
        _check_output(output_dir, path.stem)
    output_dir.mkdir(parents=True, exist_ok=True)
    scores = {
        path: {name: value for name, value in facts.items() if name not in provenance[path]}
        for path, facts in known.items()
    }
    result = BatchResult(skipped=[path.stem for path in known])
    with tqdm(total=len(missing), disable=not progress, unit="image") as bar:
        for files, problems in read_batches(missing, batch_size):
            pairs = _reconstruct(pipe, files, sampling, perceptual) if files else []
            for file, (numbers, strip) in zip(files, pairs, strict=True):
                scores[file.path] = {"picture": file.name, **numbers}
                # The image is written last, so that an existing image has its numbers.
                (output_dir / f"{file.name}.png").unlink(missing_ok=True)
                facts = {**scores[file.path], **provenance[file.path]}
                write_json(output_dir / f"{file.name}.json", facts)
                with atomic_file(output_dir / f"{file.name}.png") as path:
                    strip.save(path, format="PNG")
                result.done.append(file.name)
            result.problems.extend(problems)
            bar.update(len(files) + len(problems))
    return result, [scores[path] for path in paths if path in scores]


@torch.no_grad()
def _reconstruct(
    pipe: LatentSlotDiffusionPipeline,
    files: list[ImageFile],
    sampling: Sampling,
    perceptual: nn.Module | None,
) -> list[tuple[dict[str, float], Image.Image]]:
    """Scores, and the image with both of its reconstructions, for each of a batch."""
    slots, exist = editing.pad([s.slots for s in encode_files(pipe, files, seed=sampling.seed)])
    pixel_values = pipe.preprocess([file.image for file in files])
    original = (pixel_values.cpu() + 1) / 2
    decoded = decode_latents(pipe.vae, pipe.encode_latents(pixel_values)).float().cpu()
    decoded = ((decoded + 1) / 2).clamp(0, 1)
    sampled = sample_images(
        pipe,
        slots,
        exist,
        sampling=sampling,
        seeds=[sampling.seed] * len(files),
        batch_size=len(files),
        progress=False,
    )
    results = []
    for i in range(len(files)):
        numbers: dict[str, float] = {}
        for kind, images in (("slots", sampled), ("autoencoder", decoded)):
            pair = (images[i : i + 1], original[i : i + 1])
            numbers |= {f"psnr_{kind}": float(psnr(*pair)), f"ssim_{kind}": float(ssim(*pair))}
            if perceptual is not None:
                numbers[f"lpips_{kind}"] = float(perceptual(*(image * 2 - 1 for image in pair)))
        strip = grid([[to_pil(images[i] * 2 - 1) for images in (original, decoded, sampled)]])
        results.append((numbers, strip))
    return results


def _read_result(output_dir: Path, name: str) -> dict[str, Any]:
    """Read what is recorded about an earlier result; empty if its image is missing."""
    if not (output_dir / f"{name}.png").is_file():
        return {}
    return read_facts(output_dir / f"{name}.json")


def _check_output(output_dir: Path, name: str) -> None:
    """Refuse to overwrite files that are not an earlier result, such as the images themselves."""
    if "psnr_slots" in read_facts(output_dir / f"{name}.json"):
        return
    for path in (output_dir / f"{name}.png", output_dir / f"{name}.json"):
        if path.exists():
            raise ValueError(f"{path} exists and is no earlier result: name another --output-dir")
