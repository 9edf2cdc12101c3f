"""Reading caches of the outputs of a frozen model, one per image of a data set.

`<dir>/plain/` and, for flipped images, `<dir>/flip/` hold `mean.npy` and `std.npy` of a VAE's
posterior, or `features.npy` of an image backbone, in half precision and memory-mapped, and
`cache.json`, the key of the cache: the model, the data set and the transform. A cache with another
key is refused. Row i belongs to row i of the data set.
`latentslots.data.loading.cache_writer` writes caches.
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latentslots.data.errors import DataError
from latentslots.files import read_json

PLAIN, FLIP = "plain", "flip"
MANIFEST_NAME = "cache.json"
CacheT = TypeVar("CacheT", bound="ImageCache")


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """Everything that the cached latents or features of a data set depend on."""

    model: str
    resolution: int
    dataset: str
    num_rows: int
    holds: str = "latents"
    transform: str = "resize the shortest side bilinearly, crop the center"
    dtype: str = "float16"
    format_version: int = 2

    def check(self, made: "CacheKey", path: Path) -> None:
        """Raise an error that names the first difference between this key and a cache's.

        Args:
            made: The key of the cache.
            path: Folder of the cache.
        """
        model = {"latents": "VAE", "features": "image backbone"}[self.holds]
        differences = {
            "format_version": f"has format {made.format_version}, not {self.format_version}",
            "holds": f"holds {made.holds}, not {self.holds}",
            "model": f"was made with another {model} ({made.model[:12]}, not {self.model[:12]})",
            "resolution": f"was made at resolution {made.resolution}, not {self.resolution}",
            "dataset": f"was made from other data ({made.dataset[:12]}, not {self.dataset[:12]})",
            "num_rows": f"has {made.num_rows} rows, not {self.num_rows}",
            "transform": f"was made with another transform ({made.transform!r})",
            "dtype": f"holds {made.dtype}, not {self.dtype}",
        }
        for name, difference in differences.items():
            if getattr(self, name) != getattr(made, name):
                raise DataError(
                    f"the cache of {self.holds} at {path} {difference}: remove it, or choose "
                    "another folder"
                )


class ImageCache:
    """The outputs of a frozen model for every image; `open` returns one of the two subclasses."""

    HOLDS: ClassVar[str]
    ARRAYS: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path, num_rows: int, *, has_flip: bool) -> None:
        self.path = path
        self.has_flip = has_flip
        self._num_rows = num_rows
        self._arrays: dict[str, np.ndarray] = {}

    @classmethod
    def open(
        cls: type[CacheT],
        path: str | os.PathLike[str],
        *,
        fingerprint: str,
        resolution: int,
        dataset_fingerprint: str,
    ) -> CacheT:
        """Open a complete cache of this model, data set and resolution.

        Args:
            path: Folder of the cache.
            fingerprint: `model_fingerprint` of the model.
            resolution: Side of the images in pixels.
            dataset_fingerprint: `dataset_fingerprint(dataset)` of the rows to train on.

        Raises:
            DataError: If there is no cache, or it has another key.
        """
        path = Path(path)
        made = read_key(path / PLAIN)
        if made is None:
            raise DataError(f"there is no cache of {cls.HOLDS} at {path}")
        needed = CacheKey(
            holds=cls.HOLDS,
            model=fingerprint,
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

    def __getitem__(self, request: tuple[int, bool]) -> tuple[Float[Tensor, "C h w"], ...]:
        """Return the outputs for a request (index, flip): for the row, flipped if `flip`."""
        index, flip = request
        if flip and not self.has_flip:
            raise DataError(f"the cache of {self.HOLDS} at {self.path} has none of flipped images")
        if not 0 <= index < self._num_rows:
            raise DataError(
                f"the cache of {self.HOLDS} has rows 0..{self._num_rows - 1}, got {index}"
            )
        folder = FLIP if flip else PLAIN
        return tuple(self._row(f"{folder}/{name}.npy", index) for name in self.ARRAYS)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the memory maps: pickled for a worker, each would become a copy of its file."""
        return {**self.__dict__, "_arrays": {}}

    def _row(self, name: str, index: int) -> Tensor:
        if name not in self._arrays:
            self._arrays[name] = np.load(self.path / name, mmap_mode="r")
        return torch.from_numpy(self._arrays[name][index].astype(np.float32))


class LatentCache(ImageCache):
    """Means and standard deviations of a VAE's posterior, one pair per image, unscaled."""

    HOLDS = "latents"
    ARRAYS = ("mean", "std")


class FeatureCache(ImageCache):
    """Features of a frozen image backbone, one map per image."""

    HOLDS = "features"
    ARRAYS = ("features",)


def read_key(folder: Path) -> CacheKey | None:
    """Read the key of a cache; `None` if there is no complete cache in the folder."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        if content.get("format_version") == 1:  # held latents only, with the model as `vae`
            content |= {"model": content["vae"], "holds": "latents"}
        return CacheKey(**{field.name: content[field.name] for field in fields(CacheKey)})
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged, or not the key of a cache: {error}") from error
