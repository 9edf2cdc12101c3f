"""Collect the slots of many scenes, cluster them, and paint scenes that never were.

python examples/compose_scenes.py --output composed.png
"""

import argparse

import torch
from PIL import Image, ImageOps

import latentslots as ls
from latentslots.visualize import grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-images", type=int, default=128, help="scenes to learn from")
    parser.add_argument("--num-concepts", type=int, default=12, help="clusters")
    parser.add_argument("--output", default="composed.png", help="where the result goes")
    options = parser.parse_args()

    scenes = ls.load_dataset("bundled", split="validation").select(range(options.num_images))
    pipe = ls.LatentSlotDiffusionPipeline.from_pretrained("bundled")
    library = ls.ConceptLibrary.fit(pipe, scenes, options.num_concepts)

    slots = library.sample(8, layout="layout", generator=torch.Generator().manual_seed(0))
    seeds = [torch.Generator().manual_seed(number) for number in range(8)]
    images = pipe(slots, generator=seeds).images
    shown = grid([images[:4], images[4:]])
    ImageOps.scale(shown, 2, Image.Resampling.NEAREST).save(options.output)
    print(f"{library.num_concepts} concepts; {options.output} shows 8 scenes composed of them")


if __name__ == "__main__":
    main()
