"""How well parts of figures are exchanged, and how well they are taken away.

latentslots data make parts data/part-pairs --edit-pairs --num-train 0 --num-validation 1200
python benchmarks/part_swaps.py runs/parts data/part-pairs
python benchmarks/removal.py runs/parts data/part-pairs
"""

import argparse

from tqdm import tqdm

from latentslots.data import load_dataset
from latentslots.device import to_device
from latentslots.evaluation.edits.swaps import evaluate_swaps
from latentslots.pipelines import LatentSlotDiffusionPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run folder, a pipeline folder, or a hub id")
    parser.add_argument("data", help="as `latentslots data make parts --edit-pairs` makes it")
    parser.add_argument("--num-pairs", type=int, default=200, help="pairs with a replaced part")
    parser.add_argument("--num-inference-steps", type=int, default=25, help="denoising steps")
    options = parser.parse_args()
    pipe = LatentSlotDiffusionPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    to_device(pipe)
    with tqdm(total=options.num_pairs, unit="pair") as bar:
        reports = evaluate_swaps(
            pipe,
            load_dataset(options.data, split="validation"),
            num_pairs=options.num_pairs,
            num_inference_steps=options.num_inference_steps,
            progress=bar.update,
        )
    first = next(iter(reports.values()))
    print(f"{first.num_pairs} pairs, both parts found in {first.num_found}\n")
    print("| | PSNR outside (dB) | in its place | in its color | both |\n|---|---|---|---|---|")
    for name, report in reports.items():
        scores = f"{report.placed:.3f} | {report.colored:.3f} | {report.success:.3f}"
        print(f"| {name} | {report.psnr:.1f} | {scores} |")
    print(f"| autoencoder's ceiling | {first.psnr_ceiling:.1f} | | | |")


if __name__ == "__main__":
    main()
