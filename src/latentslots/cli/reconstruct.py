"""`latentslots reconstruct RUN IMAGE... --output-dir OUT`."""

import json
import sys
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Any

import tyro

from latentslots.cli.options import InferenceOptions
from latentslots.config.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Reconstruct images from their slots alone, and measure how close the results come."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Image files, and folders of them."""
    output_dir: str
    """Folder of the results: for each image a strip (the image, its reconstruction by the
    autoencoder, and the one from its slots) and its scores as JSON; images that already have
    results made in the same way are skipped."""
    batch_size: int = 32
    """Images at once; changes scores by rounding only."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are inferred."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(default_factory=Sampling)
    """How images are sampled."""
    json: bool = False
    """Print the scores as JSON."""


def run(arguments: list[str]) -> int:
    """Parse, reconstruct, and print PSNR, SSIM and LPIPS; 2 if a file could not be read."""
    options = tyro.cli(Reconstruct, prog="latentslots reconstruct", args=arguments)
    options.sampling.check()

    from pathlib import Path

    from latentslots.cli.model import load_pipeline
    from latentslots.metrics.reconstruction import load_lpips
    from latentslots.workflows.image_files import find_image_files
    from latentslots.workflows.reconstruct import reconstruct_files

    paths = find_image_files(options.images)
    pipe = load_pipeline(options.run, options.inference, options.sampling)
    try:
        perceptual = load_lpips("alex")
    except ValueError as error:
        perceptual = None
        print(f"latentslots reconstruct: no LPIPS: {error}", file=sys.stderr)
    out = Path(options.output_dir)
    result, scores = reconstruct_files(
        pipe,
        paths,
        out,
        options.sampling,
        perceptual=perceptual,
        batch_size=options.batch_size,
    )
    for problem in result.problems:
        print(f"latentslots reconstruct: {problem}", file=sys.stderr)
    if options.json:
        print(json.dumps({"pictures": scores, "problems": result.problems}))
    else:
        print(f"{len(result.done)} images reconstructed into {out}, {len(result.skipped)} skipped")
        _print_means(scores)
    return 2 if result.problems else 0


def _print_means(scores: list[dict[str, Any]]) -> None:
    """Print means over all images; of LPIPS, over those that have it."""
    for kind, name in (("slots", "from slots"), ("autoencoder", "by the autoencoder")):
        if not scores:
            return
        psnr, ssim = (fmean(s[f"{k}_{kind}"] for s in scores) for k in ("psnr", "ssim"))
        perceptual = [s[f"lpips_{kind}"] for s in scores if f"lpips_{kind}" in s]
        lpips = f", LPIPS {fmean(perceptual):.3f}" if perceptual else ""
        print(f"{name}: PSNR {psnr:.1f} dB, SSIM {ssim:.3f}{lpips}")
