"""Find the objects of an image: its segmentation, and each slot's part of it.

python examples/find_objects.py --output found.png
"""

import argparse

import torch
from PIL import Image, ImageOps

import latentslots as ls
from latentslots.pipelines.slot_output import upsample_masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", default="", help="an image file; a bundled image when absent")
    parser.add_argument("--output", default="found.png", help="file of the result")
    options = parser.parse_args()

    dataset = ls.load_dataset("bundled", split="validation")
    image = Image.open(options.image) if options.image else dataset[0]["image"]
    pipe = ls.load_pipeline("bundled")
    scene = pipe.encode(image, generator=torch.Generator().manual_seed(0))

    pixels = pipe.preprocess(image)[0]
    masks = upsample_masks(scene.masks, pipe.resolution)[0]
    tinted = ls.visualize.overlay(pixels, masks.argmax(dim=0))
    strip = ls.visualize.slot_strip(pixels, masks, with_image=False)
    page = ls.visualize.grid([[pixels, tinted, strip]])
    ImageOps.scale(page, 2, Image.Resampling.NEAREST).save(options.output)
    print(f"{scene.slots.shape[1]} slots; {options.output} shows them")


if __name__ == "__main__":
    main()
