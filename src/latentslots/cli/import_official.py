"""`latentslots import-official CHECKPOINT_DIR OUT`."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class ImportOfficial:
    """Turn a checkpoint of the official LSD code into a pipeline folder."""

    checkpoint_dir: tyro.conf.Positional[str]
    """The `checkpoint-<step>` folder."""
    out: tyro.conf.Positional[str]
    """The pipeline folder to make; must not exist yet."""
    vae: str = ""
    """The VAE that it was trained with: a folder, or a hub id. Without it, the pipeline finds slots
    but cannot paint images."""


def run(arguments: list[str]) -> None:
    """Parse, convert, and say where the pipeline is."""
    options = tyro.cli(ImportOfficial, prog="latentslots import-official", args=arguments)

    from latentslots.models.autoencoder import load_vae
    from latentslots.official import load_official
    from latentslots.training.checkpoint import make_readable

    out = Path(options.out)
    if out.exists():
        raise ValueError(f"{out} exists already; name a folder that does not")
    vae = load_vae(options.vae) if options.vae else None
    pipe = load_official(options.checkpoint_dir, vae=vae)
    partial = out.with_name(f".{out.name}.partial")
    pipe.save_pretrained(partial)
    make_readable(partial)
    partial.rename(out)
    print(out)
