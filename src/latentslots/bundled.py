"""Models and data sets that ship with the package, verified before use."""

import hashlib
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
SUMS_NAME = "SHA256SUMS"


def bundled_folder(name: str) -> Path:
    """Return the folder of a bundled model or data set, after comparing the hashes of its files.

    Args:
        name: `vae`, an autoencoder; `lsd-scenes-64`, a pipeline; `scenes` or `nlvr`, data sets.

    Raises:
        ValueError: If the folder or a file is missing, or a file differs from the one that shipped.
    """
    folder = ASSETS / name
    sums = folder / SUMS_NAME
    if not sums.is_file():
        raise ValueError(f"{folder}, which ships with latentslots, is missing: install it again")
    for line in sums.read_text(encoding="utf-8").splitlines():
        expected, file = line.split("  ", 1)
        path = folder / file
        if not path.is_file() or _sha256(path) != expected:
            state = "damaged" if path.is_file() else "missing"
            raise ValueError(f"{path}, which ships with latentslots, is {state}: install it again")
    return folder


def seal(folder: Path) -> None:
    """Make every file of a folder readable for everyone, and write the hashes of the files.

    `bundled_folder` compares them. The format is that of `sha256sum`.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_NAME)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS_NAME).write_text("".join(lines), encoding="utf-8")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
