"""Make the autoencoder that ships with the package from a run of `autoencoder-small`.

latentslots data merge data/scenes data/scenes-textured data/scenes-textured data/scenes-textured \\
    data/nlvr --out data/mix
latentslots train autoencoder-small --output-dir runs/vae
python examples/make_bundled_vae.py runs/vae
"""

import json
import sys

from latentslots.bundled import ASSETS, seal
from latentslots.models.autoencoder import BUNDLED_VAE, load_vae


def main(run: str) -> None:
    folder = ASSETS / BUNDLED_VAE
    load_vae(run).half().save_pretrained(folder)
    config = folder / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values.pop("_name_or_path", None)  # a path on this machine
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    seal(folder)


if __name__ == "__main__":
    main(sys.argv[1])
