"""A plain folder of images as a data set, and the split of files into train and validation."""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from datasets import Dataset, Features, Image, Value
from datasets.splits import NamedSplit

from latentslots.data.errors import DataError, UnknownSplitError
from latentslots.data.store.encoding import IMAGE_SUFFIXES

_SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


def find_images(root: Path, glob: str | None = None) -> list[str]:
    """List the images below a folder, sorted, as paths relative to it.

    Args:
        root: The folder.
        glob: A pattern such as `images/**/*.png`; by default every image at any depth. Files and
            folders whose name starts with a dot are left out.
    """
    if glob is not None and (not glob or glob.startswith("/")):
        raise DataError(f"a glob must be relative to the folder, got {glob!r}")
    relative = (path.relative_to(root) for path in root.glob(glob or "**/*") if path.is_file())
    found = sorted(
        path.as_posix()
        for path in relative
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.parts)
    )
    if not found:
        what = f"matches the glob {glob!r}" if glob else "is an image"
        raise DataError(f"no file in {root} {what} (one of {', '.join(IMAGE_SUFFIXES)})")
    return found


def split_files(
    files: Sequence[str], *, validation_fraction: float, group_by: str = "file", seed: int = 0
) -> dict[str, list[str]]:
    """Divide files into `train` and `validation`, and never a group between the two.

    The order of the groups' hashes decides, so that a group keeps its side on every machine, and
    nearly always when files are added.

    Args:
        files: Relative paths.
        validation_fraction: Share of the groups that becomes the validation split, in (0, 1).
        group_by: `file`, or `parent` where a folder holds the frames of one video.
        seed: Another seed, another split.
    """
    if not 0 < validation_fraction < 1:
        raise DataError(
            f"validation_fraction must be between 0 and 1, exclusive, got {validation_fraction}"
        )
    groups = sorted({group_of(file, group_by) for file in files}, key=lambda g: _rank(g, seed))
    if len(groups) < 2:
        what = "one image" if group_by == "file" else "one parent folder"
        raise DataError(f"{what} alone cannot be split into train and validation")
    num_validation = min(max(round(validation_fraction * len(groups)), 1), len(groups) - 1)
    validation = set(groups[:num_validation])
    sides: dict[str, list[str]] = {"train": [], "validation": []}
    for file in files:
        side = "validation" if group_of(file, group_by) in validation else "train"
        sides[side].append(file)
    return sides


def group_of(file: str, group_by: str) -> str:
    """Name the group that a file belongs to: itself, or the folder that it lies in."""
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
    """Present a folder of images as a data set; the files are read where they lie.

    Without a glob or a fraction, subfolders `train`, `validation` (or `val`) and `test` are the
    splits, and a folder that has no `train` is one split, `train`. A fraction divides the images of
    `train`, where there is such a subfolder and no glob, and otherwise all.

    Returns:
        Rows with an `image`, and with a `video`, the parent folder, where that is the group.
    """
    files = _splits(root, glob, validation_fraction, group_by, seed)
    if split not in files:
        wanted = "" if validation_fraction else "; validation_fraction would make one"
        raise UnknownSplitError(
            f"{root} has no split {split!r}, only {', '.join(map(repr, files))}"
            f"{wanted if split == 'validation' else ''}"
        )
    columns: dict[str, list[str]] = {"image": [str(root / file) for file in files[split]]}
    features = {"image": Image()}
    if group_by == "parent":
        columns["video"] = [group_of(file, group_by) for file in files[split]]
        features["video"] = Value("string")
    dataset = Dataset.from_dict(columns, features=Features(features), split=NamedSplit(split))
    return Dataset(
        dataset.data, info=dataset.info, split=dataset.split, fingerprint=_stamp(root, files[split])
    )


def folder_splits(root: Path) -> list[str]:
    """Name the splits of a folder of images, as `load_folder` finds them by itself."""
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
            _below(root, "train") if has_splits else find_images(root, glob),
            validation_fraction=validation_fraction,
            group_by=group_by,
            seed=seed,
        )
    group_of("", group_by)
    if not has_splits:
        return {"train": find_images(root, glob)}
    found: dict[str, list[str]] = {}
    for split, names in _SPLIT_FOLDERS.items():
        folders = [name for name in names if (root / name).is_dir()]
        if len(folders) > 1:
            raise DataError(f"{root} holds {split!r} twice: {' and '.join(folders)}")
        if folders:
            found[split] = _below(root, folders[0])
    return found


def _below(root: Path, name: str) -> list[str]:
    return [f"{name}/{file}" for file in find_images(root / name)]


def _rank(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{group}".encode()).digest()


def _stamp(root: Path, files: Sequence[str]) -> str:
    """Hash names, sizes and times, which change when a file does."""
    digest = hashlib.sha256()
    for file in files:
        state = (root / file).stat()
        digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]
