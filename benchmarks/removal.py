"""How well objects are taken out of pictures: outside of them, and where they were.

latentslots data make scenes data/pairs --edit-pairs --num-train 0 --num-validation 1200
python benchmarks/removal.py runs/scenes data/pairs
"""

import argparse

from tqdm import tqdm

from latentslots.data import load_dataset
from latentslots.device import to_device
from latentslots.evaluation.edits.removal import evaluate_removal
from latentslots.pipelines import LatentSlotDiffusionPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run folder, a pipeline folder, or a hub id")
    parser.add_argument("data", help="pairs, as `latentslots data make --edit-pairs` makes them")
    parser.add_argument("--num-pairs", type=int, default=200, help="pairs with a removed object")
    parser.add_argument("--num-inference-steps", type=int, default=25, help="denoising steps")
    options = parser.parse_args()
    pipe = LatentSlotDiffusionPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    to_device(pipe)
    with tqdm(total=options.num_pairs, unit="pair") as bar:
        reports = evaluate_removal(
            pipe,
            load_dataset(options.data, split="validation"),
            num_pairs=options.num_pairs,
            num_inference_steps=options.num_inference_steps,
            progress=bar.update,
        )
    first = next(iter(reports.values()))
    print(f"{first.num_pairs} pairs, {first.num_found} objects found before\n")
    print("| | PSNR outside (dB) | SSIM outside | gone |\n|---|---|---|---|")
    for name, report in reports.items():
        print(f"| {name} | {report.psnr:.1f} | {report.ssim:.3f} | {report.success:.3f} |")
    print(f"| autoencoder, object still there | {first.psnr_untouched:.1f} | | |")
    print(f"| autoencoder's ceiling | {first.psnr_ceiling:.1f} | {first.ssim_ceiling:.3f} | |")


if __name__ == "__main__":
    main()
