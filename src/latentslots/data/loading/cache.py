"""Reading what a frozen model made of every image, and refusing what was made of something else.

`<dir>/plain/` and, for mirrored images, `<dir>/flip/` hold `mean.npy` and `std.npy` of a VAE's
posterior, or `features.npy` of an image backbone, in half precision and memory-mapped, and
`cache.json`, which says of what they were made. Row i belongs to row i of the data set.
`latentslots.data.loading.cache_writer` makes them.
"""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latentslots.data.errors import DataError

PLAIN, FLIP = "plain", "flip"
MANIFEST_NAME = "cache.json"
CacheT = TypeVar("CacheT", bound="ImageCache")


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """All that the latents, or the features, of a data set depend on."""

    model: str
    resolution: int
    dataset: str
    num_rows: int
    holds: str = "latents"
    transform: str = "resize the shortest side bilinearly, crop the center"
    dtype: str = "float16"
    format_version: int = 2

    def check(self, made: "CacheKey", path: Path) -> None:
        """Raise an error that says in what a cache differs from the one that is needed."""
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
    """What a frozen model made of every image. `open` makes one of its two kinds."""

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
        """Open a finished cache that was made of exactly these things.

        Args:
            path: Folder of the cache.
            fingerprint: `model_fingerprint` of the model that made it.
            resolution: Side of the images in pixels.
            dataset_fingerprint: `dataset_fingerprint(dataset)` of the rows to train on.
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
        """What there is of row `index`, of the mirrored image if `flip`."""
        index, flip = request
        if flip and not self.has_flip:
            raise DataError(f"the cache of {self.HOLDS} at {self.path} has none of mirrored images")
        if not 0 <= index < self._num_rows:
            raise DataError(
                f"the cache of {self.HOLDS} has rows 0..{self._num_rows - 1}, got {index}"
            )
        folder = FLIP if flip else PLAIN
        return tuple(self._row(f"{folder}/{name}.npy", index) for name in self.ARRAYS)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps out: pickled for a worker, each would become a copy of its file."""
        return {**self.__dict__, "_arrays": {}}

    def _row(self, name: str, index: int) -> Tensor:
        if name not in self._arrays:
            self._arrays[name] = np.load(self.path / name, mmap_mode="r")
        return torch.from_numpy(self._arrays[name][index].astype(np.float32))


class LatentCache(ImageCache):
    """Means and standard deviations of a VAE's posterior, one pair per image.

    The latents are as the VAE gives them, not scaled.
    """

    HOLDS = "latents"
    ARRAYS = ("mean", "std")


class FeatureCache(ImageCache):
    """The features of a frozen image backbone, one map per image."""

    HOLDS = "features"
    ARRAYS = ("features",)


def read_key(folder: Path) -> CacheKey | None:
    """Read of what a folder's content was made; None where there is no finished cache."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format_version") == 1:  # which knew latents only, and called the model so
            content |= {"model": content["vae"], "holds": "latents"}
        return CacheKey(**{field.name: content[field.name] for field in fields(CacheKey)})
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged, or not of such a cache: {error}") from error
