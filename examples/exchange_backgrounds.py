"""Exchange the backgrounds of two scenes: one slot of each.

python examples/exchange_backgrounds.py --output exchanged.png
"""

import argparse

import torch
from PIL import Image, ImageOps

import latentslots as ls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, nargs=2, default=(0, 3), help="their numbers")
    parser.add_argument("--output", default="exchanged.png", help="file of the result")
    options = parser.parse_args()

    dataset = ls.load_dataset("bundled", split="validation")
    images = [dataset[number]["image"] for number in options.scenes]
    pipe = ls.load_pipeline("bundled")
    scenes = pipe.encode(images, generator=[torch.Generator().manual_seed(i) for i in (0, 1)])

    background = ls.editing.background(scenes.masks)  # [2], one slot of each scene
    others = ls.editing.take(scenes.slots.flip(0), background.flip(0))
    exchanged = ls.editing.replace(scenes.slots, background, others)
    row = [*images]
    for slots in (scenes.slots, exchanged):
        noise = [torch.Generator().manual_seed(i) for i in (0, 1)]
        row += pipe(slots, slots_mask=scenes.slots_mask, generator=noise).images
    page = ls.visualize.grid([row])
    ImageOps.scale(page, 2, Image.Resampling.NEAREST).save(options.output)
    print(f"{options.output} shows two images, reconstructed, and with exchanged backgrounds")


if __name__ == "__main__":
    main()
