"""`latentslots generate RUN --concepts DIR --num 16 --output-dir OUT`."""

import json
import shlex
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from latentslots.cli.options import InferenceOptions
from latentslots.config.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Generate images of scenes: composed of concepts, saved in files, or encoded from images."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    output_dir: str
    """Folder of the results: an image and a file of slots for each scene, and a contact sheet. An
    interrupted run is resumed."""
    concepts: str = ""
    """Compose scenes from this concept library (see `latentslots concepts fit`)."""
    slots: tuple[str, ...] = ()
    """Take the scenes from these slots.safetensors."""
    from_images: tuple[str, ...] = ()
    """Take the scenes of these image files, or folders of them."""
    num: int = 16
    """Scenes to compose."""
    layout: Literal["layout", "independent", "per-image"] = "layout"
    """How scenes are composed: `layout`, of slots whose masks fit those of a real image;
    `independent`, of different concepts, regardless of their positions; or `per-image`, of slot i
    from image b + i."""
    only_concepts: tuple[int, ...] = ()
    """The concepts that composed scenes may show, apart from their background; all by default."""
    slots_per_scene: int | None = None
    """Slots of a composed scene; when absent, as many as an image of the library drawn at
    random."""
    guidance_scale: tuple[float, ...] = (1.0,)
    """One, or several for a grid: above 1, images follow their slots more closely."""
    num_seeds: int = 1
    """Images of each scene at each scale: scene i starts in column j from the noise of
    seed + i + 1000 j."""
    sampler: str = "dpm++"
    """ddim, ddpm, dpm++, euler, euler-a, heun, unipc, or the name of a diffusers scheduler."""
    num_inference_steps: int = 25
    """Denoising steps."""
    seed: int = 0
    """Seed of composing, of slot noise, and of the noise that sampling starts from."""
    batch_size: int = 32
    """Scenes at once; changes images by rounding only."""
    reference: str = ""
    """A data set: also measure how far the images are from its images."""
    reference_split: str = "validation"
    """Split of that data set. Its first images are the reference; the distance of as many further
    images to them is the floor."""
    features: str = "bundled"
    """Features that are compared: bundled (an autoencoder; offline, not FID), inception:FILE
    (TorchScript), dinov2:FOLDER-OR-HUB-ID, or module:PACKAGE.MODULE:NAME (a class, or a function
    that returns a torch module)."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are inferred."""
    json: bool = False
    """Print the report as JSON."""


def run(arguments: list[str]) -> int:
    """Parse, generate, and print what was done; 2 if a file could not be read."""
    options = tyro.cli(Generate, prog="latentslots generate", args=arguments)
    if sum(map(bool, (options.concepts, options.slots, options.from_images))) != 1:
        raise ValueError("pass one of --concepts, --slots and --from-images")
    if options.reference and (len(options.guidance_scale) > 1 or options.num_seeds > 1):
        raise ValueError("--reference measures one image of each scene: one scale, one seed")
    sampling = Sampling(
        sampler=options.sampler,
        num_inference_steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale[0] if options.guidance_scale else 1.0,
        seed=options.seed,
    )
    sampling.check()

    from pathlib import Path

    from latentslots.cli.model import load_pipeline
    from latentslots.workflows.generate import generate
    from latentslots.workflows.measure import load_reference, measure

    pipe = load_pipeline(options.run, options.inference, sampling)
    scenes = _scenes(options, pipe)
    out, reference, report = Path(options.output_dir), None, None
    if options.reference:  # first, so that errors appear before minutes of sampling
        reference = load_reference(
            options.reference,
            options.reference_split,
            options.features,
            num_scenes=len(scenes.names),
            resolution=pipe.resolution,
        )
    result = generate(
        pipe,
        scenes,
        out,
        sampling,
        guidance_scales=options.guidance_scale,
        num_seeds=options.num_seeds,
        batch_size=options.batch_size,
    )
    if reference is not None:
        command = shlex.join(["latentslots", "generate", *arguments])
        report = measure(pipe, scenes, out, reference, sampling, command=command)
    _print(options, result, report, out)
    return 2 if result.problems else 0


def _print(options: Generate, result: Any, report: Any, out: Any) -> None:
    for problem in result.problems:
        print(f"latentslots generate: {problem}", file=sys.stderr)
    if options.json:
        content = {"painted": result.done, "scenes": len(result.done) + len(result.skipped)}
        print(json.dumps({**content, "report": report.to_dict() if report else None}))
        return
    print(f"{len(result.done)} scenes generated into {out}, {len(result.skipped)} skipped")
    if report:
        print(report.to_markdown())


def _scenes(options: Generate, pipe: Any) -> Any:
    """The scenes that the flags describe."""
    from latentslots.workflows.compose import compose_from, encode_scenes, load_scenes
    from latentslots.workflows.image_files import find_image_files

    if options.slots:
        return load_scenes(pipe, options.slots)
    if options.from_images:
        paths = find_image_files(options.from_images)
        return encode_scenes(pipe, paths, seed=options.seed, batch_size=options.batch_size)
    return compose_from(
        pipe,
        options.concepts,
        options.num,
        layout=options.layout,
        num_slots=options.slots_per_scene,
        seed=options.seed,
        concepts=options.only_concepts or None,
    )
