"""The score of a perfect model that counts shadows as parts of their objects: the ceiling of one.

    python benchmarks/shadows.py data/scenes

On a plain ground, pixels of the background that are clearly darker than most of it are shadow; each
belongs to the nearest object. Segmentations of objects with their shadows are scored against the
objects alone, as those of a model are.
"""

import argparse

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from tqdm.auto import tqdm

from latentslots.data import load_dataset
from latentslots.evaluation.segmentation import evaluate_predictions
from latentslots.visualize import colorize

DARKER = 0.12
"""Brightness, relative to the ground's median, that a shadow lacks at least."""


def with_shadows(image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the ids of objects, each with the shadow pixels that are nearest to it."""
    ground = ids == 0
    brightness = image.mean(axis=2)
    shadow = ground & (brightness < (1 - DARKER) * np.median(brightness[ground]))
    rows, columns = distance_transform_edt(ground, return_distances=False, return_indices=True)
    return np.where(shadow, ids[rows, columns], ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a store of scenes on a plain ground")
    parser.add_argument("--split", default="validation", help="the images to score")
    parser.add_argument("--draw", default="", help="a PNG of the first images' segmentations")
    options = parser.parse_args()
    segmentations, targets = [], []
    for sample in tqdm(load_dataset(options.data, split=options.split)):
        ids = np.asarray(sample["segmentation"]).astype(np.int64)
        found = with_shadows(np.asarray(sample["image"]).astype(float), ids)
        segmentations.append(torch.from_numpy(found))
        targets.append(torch.from_numpy(ids))
    report = evaluate_predictions(segmentations, targets)
    print("| FG-ARI | ARI | mIoU | mBO |\n|---|---|---|---|")
    scores = (report.fg_ari, report.ari, report.miou_objects, report.mbo_objects)
    print(f"| {' | '.join(f'{score:.3f}' for score in scores)} |")
    if options.draw:
        drawn = [torch.cat([found, ids]) for found, ids in zip(segmentations, targets, strict=True)]
        colorize(torch.cat(drawn[:8], dim=1)).save(options.draw)


if __name__ == "__main__":
    main()
