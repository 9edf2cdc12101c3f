"""Images per second of encoding, sampling and editing, one by one and many at once.

python benchmarks/painting.py bundled
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Generator

from latentslots.data import load_dataset
from latentslots.device import to_device
from latentslots.pipelines import LatentSlotDiffusionPipeline, SlotOutput
from latentslots.pipelines.sampling import sample_images
from latentslots.pipelines.slot_edit import SlotEdit


def rate(work: Callable[[], object], num_images: int) -> float:
    """Images per second of the faster of two runs, after one that is not counted."""
    work()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return num_images / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="`bundled`, a run folder, a pipeline folder, or a hub id")
    parser.add_argument("--data", default="bundled", help="data set of the images")
    parser.add_argument("--num", type=int, default=32, help="images, and the larger batch size")
    options = parser.parse_args()
    pipe = LatentSlotDiffusionPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    to_device(pipe)
    rows = load_dataset(options.data, split="validation").select(range(options.num))
    pixel_values = pipe.preprocess([row["image"] for row in rows])
    seeds = [Generator().manual_seed(i) for i in range(options.num)]
    scenes = pipe.encode_pixel_values(pixel_values, generator=seeds)

    def encode(size: int) -> None:
        for part in pixel_values.split(size):
            pipe.encode_pixel_values(part)

    def sample(size: int) -> None:
        slots, exist = scenes.slots, scenes.slots_mask
        sample_images(pipe, slots, exist, batch_size=size, progress=False)

    def remove(size: int) -> None:
        for start in range(0, options.num, size):
            part = slice(start, start + size)
            exist = None if scenes.slots_mask is None else scenes.slots_mask[part]
            scene = SlotOutput(slots=scenes.slots[part], masks=scenes.masks[part], slots_mask=exist)
            pipe.edit(
                (pixel_values[part] + 1) / 2,
                SlotEdit.of(scene, remove=1, size=pipe.resolution),
                generator=[Generator().manual_seed(i) for i in range(options.num)[part]],
            )

    print(f"{options.num} images, {torch.get_num_threads()} threads, images/s\n")
    print(f"| | one by one | {options.num} at once | ratio |\n|---|---|---|---|")
    for name, work in (
        ("encoded", encode),
        ("sampled, 25 steps", sample),
        ("slot 1 removed, 25 steps", remove),
    ):
        one = rate(lambda work=work: work(1), options.num)
        many = rate(lambda work=work: work(options.num), options.num)
        print(f"| {name} | {one:.1f} | {many:.1f} | {many / one:.2f} |")


if __name__ == "__main__":
    main()
