"""What ships with the package: found, and checked before it is used."""

import hashlib
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
SUMS_NAME = "SHA256SUMS"


def bundled_folder(name: str) -> Path:
    """The folder of something that ships with the package, every file of it as it was shipped.

    Args:
        name: `vae`, an autoencoder; `lsd-scenes-64`, a pipeline; `scenes` or `nlvr`, data sets.

    Raises:
        ValueError: If it is not there, or a file is missing or not the one that was shipped.
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
    """Make every file of a folder readable for anyone, and write down what it is.

    `bundled_folder` checks the latter.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_NAME)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS_NAME).write_text("".join(lines), encoding="utf-8")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
