"""`latentslots reconstruct RUN IMAGE... --output-dir OUT`."""

import json
import sys
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Any

import tyro

from latentslots.cli.options import InferenceOptions, PaintOptions


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Paint pictures again from their slots alone, and say how close it comes."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Picture files, and folders of them."""
    output_dir: str
    """Gets a strip for each picture (the picture, its autoencoder's, and that from its slots) and
    its numbers as JSON; those that are there already, made alike, are skipped."""
    batch_size: int = 32
    """Pictures at once; changes no number."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are found."""
    painting: tyro.conf.OmitArgPrefixes[PaintOptions] = field(default_factory=PaintOptions)
    """How pictures are painted."""
    json: bool = False
    """Print the numbers as JSON."""


def run(arguments: list[str]) -> int:
    """Parse, paint, and print PSNR, SSIM and LPIPS."""
    options = tyro.cli(Reconstruct, prog="latentslots reconstruct", args=arguments)

    from pathlib import Path

    from tqdm.auto import tqdm

    from latentslots.cli.model import load_pipeline
    from latentslots.evaluation.generation import Sampling
    from latentslots.fingerprint import content_hash
    from latentslots.metrics.reconstruction import load_lpips
    from latentslots.workflows.generate import (
        check_strip,
        known_reconstruction,
        reconstruct,
        reconstructed_by,
    )
    from latentslots.workflows.image_files import batches, find_pictures

    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}")
    paths = find_pictures(options.images)
    pipe = load_pipeline(options.run, options.inference, options.painting)
    sampling = Sampling(
        guidance_scale=options.painting.guidance_scale,
        num_inference_steps=options.painting.num_inference_steps,
        seed=options.inference.seed,
    )
    out, made_by = Path(options.output_dir), reconstructed_by(pipe, sampling)
    known = {
        path: known_reconstruction(out, path.stem, {**made_by, "sha256": content_hash(path)})
        for path in paths
    }
    scores: list[dict[str, Any]] = [
        {name: value for name, value in facts.items() if name not in (*made_by, "sha256")}
        for facts in known.values()
        if facts is not None
    ]
    waiting = [path for path in paths if known[path] is None]
    for path in waiting:
        check_strip(out, path.stem)
    try:
        perceptual = load_lpips("alex")
    except ValueError as error:
        perceptual = None
        print(f"latentslots reconstruct: no LPIPS: {error}", file=sys.stderr)
    problems: list[str] = []
    with tqdm(total=len(waiting), unit="image") as bar:
        for pictures, unread in batches(waiting, options.batch_size):
            if pictures:
                scores += reconstruct(pipe, pictures, out, sampling=sampling, perceptual=perceptual)
            problems += unread
            bar.update(len(pictures) + len(unread))
    for problem in problems:
        print(f"latentslots reconstruct: {problem}", file=sys.stderr)
    if options.json:
        print(json.dumps({"pictures": scores, "problems": problems}))
        return 2 if problems else 0
    skipped = len(paths) - len(waiting)
    print(f"{len(scores) - skipped} pictures painted into {out}, {skipped} skipped")
    if scores:
        _print_means(scores)
    return 2 if problems else 0


def _print_means(scores: list[dict[str, Any]]) -> None:
    """Over all pictures; of LPIPS, over those that have it."""
    for kind, name in (("slots", "from slots"), ("autoencoder", "by the autoencoder")):
        psnr, ssim = (fmean(s[f"{k}_{kind}"] for s in scores) for k in ("psnr", "ssim"))
        seen = [s[f"lpips_{kind}"] for s in scores if f"lpips_{kind}" in s]
        alike = f", LPIPS {fmean(seen):.3f}" if seen else ""
        print(f"{name}: PSNR {psnr:.1f} dB, SSIM {ssim:.3f}{alike}")
