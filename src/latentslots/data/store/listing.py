"""Listing the files of a folder: the one way in which folders of images and masks are read."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePath

logger = logging.getLogger(__name__)

SYSTEM_FILES = ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")
"""Files that an operating system adds to a folder of images, apart from hidden ones."""
GENERATED_FILE = "generated.json"
SHEET_FILE, SLOTS_SUFFIX = "contact_sheet.png", "_slots.jpg"
"""In a folder of generated images, pictures that are none of them: an overview, and their slots."""


def list_files(
    root: Path,
    suffixes: Collection[str],
    *,
    glob: str | None = None,
    recursive: bool = True,
) -> list[str]:
    """List the files of some endings in a folder.

    Files and folders whose name starts with a dot are left out, and so are those that operating
    systems add, and pictures about generated images. Links to folders are followed, each folder
    once. Files of other endings, and names that are not UTF-8, are left out with a line that counts
    them.

    Args:
        root: The folder.
        suffixes: The endings, in lower case, such as `.png`.
        glob: A pattern such as `images/**/*.png` that their relative path has to match.
        recursive: Whether files in subfolders count.

    Returns:
        Paths relative to the folder, sorted.
    """
    found: list[str] = []
    others: Counter[str] = Counter()
    unreadable: list[str] = []
    pattern = None if glob is None else PurePath(glob).parts
    for path in _walk(root, recursive=recursive):
        relative = path.relative_to(root)
        suffix = path.suffix.lower()
        if pattern is not None and not _matches(relative.parts, pattern):
            continue
        try:
            name = relative.as_posix()
            name.encode()
        except UnicodeEncodeError:
            unreadable.append(ascii(os.fspath(relative)))
        else:
            if suffix in suffixes:
                found.append(name)
            else:
                others[suffix or "without ending"] += 1
    if others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        _say_once(f"files of other endings in {root} are left out: {counts}")
    if unreadable:
        _say_once(
            f"{len(unreadable)} files in {root} are left out, whose names are not UTF-8, such as "
            f"{unreadable[0]}"
        )
    return sorted(found)


@cache
def _say_once(line: str) -> None:
    """Log a line, but not again when the same folder is listed for another split."""
    logger.warning("%s", line)


def same_name(name: str) -> str:
    """A form of a name that is the same for composed and decomposed letters.

    Some systems store `é` as one letter, some as two (NFC and NFD of Unicode).
    """
    return unicodedata.normalize("NFC", name)


def find_file(folder: Path, name: str) -> Path:
    """The path of a file that a list names, whichever form of Unicode its name has on the disk.

    If there is no such file, the path is the plain one.
    """
    for form in ("NFC", "NFD"):
        path = folder / unicodedata.normalize(form, name)
        if path.is_file():
            return path
    return folder / name


def _walk(root: Path, *, recursive: bool) -> Iterator[Path]:
    """Yield all files below a folder; a folder that is reached twice, through links, only once."""
    entered: set[tuple[int, int]] = set()
    folders = [root]
    while folders:
        folder = folders.pop()
        state = folder.stat()
        if (state.st_dev, state.st_ino) in entered:
            continue
        entered.add((state.st_dev, state.st_ino))
        paths = sorted(folder.iterdir())
        names = {path.name for path in paths}
        added = {*SYSTEM_FILES}
        if GENERATED_FILE in names:
            added |= {SHEET_FILE, GENERATED_FILE}
            added |= {f"{Path(name).stem}{SLOTS_SUFFIX}".lower() for name in names}
        for path in paths:
            if path.name.startswith(".") or path.name.lower() in added:
                continue
            if path.is_dir():
                folders += [path] if recursive else []
            elif path.is_file():
                yield path


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a pattern, of which `**` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[skip:], pattern[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
