"""Score the slots of the bundled model beside k-means on color and position.

python examples/compare_with_baseline.py
"""

import argparse

import latentslots as ls
from latentslots.evaluation.baselines import cluster_pixels
from latentslots.evaluation.segmentation import evaluate_baseline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-images", type=int, default=128, help="scenes to score")
    options = parser.parse_args()

    scenes = ls.load_dataset("bundled", split="validation").select(range(options.num_images))
    pipe = ls.LatentSlotDiffusionPipeline.from_pretrained("bundled")
    reports = {
        "slots": ls.evaluate(pipe, scenes),
        "k-means": evaluate_baseline(
            lambda image: cluster_pixels(image, num_clusters=7, position_weight=25.0),
            scenes,
            resolution=pipe.resolution,
        ),
    }
    for name, report in reports.items():
        print(
            f"{name:8} FG-ARI {report.fg_ari:.3f}  ARI {report.ari:.3f}  "
            f"mIoU {report.miou_objects:.3f}"
        )


if __name__ == "__main__":
    main()
