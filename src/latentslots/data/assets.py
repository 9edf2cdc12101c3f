"""What ships with the package: found, and checked before it is used."""

import hashlib
from pathlib import Path

from latentslots.data.errors import DataError

ASSETS = Path(__file__).parents[1] / "assets"
SUMS_NAME = "SHA256SUMS"


def bundled(name: str) -> Path:
    """The folder of something that ships with the package, every file of it as it was shipped.

    Args:
        name: `nlvr`, a data set.

    Raises:
        DataError: If it is not there, or a file is missing or not the one that was shipped.
    """
    folder = ASSETS / name
    sums = folder / SUMS_NAME
    if not sums.is_file():
        raise DataError(f"{folder}, which ships with latentslots, is missing: install it again")
    for line in sums.read_text(encoding="utf-8").splitlines():
        expected, file = line.split("  ", 1)
        path = folder / file
        if not path.is_file() or _sha256(path) != expected:
            state = "damaged" if path.is_file() else "missing"
            raise DataError(f"{path}, which ships with latentslots, is {state}: install it again")
    return folder


def write_sums(folder: Path) -> None:
    """Write down what every file of a folder is, for `bundled` to check."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_NAME)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS_NAME).write_text("".join(lines), encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
