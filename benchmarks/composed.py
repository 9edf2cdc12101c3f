"""Why slots of composed scenes are not found again: grounds, their light, and the sampler.

latentslots concepts fit bundled --data data/scenes --num-concepts 32 --output-dir runs/concepts
python benchmarks/composed.py bundled runs/concepts data/scenes
"""

import argparse

import torch
from torch import Generator, Tensor

from latentslots.concepts import ConceptLibrary
from latentslots.data import load_dataset
from latentslots.evaluation.generation import compositional_consistency, paint, set_sampler
from latentslots.pipelines import LatentSlotDiffusionPipeline


def brightness(images: Tensor) -> Tensor:
    """Of the ground, which has most pixels: the median over an image `[B, 3, H, W]` in [0, 1]."""
    return images.flatten(2).median(dim=2).values.mean(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="`bundled`, a run folder, a pipeline folder, or a hub id")
    parser.add_argument("library", help="a concept library of its slots")
    parser.add_argument("data", help="what the library was made from")
    parser.add_argument("--num", type=int, default=64, help="scenes of each kind")
    options = parser.parse_args()
    pipe = LatentSlotDiffusionPipeline.from_pretrained(options.model)
    library = ConceptLibrary.load(options.library)
    library.check(pipe)
    images = load_dataset(options.data, split="train")["image"]

    composed = library.sample(options.num, num_slots=6, generator=Generator().manual_seed(0))
    number = {tuple(slot.tolist()): i for i, slot in enumerate(library.slots)}
    rows = [int(library.image[number[tuple(scene[0].tolist())]]) for scene in composed]
    grounds = (pipe.preprocess([images[row] for row in rows]) + 1) / 2
    generators = [Generator().manual_seed(i) for i in range(options.num)]
    found = pipe.encode_pixel_values(grounds * 2 - 1, generator=generators)

    print(f"deviation of the grounds' brightness: {brightness(grounds).std():.3f}\n")
    print("| sampler | reconstructions miss it by | composed scenes | grounds found | objects |")
    print("|---|---|---|---|---|")
    for sampler in ("dpm++", "ddim", "ddpm", "euler-a"):
        set_sampler(pipe, sampler)
        again = paint(pipe, found.slots, found.slots_mask, progress=False)
        new = paint(pipe, composed, progress=False)
        missed = [(brightness(made) - brightness(grounds)).std() for made in (again, new)]
        ground = torch.zeros(composed.shape[:2], dtype=torch.bool)
        ground[:, 0] = True
        # What is not asked for is neither matched nor counted.
        shares = [
            compositional_consistency(pipe, composed, new, library.slots, slots_mask=asked)
            for asked in (ground, ~ground)
        ]
        numbers = [f"{value:.3f}" for value in (*missed, *shares)]
        print(f"| `{sampler}` | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main()
