"""A plain folder of images as a data set, and the split of files into train and validation."""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from datasets import Dataset, Features, Image, Value
from datasets.splits import NamedSplit

from latentslots.data.errors import DataError, UnknownSplitError
from latentslots.data.store.encoding import IMAGE_SUFFIXES
from latentslots.data.store.listing import list_files, same_name
from latentslots.fingerprint import files_sha256, text_sha256

_SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


def find_images(root: Path, glob: str | None = None) -> list[str]:
    """List the images below a folder, sorted, as paths relative to it.

    See `list_files`.

    Args:
        root: The folder.
        glob: A pattern such as `images/**/*.png`; by default every image at any depth.
    """
    if glob is not None and (not glob or glob.startswith("/")):
        raise DataError(f"a glob must be relative to the folder, got {glob!r}")
    images = list_files(root, IMAGE_SUFFIXES, glob=glob)
    if not images:
        condition = f"matches the glob {glob!r}" if glob else "is an image"
        raise DataError(f"no file in {root} {condition} (one of {', '.join(IMAGE_SUFFIXES)})")
    return images


def split_files(
    files: Sequence[str], *, validation_fraction: float, group_by: str = "file", seed: int = 0
) -> dict[str, list[str]]:
    """Divide files into `train` and `validation` without dividing a group.

    Groups are divided in the order of their hashes, so that a group is in the same split on every
    machine, and nearly always remains in it when files are added.

    Args:
        files: Relative paths.
        validation_fraction: Fraction of the groups in the validation split, in (0, 1).
        group_by: `file`, or `parent` if each folder holds the frames of one video.
        seed: Another seed gives another split.
    """
    if not 0 < validation_fraction < 1:
        raise DataError(
            f"validation_fraction must be between 0 and 1, exclusive, got {validation_fraction}"
        )
    groups = sorted({group_of(file, group_by) for file in files}, key=lambda g: _rank(g, seed))
    if len(groups) < 2:
        single = "one image" if group_by == "file" else "one parent folder"
        raise DataError(f"{single} cannot be split into train and validation")
    num_validation = min(max(round(validation_fraction * len(groups)), 1), len(groups) - 1)
    validation = set(groups[:num_validation])
    splits: dict[str, list[str]] = {"train": [], "validation": []}
    for file in files:
        split = "validation" if group_of(file, group_by) in validation else "train"
        splits[split].append(file)
    return splits


def group_of(file: str, group_by: str) -> str:
    """Name the group of a file: the file itself, or its folder."""
    if group_by not in ("file", "parent"):
        raise DataError(f"group_by must be 'file' or 'parent', got {group_by!r}")
    return file if group_by == "file" else PurePosixPath(file).parent.as_posix()


def load_folder(
    root: Path,
    *,
    split: str,
    glob: str | None = None,
    validation_fraction: float | None = None,
    group_by: str = "file",
    seed: int = 0,
) -> Dataset:
    """Open a folder of images as a data set that reads the image files in place.

    Without a glob and a fraction, the subfolders `train`, `validation` (or `val`) and `test` are
    the splits; without a subfolder `train`, all images are the split `train`. A fraction divides
    the images of the subfolder `train` if there is one and no glob is given, and all images
    otherwise.

    Returns:
        Rows with an `image`, and with a `video`, the parent folder, if images are grouped by it.
    """
    files = _splits(root, glob, validation_fraction, group_by, seed)
    if split not in files:
        hint = ""
        if split == "validation" and not validation_fraction:
            hint = "; set validation_fraction to hold one out"
        raise UnknownSplitError(
            f"{root} has no split {split!r}, only {', '.join(map(repr, files))}{hint}"
        )
    columns: dict[str, list[str]] = {"image": [str(root / file) for file in files[split]]}
    features = {"image": Image()}
    if group_by == "parent":
        columns["video"] = [group_of(file, group_by) for file in files[split]]
        features["video"] = Value("string")
    dataset = Dataset.from_dict(columns, features=Features(features), split=NamedSplit(split))
    return Dataset(
        dataset.data,
        info=dataset.info,
        split=dataset.split,
        fingerprint=_files_fingerprint(root, files[split]),
    )


def folder_splits(root: Path) -> list[str]:
    """List the splits of a folder of images that is opened without options."""
    return list(_splits(root, None, None, "file", 0))


def _splits(
    root: Path,
    glob: str | None,
    validation_fraction: float | None,
    group_by: str,
    seed: int,
) -> dict[str, list[str]]:
    has_splits = glob is None and (root / "train").is_dir()
    if validation_fraction is not None:
        return split_files(
            _find_below(root, "train") if has_splits else find_images(root, glob),
            validation_fraction=validation_fraction,
            group_by=group_by,
            seed=seed,
        )
    group_of("", group_by)
    if not has_splits:
        return {"train": find_images(root, glob)}
    splits: dict[str, list[str]] = {}
    for split, names in _SPLIT_FOLDERS.items():
        folders = [name for name in names if (root / name).is_dir()]
        if len(folders) > 1:
            raise DataError(f"{root} holds {split!r} twice: {' and '.join(folders)}")
        if folders:
            splits[split] = _find_below(root, folders[0])
    return splits


def _find_below(root: Path, name: str) -> list[str]:
    return [f"{name}/{file}" for file in find_images(root / name)]


def _rank(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{group}".encode()).digest()


def _files_fingerprint(root: Path, files: Sequence[str]) -> str:
    """Hash of names and contents: a copy is the same data."""
    hashes = files_sha256(root / file for file in files)
    lines = [f"{same_name(file)}\0{sha}" for file, sha in zip(files, hashes, strict=True)]
    return text_sha256("\n".join(lines))[:32]
