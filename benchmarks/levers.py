"""Ablation of the recipe `lsd-scenes-64`, one change per run; the table in docs/lab-notes.md.

    latentslots data make scenes data/scenes
    python benchmarks/levers.py

All runs have the same images, number of steps and seed. None infers more slots than in training, or
merges any. Each run writes a small log; runs with a log are skipped, interrupted ones are resumed.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from latentslots.config import LSDConfig, TrainConfig, UNetEncoderConfig
from objects import DOCS, configuration, curves_table, images_of, put_table, run


@dataclass(frozen=True)
class Lever:
    """A named change of the recipe."""

    name: str
    change: Callable[[TrainConfig], TrainConfig]


def method(**changes: object) -> Callable[[TrainConfig], TrainConfig]:
    def change(config: TrainConfig) -> TrainConfig:
        return replace(config, method=replace(config.method, **changes))

    return change


def denoiser(**changes: object) -> Callable[[TrainConfig], TrainConfig]:
    def change(config: TrainConfig) -> TrainConfig:
        chosen = config.method
        assert isinstance(chosen, LSDConfig)
        return replace(config, method=replace(chosen, unet=replace(chosen.unet, **changes)))

    return change


def training(**changes: object) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, **changes)


def optimizer(**changes: object) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, optim=replace(config.optim, **changes))


def denoiser_alone(config: TrainConfig) -> TrainConfig:
    """The paper's single loss: no patch decoder, nor the map of slots that depends on it."""
    alone = {"patch_decoder_weight": 0.0, "mask_distillation_weight": 0.0, "patch_plain_steps": 0}
    return denoiser(map_channels=0)(method(**alone)(config))


def paper(config: TrainConfig) -> TrainConfig:
    """The paper's single loss and its prediction type."""
    return method(prediction_type="epsilon")(denoiser_alone(config))


UNET = UNetEncoderConfig(
    out_channels=64,
    downscale_factor=4,
    block_out_channels=(48, 64),
    layers_per_block=1,
    norm_num_groups=8,
    mid_attention=False,
)
LEVERS = {
    "recipe": Lever("the recipe", training()),
    "denoiser-alone": Lever("no patch decoder (nor what depends on it)", denoiser_alone),
    "no-distillation": Lever("no mask distillation", method(mask_distillation_weight=0.0)),
    "free-colors": Lever("a color per position from the start", method(patch_plain_steps=0)),
    "noise": Lever("noise prediction", method(prediction_type="epsilon")),
    "paper": Lever("no patch decoder, noise prediction", paper),
    "no-map": Lever("no map of slots for the denoiser", denoiser(map_channels=0)),
    "unet-encoder": Lever("a U-Net as encoder, no attention", method(encoder=UNET)),
    "registers": Lever("4 registers", method(num_registers=4)),
    "slow-denoiser": Lever("denoiser learning rate 4e-4", optimizer(decoder_lr_scale=1.0)),
    "high-noise": Lever("timesteps toward noise (shift 3)", method(timestep_shift=3.0)),
    "learned": Lever("learned slots, bi-level", method(slot_init="learned", bi_level=True)),
    "iterations": Lever("5 iterations", method(num_iterations=5)),
    "temperature": Lever("temperature 1/2", method(temperature=0.5)),
    "wide": Lever("slots of 128 channels", method(slot_dim=128, slot_mlp_dim=256)),
    "batch": Lever("twice the batch", training(train_batch_size=48)),
    "slow": Lever("half of all learning rates", optimizer(learning_rate=2e-4)),
    "no-average": Lever("weights not averaged", optimizer(ema_decay=0.0)),
}


def run_options(
    doc: str, levers: Mapping[str, Lever], *, steps: int, name: str
) -> argparse.Namespace:
    """Parse the flags of a script with one run per lever, and create the folder of its logs."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--steps", type=int, default=steps, help="optimizer steps of every run")
    parser.add_argument("--only", nargs="*", default=list(levers), choices=levers, help="some runs")
    parser.add_argument("--runs", type=Path, default=Path("runs", name), help="run folders")
    parser.add_argument("--logs", type=Path, default=DOCS / "logs" / name, help="results")
    parser.add_argument("--no-train", action="store_true", help="only rewrite the table")
    options = parser.parse_args()
    options.logs.mkdir(parents=True, exist_ok=True)
    return options


def main() -> None:
    options = run_options(__doc__, LEVERS, steps=2_000, name="levers")
    for key in [] if options.no_train else options.only:
        log = options.logs / f"{key}.json"
        if log.is_file():
            continue
        config = LEVERS[key].change(configuration("lsd", "scenes", 0, options.steps))
        result = run(config, images_of("scenes", "validation"), options.runs / key)
        log.write_text(json.dumps(result, indent=1) + "\n")
    names = {key: lever.name for key, lever in LEVERS.items()}
    text = curves_table(names, options.logs, title="changed")
    print(text)
    put_table(text, DOCS / "lab-notes.md")


if __name__ == "__main__":
    main()
