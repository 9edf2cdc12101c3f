"""Make the bundled images: `python examples/make_bundled_images.py TRAIN.npz DEV.npz OUT`.

1,250 training images, and the first 250 development images with two objects or more, at 64 px, as
lossless WebP. Images and masks: Suhr, Lewis, Yeh and Artzi (ACL 2017), lil-lab/nlvr, CC-BY-4.0.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from latentslots.bundled import seal
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop

NUM_TRAIN, NUM_VALIDATION, RESOLUTION = 1250, 250, 64


def write(out: str, split: str, images: np.ndarray, masks: np.ndarray) -> None:
    """Write one split of the data store."""
    crop = ResizeCenterCrop(RESOLUTION)
    with StoreWriter(
        out,
        split,
        name="nlvr",
        license="CC-BY-4.0",
        credit="Suhr, Lewis, Yeh and Artzi (ACL 2017), lil-lab/nlvr; resized to 64 px",
        segmentation=True,
    ) as writer:
        for array, ids in zip(images, masks, strict=True):
            image, mask = crop(Image.fromarray(array), Image.fromarray(ids))
            buffer = io.BytesIO()
            image.save(buffer, format="WEBP", lossless=True, quality=100, method=6)
            writer.add(buffer.getvalue(), segmentation=mask)


if __name__ == "__main__":
    train_file, dev_file, out = sys.argv[1:]
    train, dev = np.load(train_file), np.load(dev_file)
    write(out, "train", train["image"][:NUM_TRAIN], train["mask"][:NUM_TRAIN])
    rows = np.flatnonzero(dev["n_objects"] >= 2)[:NUM_VALIDATION]
    write(out, "validation", dev["image"][rows], dev["mask"][rows])
    seal(Path(out))
