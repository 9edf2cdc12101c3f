"""How much the denoiser uses a run's slots: validation losses of the final weights.

`loss` is conditioned on the image's own slots, `loss_average_slot` on their mean in the place of
each: as low as `loss` if all slots are copies of one code of the whole image. `loss_no_slots` is
conditioned on none.

    python benchmarks/slot_use.py RUN
"""

import argparse
from pathlib import Path

import torch

from latentslots.build.data import build_split
from latentslots.build.methods import build_objective
from latentslots.config.io import load_config
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.training.validation import Validator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    run = parser.parse_args().run
    config = load_config(run / "train_config.json")
    objective = build_objective(config)
    assert isinstance(objective, LatentSlotDiffusionObjective)
    pipe = LatentSlotDiffusionPipeline.from_pretrained(run / "pipeline")
    objective.vae = pipe.vae
    for name, part in objective.trained().items():
        if name in pipe.components:  # these losses do not need the others
            part.load_state_dict(getattr(pipe, name).state_dict())
    validator = Validator(
        build_split(config.data, config.data.validation_split),
        resolution=config.data.resolution,
        num_images=config.num_validation_images,
    )
    for name, value in validator(objective.eval(), torch.device("cpu")).items():
        print(f"{name:18} {value:.4f}")


if __name__ == "__main__":
    main()
