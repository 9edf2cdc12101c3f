"""Remove an object from an image, and keep everything else.

python examples/remove_object.py --output removed.png
"""

import argparse

import torch
from PIL import Image, ImageOps

import latentslots as ls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at", type=int, nargs=2, default=(46, 52), help="a pixel of the object")
    parser.add_argument("--output", default="removed.png", help="file of the result")
    options = parser.parse_args()

    image = ls.load_dataset("bundled", split="validation")[0]["image"]
    pipe = ls.load_pipeline("bundled")
    scene = pipe.encode(image, generator=torch.Generator().manual_seed(0))

    slot = ls.editing.select(scene.masks, at=tuple(options.at))
    edit = ls.SlotEdit.of(scene, remove=slot, size=pipe.resolution)
    after = pipe.edit(image, edit, generator=torch.Generator().manual_seed(0)).images[0]
    page = ls.visualize.grid([[image, after]])
    ImageOps.scale(page, 2, Image.Resampling.NEAREST).save(options.output)
    print(f"slot {int(slot)} is removed in {options.output}")


if __name__ == "__main__":
    main()
