"""`latentslots reconstruct RUN IMAGE... --output-dir OUT`."""

import json
import sys
from dataclasses import dataclass, field
from typing import Any

import tyro

from latentslots.cli.options import InferenceOptions, PaintOptions


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Paint pictures again from their slots alone, and say how close it comes."""

    run: tyro.conf.Positional[str]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Picture files, and folders of them."""
    output_dir: str
    """Gets a strip for each picture: the picture, its autoencoder's, and that from its slots."""
    batch_size: int = 32
    """Pictures at once; changes no number."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are found."""
    painting: tyro.conf.OmitArgPrefixes[PaintOptions] = field(default_factory=PaintOptions)
    """How pictures are painted."""
    json: bool = False
    """Print the numbers as JSON."""


def run(arguments: list[str]) -> int:
    """Parse, paint, and print PSNR and SSIM."""
    options = tyro.cli(Reconstruct, prog="latentslots reconstruct", args=arguments)

    from pathlib import Path

    from tqdm.auto import tqdm

    from latentslots.app.compose import reconstruct
    from latentslots.app.images import batches, find_pictures
    from latentslots.cli.model import load_pipeline
    from latentslots.evaluation.generation import Sampling

    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}")
    paths = find_pictures(options.images)
    pipe = load_pipeline(options.run, options.inference, options.painting)
    sampling = Sampling(
        guidance_scale=options.painting.guidance_scale,
        num_inference_steps=options.painting.num_inference_steps,
        seed=options.inference.seed,
    )
    scores: list[dict[str, Any]] = []
    problems: list[str] = []
    with tqdm(total=len(paths), unit="image") as bar:
        for pictures, unread in batches(paths, options.batch_size):
            if pictures:
                out = Path(options.output_dir)
                scores += reconstruct(pipe, pictures, out, sampling=sampling)
            problems += unread
            bar.update(len(pictures) + len(unread))
    for problem in problems:
        print(f"latentslots reconstruct: {problem}", file=sys.stderr)
    if options.json:
        print(json.dumps({"pictures": scores, "problems": problems}))
        return 2 if problems else 0
    print(f"{len(scores)} pictures painted into {options.output_dir}")
    for kind, name in (("slots", "from slots"), ("autoencoder", "by the autoencoder")):
        if scores:
            mean = {
                k: sum(s[f"{k}_{kind}"] for s in scores) / len(scores) for k in ("psnr", "ssim")
            }
            print(f"{name}: PSNR {mean['psnr']:.1f} dB, SSIM {mean['ssim']:.3f}")
    return 2 if problems else 0
