"""Reading text, writing files and folders so that they are complete or absent, and retrying.

Everything is written beside its destination, synced and renamed, so that a full disk, a killed
process or a power failure leaves what was there before.
"""

import ctypes
import errno
import gzip
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

T = TypeVar("T")

# From Linux's <fcntl.h> and <linux/fs.h>, and from macOS's <stdio.h>.
_HERE, _EXCHANGE, _SWAP = -100, 2, 2
LONGEST_NAME = 200
"""Bytes of a name from which hidden files beside it are named by its hash."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its name when the `with` block succeeds."""
    temporary = beside(path, f"{os.getpid()}.partial")
    try:
        yield temporary
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def beside(path: Path, ending: str) -> Path:
    """A hidden path beside another, named after it; names have a limit of 255 bytes."""
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return path.with_name(f".{name}.{ending}")


def publish(partial: Path, path: Path) -> None:
    """Rename a complete file or folder to its final name, once it is on the disk.

    Its files get the permissions that the umask leaves, whatever their writers set (safetensors
    0.8 writes private files, https://github.com/safetensors/safetensors/issues/782).

    Args:
        partial: The complete file or folder.
        path: The final name. An earlier file is replaced; a folder must be absent or empty.
    """
    apply_umask(partial)
    sync_all(partial)
    os.replace(partial, path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; an older one stays until this one is complete."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_together(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """Write files into a folder; none of them changes before all are complete on the disk.

    Args:
        folder: The folder, new or existing.
        files: Content by file name; text is written in UTF-8.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name, content in files.items():
            temporary = stack.enter_context(atomic_file(folder / name))
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            sync(temporary)


def to_json(content: Any) -> str:
    """JSON for people: indented; numbers that are not finite, which JSON lacks, become `null`."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; a `.gz` file is unpacked.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not text in UTF-8; the message names neither it nor its content.
    """
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8.

    Raises:
        ValueError: If it is not text in UTF-8, or not JSON; the message names neither it nor its
            content.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class FormatError(ValueError):
    """A newer release wrote the file."""


def check_format(found: Any, newest: int, what: str) -> None:
    """Refuse what a newer release wrote, by the number of its format.

    Args:
        found: The number that is recorded; `None` counts as 1.
        newest: The newest format that this release reads.
        what: Name of the file or folder in the error message.

    Raises:
        FormatError: If the format is newer, or not a number.
    """
    if found is not None and (type(found) is not int or not 1 <= found <= newest):
        raise FormatError(
            f"{what} has format {found!r}, and this release reads formats up to {newest}: "
            "install a newer release of latentslots"
        )


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, as `write_text` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line, except a last line that a crash truncated.

    Args:
        path: The file; if it does not exist, there are no rows.
    """
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def check_output_dir(folder: Path, *, mark: str) -> None:
    """Refuse a folder that `atomic_folder` would refuse, before the results are computed.

    Args:
        folder: The destination of the results.
        mark: The file by which an earlier folder of the same kind is recognized.

    Raises:
        ValueError: If the folder holds something else, or lies below a file.
    """
    for parent in folder.parents:
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"{parent} is a file, not a folder that results could go into")
    if not folder.exists() or (folder / mark).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise ValueError(
            f"{folder} exists and holds something else, without a {mark}: name another folder"
        )


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process of this machine at a time write to a path; a killed one does not count.

    Raises:
        ValueError: If another process is writing to it.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()  # a container may lack names
    folder = Path(tempfile.gettempdir()) / f"latentslots-locks-{user}"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process is writing to {path}: wait for it, or name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_folder(folder: Path, *, mark: str) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its name when the `with` block succeeds.

    Args:
        folder: The destination. An earlier folder of the same kind is replaced.
        mark: The file by which a folder of the same kind is recognized.

    Raises:
        ValueError: If the destination holds something else, or another process is writing to it.
    """
    with exclusive(folder):
        restore_folder(folder)
        check_output_dir(folder, mark=mark)
        partial = beside(folder, "partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        replace_folder(partial, folder)


def replace_folder(partial: Path, folder: Path) -> None:
    """Publish a complete folder in the place of an earlier one, which is removed last.

    The two are exchanged in one operation where the file system can; elsewhere a kill between two
    renames leaves the earlier one as a hidden folder, from which `restore_folder` brings it back.
    """
    old = beside(folder, "old")
    shutil.rmtree(old, ignore_errors=True)
    if not folder.exists():
        publish(partial, folder)
        return
    apply_umask(partial)
    sync_all(partial)
    if exchange(partial, folder):
        shutil.rmtree(partial, ignore_errors=True)
    else:
        os.replace(folder, old)
        try:
            os.replace(partial, folder)
        except BaseException:
            os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync_folder(folder.parent)


def restore_folder(folder: Path) -> None:
    """Bring back a folder that a kill in `replace_folder` left hidden."""
    old = beside(folder, "old")
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders in one operation.

    Returns:
        Whether the system and the file system can; otherwise nothing is done.

    Raises:
        OSError: If it fails for another reason.
    """
    library: Any = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
    paths = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):  # Linux
        failed = library.renameat2(_HERE, paths[0], _HERE, paths[1], _EXCHANGE)
    elif hasattr(library, "renamex_np"):  # macOS
        failed = library.renamex_np(*paths, _SWAP)
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), os.fspath(other))


def apply_umask(path: Path) -> None:
    """Give a file, or every file of a folder, the permissions that new files have."""
    umask = os.umask(0o077)
    os.umask(umask)
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~umask)


def sync(*paths: Path) -> None:
    """Wait until files and folders are on the disk, not only in memory."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_all(path: Path) -> None:
    """Wait until a file, or a folder with all of its files, is on the disk."""
    if path.is_dir():
        sync(*(file for file in path.rglob("*") if file.is_file()))
        for folder in (path, *(entry for entry in path.rglob("*") if entry.is_dir())):
            sync_folder(folder)
    else:
        sync(path)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system offers that."""
    with suppress(PermissionError, IsADirectoryError):
        try:
            sync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise


def retry(
    call: Callable[[], T],
    *,
    retries: int,
    retriable: Callable[[Exception], bool],
    progress: Callable[[], int] = lambda: 0,
    first_wait: float = 0.5,
) -> T:
    """Call a function until it succeeds, waiting twice as long after each failure in a row.

    Args:
        call: The function.
        retries: Calls after the first that may fail in a row; the last error is raised.
        retriable: Whether another call could succeed after this error; others are raised at once.
        progress: How much has been done so far. A failure that got further than the one before
            counts as the first.
        first_wait: Seconds before the second call.
    """
    failures = 0
    while True:
        before = progress()
        try:
            return call()
        except Exception as error:
            failures = 1 if progress() > before else failures + 1
            if failures > retries or not retriable(error):
                raise
        time.sleep(first_wait * 2 ** (failures - 1))
