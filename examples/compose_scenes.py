"""Collect the slots of many images, cluster them, and generate images of new scenes.

python examples/compose_scenes.py --output composed.png
"""

import argparse

import torch
from PIL import Image, ImageOps

import latentslots as ls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-images", type=int, default=128, help="images to collect slots from")
    parser.add_argument("--num-concepts", type=int, default=12, help="clusters")
    parser.add_argument("--num-scenes", type=int, default=8, help="new scenes, in rows of four")
    parser.add_argument("--output", default="composed.png", help="file of the result")
    options = parser.parse_args()

    images = ls.load_dataset("bundled", split="validation").select(range(options.num_images))
    pipe = ls.load_pipeline("bundled")
    library = ls.ConceptLibrary.fit(pipe, images, options.num_concepts)

    count = options.num_scenes
    slots = library.sample(count, layout="layout", generator=torch.Generator().manual_seed(0))
    noise = [torch.Generator().manual_seed(i) for i in range(count)]
    composed = pipe(slots, generator=noise).images
    page = ls.visualize.grid([composed[i : i + 4] for i in range(0, count, 4)])
    ImageOps.scale(page, 2, Image.Resampling.NEAREST).save(options.output)
    print(
        f"{library.num_concepts} concepts; {options.output} shows {count} scenes composed of them"
    )


if __name__ == "__main__":
    main()
