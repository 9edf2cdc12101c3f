"""`latentslots generate RUN --concepts DIR --num 16 --output-dir OUT`."""

import json
import shlex
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from latentslots.cli.options import InferenceOptions


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Paint new scenes: composed of concepts, kept in files, or found in pictures."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    output_dir: str
    """Gets a picture and a file of slots for each scene, and a contact sheet. A run that was
    interrupted goes on."""
    concepts: str = ""
    """Compose scenes from this library (`latentslots concepts fit`)."""
    slots: tuple[str, ...] = ()
    """Paint these slots.safetensors."""
    from_images: tuple[str, ...] = ()
    """Paint the slots of these pictures, or folders of them."""
    num: int = 16
    """Scenes to compose."""
    layout: Literal["layout", "independent", "per-image"] = "layout"
    """How they are composed: places from an image's masks; different concepts wherever they are; or
    slot i from image b + i."""
    slots_per_scene: int | None = None
    """Slots of a composed scene; when absent, as many as an image of the library that is drawn."""
    guidance_scale: tuple[float, ...] = (1.0,)
    """One, or several for a grid: above 1, the slots are followed more closely."""
    num_seeds: int = 1
    """Pictures of each scene at each scale: the noise of scene i in column j is that of
    seed + i + 1000 j."""
    sampler: str = "dpm++"
    """ddim, ddpm, dpm++, euler, euler-a, heun, unipc, or the name of a diffusers scheduler."""
    num_inference_steps: int = 25
    """Denoising steps."""
    batch_size: int = 32
    """Scenes to paint at once; changes no picture."""
    reference: str = ""
    """A data set: also measure how far the scenes are from its images."""
    reference_split: str = "validation"
    """Which part of it; its first images are the reference, the next as many the floor."""
    features: str = "bundled"
    """What is compared: bundled (an autoencoder; offline, not FID), inception:FILE (TorchScript),
    dinov2:FOLDER-OR-HUB-ID, or module:PACKAGE.MODULE:NAME (what it returns, a torch module)."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are found."""
    json: bool = False
    """Print the report as JSON."""


def run(arguments: list[str]) -> int:
    """Parse, paint, and say what was painted."""
    options = tyro.cli(Generate, prog="latentslots generate", args=arguments)

    from pathlib import Path

    from latentslots.cli.model import load_pipeline
    from latentslots.cli.options import PaintOptions
    from latentslots.workflows.generate import Grid, generate

    sources = [bool(options.concepts), bool(options.slots), bool(options.from_images)]
    if sum(sources) != 1:
        raise ValueError("give one of --concepts, --slots and --from-images")
    if options.reference and (len(options.guidance_scale) > 1 or options.num_seeds > 1):
        raise ValueError("--reference measures one picture of each scene: one scale, one seed")
    seed = options.inference.seed
    grid = Grid(
        guidance_scales=options.guidance_scale,
        num_seeds=options.num_seeds,
        num_inference_steps=options.num_inference_steps,
        seed=seed,
        batch_size=options.batch_size,
    )
    painting = PaintOptions(
        sampler=options.sampler, num_inference_steps=options.num_inference_steps
    )
    pipe = load_pipeline(options.run, options.inference, painting)
    scenes, library, facts, problems = _scenes(options, pipe)
    real = _real(options, len(scenes.names), pipe.resolution) if options.reference else None
    out = Path(options.output_dir)
    painted = generate(pipe, scenes, out, grid, facts=facts)
    command = shlex.join(["latentslots", "generate", *arguments])
    report = _measure(options, pipe, scenes, library, out, real, command) if real else None
    for problem in problems:
        print(f"latentslots generate: {problem}", file=sys.stderr)
    if options.json:
        content: dict[str, Any] = {"painted": painted, "scenes": len(scenes.names)}
        print(json.dumps(content | {"report": report.to_dict() if report else None}))
    else:
        there = len(scenes.names) - len(painted)
        print(f"{len(painted)} scenes painted into {out}, {there} were there already")
        if report:
            print(report.to_markdown())
    return 2 if problems else 0


def _scenes(options: Generate, pipe: Any) -> tuple[Any, Any, dict[str, Any], list[str]]:
    """What to paint, the library it comes from, how it came about, and unreadable files."""
    from pathlib import Path

    from latentslots.concepts import TENSORS_NAME, ConceptLibrary
    from latentslots.fingerprint import content_hash
    from latentslots.workflows.generate import compose, read_scenes, scenes_in
    from latentslots.workflows.image_files import find_pictures

    seed = options.inference.seed
    if options.slots:
        return read_scenes(pipe, options.slots), None, {"slots": list(options.slots)}, []
    if options.from_images:
        paths = find_pictures(options.from_images)
        scenes, problems = scenes_in(pipe, paths, seed=seed, batch_size=options.batch_size)
        facts = {"num_slots": pipe.num_slots, "merge_overlap": pipe.inference.merge_overlap}
        return scenes, None, facts, problems
    library = ConceptLibrary.load(options.concepts)
    library.check(pipe)
    layout, num_slots = options.layout, options.slots_per_scene
    scenes = compose(library, options.num, layout=layout, num_slots=num_slots, seed=seed)
    facts = {
        "concepts": options.concepts,
        "library": content_hash(Path(options.concepts) / TENSORS_NAME),
        "layout": layout,
        "slots_per_scene": num_slots,
    }
    return scenes, library, facts, []


def _real(options: Generate, count: int, resolution: int) -> tuple[Any, Any, str]:
    """Real images, and how they are looked at: before the minutes that painting takes."""
    from latentslots.data.store.reader import load_dataset
    from latentslots.evaluation.features import load_features
    from latentslots.workflows.measure import check_reference

    dataset = load_dataset(options.reference, split=options.reference_split)
    check_reference(dataset, count, resolution=resolution)
    return dataset, *load_features(options.features)


def _measure(
    options: Generate,
    pipe: Any,
    scenes: Any,
    library: Any,
    out: Any,
    real: tuple[Any, Any, str],
    command: str,
) -> Any:
    """Distances to real images, and how often what was asked for is found again."""
    from latentslots.evaluation.generation import Sampling
    from latentslots.workflows.measure import measure

    dataset, features, name = real
    return measure(
        pipe,
        scenes,
        out,
        dataset,
        features,
        name=name,
        library=library,
        sampling=Sampling(
            guidance_scale=options.guidance_scale[0],
            num_inference_steps=options.num_inference_steps,
            seed=options.inference.seed,
        ),
        command=command,
    )
