"""Scenes per second: found in pictures, painted, and edited, one by one and many at once.

python benchmarks/painting.py bundled
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from latentslots import editing
from latentslots.data import load_dataset
from latentslots.device import to_device
from latentslots.evaluation.generation import Sampling, paint
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.edit import paint_edit


def rate(work: Callable[[], object], num: int) -> float:
    """Images per second of the faster of two goes, after one that is not counted."""
    work()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return num / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="`bundled`, a run folder, a pipeline folder, or a hub id")
    parser.add_argument("--data", default="bundled", help="pictures to find scenes in")
    parser.add_argument("--num", type=int, default=32, help="scenes, and the larger batch")
    options = parser.parse_args()
    pipe = LatentSlotDiffusionPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    to_device(pipe)
    rows = load_dataset(options.data, split="validation").select(range(options.num))
    pixel_values = pipe.preprocess([row["image"] for row in rows])
    seeds = [Generator().manual_seed(i) for i in range(options.num)]
    found = pipe.encode_pixel_values(pixel_values, generator=seeds)
    sampling = Sampling()

    def find(size: int) -> None:
        for part in pixel_values.split(size):
            pipe.encode_pixel_values(part)

    def painted(size: int) -> Tensor:
        return paint(
            pipe,
            found.slots,
            found.slots_mask,
            sampling=sampling,
            batch_size=size,
            progress=False,
        )

    ids = found.segmentation(pipe.resolution)
    fewer = editing.remove(found.slots, 1)
    exist = found.slots_mask
    if exist is None:
        exist = torch.ones(found.slots.shape[:2], dtype=torch.bool)
    left = editing.remove(exist[..., None].float(), 1)[..., 0] > 0

    def edited(size: int) -> None:
        for start in range(0, options.num, size):
            part = slice(start, start + size)
            paint_edit(
                pipe,
                pixel_values[part],
                found.slots[part],
                fewer[part],
                ids[part] == 1,
                before_mask=exist[part],
                after_mask=left[part],
                generator=[Generator().manual_seed(i) for i in range(options.num)[part]],
                num_inference_steps=sampling.num_inference_steps,
            )

    print(f"{options.num} scenes, {torch.get_num_threads()} threads, images/s\n")
    print(f"| | one by one | {options.num} at once | ratio |\n|---|---|---|---|")
    for name, work in (
        ("found", find),
        ("painted, 25 steps", painted),
        ("slot 1 taken away, 25 steps", edited),
    ):
        one = rate(lambda work=work: work(1), options.num)
        many = rate(lambda work=work: work(options.num), options.num)
        print(f"| {name} | {one:.1f} | {many:.1f} | {many / one:.2f} |")


if __name__ == "__main__":
    main()
