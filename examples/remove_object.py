"""Take an object out of a picture, and keep everything else.

python examples/remove_object.py --output removed.png
"""

import argparse

import torch
from PIL import Image, ImageOps

import latentslots as ls
from latentslots.pipelines.edit import paint_edit
from latentslots.visualize import grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at", type=int, nargs=2, default=(46, 52), help="a pixel of the object")
    parser.add_argument("--output", default="removed.png", help="where the result goes")
    options = parser.parse_args()

    image = ls.load_dataset("bundled", split="validation")[0]["image"]
    pipe = ls.LatentSlotDiffusionPipeline.from_pretrained("bundled")
    pixel_values = pipe.preprocess(image)
    scene = pipe.encode(image, generator=torch.Generator().manual_seed(0))

    owner = scene.segmentation(pipe.resolution)  # [1, H, W], the slot of every pixel
    slot = ls.editing.select(scene.masks, at=tuple(options.at))
    fewer = ls.editing.remove(scene.slots, slot)
    (after,) = paint_edit(
        pipe,
        pixel_values,
        scene.slots,
        fewer,
        owner == slot[:, None, None],
        generator=torch.Generator().manual_seed(0),
    )
    shown = grid([[image, after]])
    ImageOps.scale(shown, 2, Image.Resampling.NEAREST).save(options.output)
    print(f"slot {int(slot)} is gone from {options.output}")


if __name__ == "__main__":
    main()
