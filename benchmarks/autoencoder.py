"""Reconstruction quality of an autoencoder on held-out images: PSNR and SSIM, per data set.

python benchmarks/autoencoder.py bundled data/scenes data/scenes-textured data/nlvr
"""

import argparse

import torch

from latentslots.data import load_dataset
from latentslots.data.loading.loader import ImageDataset
from latentslots.metrics.reconstruction import psnr, ssim
from latentslots.models.autoencoder import load_vae

BATCH_SIZE = 32


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vae", help="`bundled`, a run folder, a folder or a hub id")
    parser.add_argument("data", nargs="+", help="data sets, whose split `validation` is used")
    parser.add_argument("--resolution", type=int, default=64, help="pixels per side")
    options = parser.parse_args()
    vae = load_vae(options.vae).eval()
    print("| data set | images | PSNR (dB) | SSIM |\n|---|---|---|---|")
    for path in options.data:
        images = ImageDataset(load_dataset(path, split="validation"), options.resolution)
        psnrs, ssims = [], []
        for start in range(0, len(images), BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, len(images)))
            pixels = torch.stack([images[row]["pixel_values"] for row in rows])
            decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
            psnrs.append(psnr((decoded + 1) / 2, (pixels + 1) / 2))
            ssims.append(ssim((decoded + 1) / 2, (pixels + 1) / 2))
        scores = f"{torch.cat(psnrs).mean():.1f} | {torch.cat(ssims).mean():.3f}"
        print(f"| {path} | {len(images)} | {scores} |")


if __name__ == "__main__":
    main()
