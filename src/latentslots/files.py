"""Folders of results: whole or not there, and never in the place of somebody's work."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_place(folder: Path, *, mark: str) -> None:
    """Refuse a place that `whole_folder` would refuse, before the work is done.

    Raises:
        ValueError: If something is there that is no earlier folder of the same kind.
    """
    for parent in folder.parents:
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"{parent} is a file, not a folder that results could go into")
    if not folder.exists() or (folder / mark).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise ValueError(
            f"{folder} exists and holds something else, without a {mark}: name another place"
        )


@contextmanager
def whole_folder(folder: Path, *, mark: str) -> Iterator[Path]:
    """A folder to write into, which gets its name when the `with` block ends without an error.

    Args:
        folder: Where it shall be. An earlier one of the same kind is replaced.
        mark: A file by which one of the same kind is known.

    Raises:
        ValueError: If something else is there.
    """
    check_place(folder, mark=mark)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)
