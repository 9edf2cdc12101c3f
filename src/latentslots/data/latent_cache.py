"""Reading a latent cache, and refusing one that was made of something else.

`<dir>/plain/` and, for mirrored images, `<dir>/flip/` hold `mean.npy` and `std.npy` of the VAE's
posterior, in half precision and memory-mapped, and `cache.json`, which says of what they are the
latents. Row i belongs to row i of the data set. `latentslots.data.latents` makes them.
"""

import hashlib
import inspect
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentslots.data.errors import DataError

PLAIN, FLIP = "plain", "flip"
MANIFEST_NAME = "cache.json"


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """All that the latents of a data set depend on."""

    vae: str
    resolution: int
    dataset: str
    num_rows: int
    transform: str = "resize the shortest side bilinearly, crop the center"
    dtype: str = "float16"
    format_version: int = 1

    def check(self, made: "CacheKey", path: Path) -> None:
        """Raise an error that says in what a cache differs from the one that is needed."""
        differences = {
            "format_version": f"has format {made.format_version}, not {self.format_version}",
            "vae": f"was made with another VAE ({made.vae[:12]}, not {self.vae[:12]})",
            "resolution": f"was made at resolution {made.resolution}, not {self.resolution}",
            "dataset": f"was made from other data ({made.dataset[:12]}, not {self.dataset[:12]})",
            "num_rows": f"has {made.num_rows} rows, not {self.num_rows}",
            "transform": f"was made with another transform ({made.transform!r})",
            "dtype": f"holds {made.dtype}, not {self.dtype}",
        }
        for name, difference in differences.items():
            if getattr(self, name) != getattr(made, name):
                raise DataError(
                    f"the latent cache at {path} {difference}: remove it, or choose another folder"
                )


class LatentCache:
    """Means and standard deviations of a VAE's posterior, one pair per image.

    The latents are as the VAE gives them, not scaled. `open` makes one.
    """

    def __init__(self, path: Path, num_rows: int, *, has_flip: bool) -> None:
        self.path = path
        self.has_flip = has_flip
        self._num_rows = num_rows
        self._arrays: dict[str, np.ndarray] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        vae_fingerprint: str,
        resolution: int,
        dataset_fingerprint: str,
    ) -> "LatentCache":
        """Open a finished cache that was made of exactly these things.

        Args:
            path: Folder of the cache.
            vae_fingerprint: `model_fingerprint(vae)` of the VAE that will decode.
            resolution: Side of the images in pixels.
            dataset_fingerprint: `dataset_fingerprint(dataset)` of the rows to train on.
        """
        path = Path(path)
        made = read_key(path / PLAIN)
        if made is None:
            raise DataError(f"there is no latent cache at {path}")
        needed = CacheKey(
            vae=vae_fingerprint,
            resolution=resolution,
            dataset=dataset_fingerprint,
            num_rows=made.num_rows,
        )
        needed.check(made, path)
        flipped = read_key(path / FLIP)
        if flipped is not None:
            needed.check(flipped, path)
        return cls(path, made.num_rows, has_flip=flipped is not None)

    def __len__(self) -> int:
        """Number of images."""
        return self._num_rows

    def __getitem__(
        self, request: tuple[int, bool]
    ) -> tuple[Float[Tensor, "C h w"], Float[Tensor, "C h w"]]:
        """Mean and standard deviation of row `index`, of the mirrored image if `flip`."""
        index, flip = request
        if flip and not self.has_flip:
            raise DataError(f"the latent cache at {self.path} has no latents of mirrored images")
        if not 0 <= index < self._num_rows:
            raise DataError(f"the latent cache has rows 0..{self._num_rows - 1}, got {index}")
        folder = FLIP if flip else PLAIN
        return self._row(f"{folder}/mean.npy", index), self._row(f"{folder}/std.npy", index)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps out: pickled for a worker, each would become a copy of its file."""
        return {**self.__dict__, "_arrays": {}}

    def _row(self, name: str, index: int) -> Tensor:
        if name not in self._arrays:
            self._arrays[name] = np.load(self.path / name, mmap_mode="r")
        return torch.from_numpy(self._arrays[name][index].astype(np.float32))


def model_fingerprint(model: nn.Module) -> str:
    """Hash a model's configuration and weights as they are: in another type, it is another model.

    Values that are the defaults of its class are left out, so that a release that adds an option
    does not make another model of it.

    Args:
        model: A diffusers model, such as `AutoencoderKL`.
    """
    digest = hashlib.sha256()
    config: Any = model.config
    defaults = inspect.signature(type(model).__init__).parameters
    chosen = {
        key: text
        for key, value in config.items()
        if not key.startswith("_")
        and (text := _as_json(value))
        != (_as_json(defaults[key].default) if key in defaults else "")
    }
    digest.update(json.dumps(chosen, sort_keys=True).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        data = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def read_key(folder: Path) -> CacheKey | None:
    """Read of what the latents in a folder are; None where there is no finished cache."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return CacheKey(**{field.name: content[field.name] for field in fields(CacheKey)})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged, or not of a latent cache: {error}") from error
