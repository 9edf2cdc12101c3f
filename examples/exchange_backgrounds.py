"""Let two scenes exchange their backgrounds: a slot each.

python examples/exchange_backgrounds.py --output exchanged.png
"""

import argparse

import torch
from PIL import Image, ImageOps

import latentslots as ls
from latentslots.visualize import grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, nargs=2, default=(0, 3), help="their numbers")
    parser.add_argument("--output", default="exchanged.png", help="where the result goes")
    options = parser.parse_args()

    dataset = ls.load_dataset("bundled", split="validation")
    images = [dataset[number]["image"] for number in options.scenes]
    pipe = ls.LatentSlotDiffusionPipeline.from_pretrained("bundled")
    seeds = [torch.Generator().manual_seed(number) for number in (0, 1)]
    found = pipe.encode(images, generator=seeds)

    ground = ls.editing.background(found.masks)  # [2], the number of the slot of each
    others = ground.flip(0)
    grounds = ls.editing.take(found.slots.flip(0), others[:, None])
    exchanged = ls.editing.replace(found.slots, ground[:, None], grounds)
    pictures = [*images]
    for slots in (found.slots, exchanged):
        seeds = [torch.Generator().manual_seed(number) for number in (0, 1)]
        pictures += pipe(slots, slots_mask=found.slots_mask, generator=seeds).images
    shown = grid([pictures])
    ImageOps.scale(shown, 2, Image.Resampling.NEAREST).save(options.output)
    print(f"{options.output} shows two scenes, painted from their slots, and exchanged")


if __name__ == "__main__":
    main()
