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
    parser.add_argument("--output", default="composed.png", help="file of the result")
    options = parser.parse_args()

    images = ls.load_dataset("bundled", split="validation").select(range(options.num_images))
    pipe = ls.load_pipeline("bundled")
    library = ls.ConceptLibrary.fit(pipe, images, options.num_concepts)

    slots = library.sample(8, layout="layout", generator=torch.Generator().manual_seed(0))
    noise = [torch.Generator().manual_seed(i) for i in range(8)]
    composed = pipe(slots, generator=noise).images
    page = ls.visualize.grid([composed[:4], composed[4:]])
    ImageOps.scale(page, 2, Image.Resampling.NEAREST).save(options.output)
    print(f"{library.num_concepts} concepts; {options.output} shows 8 scenes composed of them")


if __name__ == "__main__":
    main()
