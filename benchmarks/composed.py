"""Why slots of composed scenes are not found again: backgrounds, their brightness, and the sampler.

latentslots concepts fit bundled --data data/scenes --num-concepts 32 --output-dir runs/concepts
python benchmarks/composed.py bundled runs/concepts data/scenes
"""

import argparse

import torch
from torch import Generator, Tensor

from latentslots.concepts import ConceptLibrary
from latentslots.config.sampling import Sampling
from latentslots.data import load_dataset
from latentslots.evaluation.generation import compositional_consistency
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import sample_images


def brightness(images: Tensor) -> Tensor:
    """Median over an image `[B, 3, H, W]` in [0, 1]: that of the background, its largest part."""
    return images.flatten(2).median(dim=2).values.mean(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="`bundled`, a run folder, a pipeline folder, or a hub id")
    parser.add_argument("library", help="a concept library of its slots")
    parser.add_argument("data", help="the data set of the library")
    parser.add_argument("--num", type=int, default=64, help="scenes of each kind")
    options = parser.parse_args()
    pipe = LatentSlotDiffusionPipeline.from_pretrained(options.model)
    library = ConceptLibrary.load(options.library)
    library.check(pipe)
    images = load_dataset(options.data, split="train")["image"]

    composed = library.sample(options.num, num_slots=6, generator=Generator().manual_seed(0))
    number = {tuple(slot.tolist()): i for i, slot in enumerate(library.slots)}
    rows = [int(library.image[number[tuple(scene[0].tolist())]]) for scene in composed]
    originals = (pipe.preprocess([images[row] for row in rows]) + 1) / 2
    generators = [Generator().manual_seed(i) for i in range(options.num)]
    scenes = pipe.encode_pixel_values(originals * 2 - 1, generator=generators)
    is_background = torch.zeros(composed.shape[:2], dtype=torch.bool)
    is_background[:, 0] = True

    print(f"deviation of the backgrounds' brightness: {brightness(originals).std():.3f}\n")
    print(
        "| sampler | error of reconstructions | of composed scenes | backgrounds found | objects |"
    )
    print("|---|---|---|---|---|")
    for sampler in ("dpm++", "ddim", "ddpm", "euler-a"):
        sampling = Sampling(sampler=sampler)
        reconstructed = sample_images(
            pipe, scenes.slots, scenes.slots_mask, sampling=sampling, progress=False
        )
        generated = sample_images(pipe, composed, sampling=sampling, progress=False)
        errors = [
            (brightness(made) - brightness(originals)).std() for made in (reconstructed, generated)
        ]
        shares = [
            compositional_consistency(pipe, composed, generated, library.slots, slots_mask=counted)
            for counted in (is_background, ~is_background)
        ]
        numbers = [f"{value:.3f}" for value in (*errors, *shares)]
        print(f"| `{sampler}` | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main()
