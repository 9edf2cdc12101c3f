"""Find the objects of a picture: its slots, and what each of them sees.

python examples/find_objects.py --output found.png
"""

import argparse

import torch
from PIL import Image, ImageOps

import latentslots as ls
from latentslots.pipelines.base import upsample_masks
from latentslots.visualize import grid, overlay, slot_strip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="", help="a picture file; a bundled scene when absent")
    parser.add_argument("--output", default="found.png", help="where the result goes")
    options = parser.parse_args()

    scenes = ls.load_dataset("bundled", split="validation")
    image = Image.open(options.picture) if options.picture else scenes[0]["image"]
    pipe = ls.LatentSlotDiffusionPipeline.from_pretrained("bundled")
    scene = pipe.encode(image, generator=torch.Generator().manual_seed(0))

    pixels = pipe.preprocess(image)[0]
    masks = upsample_masks(scene.masks, pipe.resolution)[0]
    found = overlay(pixels, masks.argmax(dim=0))
    shown = grid([[pixels, found, slot_strip(pixels, masks, with_image=False)]])
    ImageOps.scale(shown, 2, Image.Resampling.NEAREST).save(options.output)
    print(f"{scene.slots.shape[1]} slots; {options.output} shows them")


if __name__ == "__main__":
    main()
