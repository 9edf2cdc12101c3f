"""A file layer that fails: the Nth operation on files below a folder raises an error.

Operations are opening, reading, writing, syncing, renaming, removing and creating, as Python code
does them, and the calls of libraries in other languages that write whole files.
"""

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import safetensors.torch

from latentslots import files


class Faults:
    """Counts the operations below a folder, and lets one of them fail, or all from it on.

    Args:
        root: The folder.
        number: The operation that fails, from 1; 0 for none.
        lasting: Whether all later operations fail, too, as on a full disk.
        code: The error's number.
    """

    def __init__(
        self, root: Path, number: int = 0, *, lasting: bool = False, code: int = errno.EIO
    ) -> None:
        self.root, self.number, self.lasting, self.code = str(root), number, lasting, code
        self.count = 0
        self.failed = False

    def step(self, path: Any) -> None:
        """Count an operation on a path, and raise the error if it is the one that fails."""
        if isinstance(path, int) or not str(os.fspath(path)).startswith(self.root):
            return
        self.count += 1
        if self.number and (self.count == self.number or (self.lasting and self.failed)):
            self.failed = True
            raise OSError(self.code, os.strerror(self.code), str(path))

    def wrap(self, call: Callable[..., Any], *, paths: int = 1) -> Callable[..., Any]:
        """A function that counts as an operation on its first arguments."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            for path in args[:paths]:
                if isinstance(path, str | bytes | os.PathLike):
                    self.step(os.fsdecode(path))
                    break
            return call(*args, **kwargs)

        return counted

    def open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """`open`, of which reading and writing count as well."""
        if isinstance(file, int):
            return _OPEN(file, mode, *args, **kwargs)
        self.step(file)
        opened = _OPEN(file, mode, *args, **kwargs)
        if not str(os.fspath(file)).startswith(self.root):
            return opened
        return _File(opened, str(file), self)


_OPEN = builtins.open


class _File:
    """A file whose reading, writing and closing can fail."""

    def __init__(self, file: Any, path: str, faults: Faults) -> None:
        self._file, self._path, self._faults = file, path, faults

    def write(self, content: Any) -> int:
        try:
            self._faults.step(self._path)
        except OSError:
            self._file.write(content[: len(content) // 2])  # as much as there was room for
            self._file.flush()
            raise
        return int(self._file.write(content))

    def read(self, *args: Any) -> Any:
        self._faults.step(self._path)
        return self._file.read(*args)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def faults(
    root: Path, number: int = 0, *, lasting: bool = False, code: int = errno.EIO
) -> Iterator[Faults]:
    """Install the file layer."""
    layer = Faults(root, number, lasting=lasting, code=code)
    save, table = safetensors.torch.save_file, pq.ParquetWriter.write_table

    def save_file(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
        try:
            layer.step(filename)
        except OSError:
            save(tensors, filename, *args, **kwargs)
            os.truncate(filename, os.path.getsize(filename) // 2)
            raise
        save(tensors, filename, *args, **kwargs)

    def write_table(self: Any, *args: Any, **kwargs: Any) -> None:
        layer.step(str(self.where))
        table(self, *args, **kwargs)

    def fsync(handle: int) -> None:
        if isinstance(handle, int):
            layer.step(os.readlink(f"/proc/self/fd/{handle}"))
        _FSYNC(handle)

    patches = [
        mock.patch.object(builtins, "open", layer.open),
        mock.patch.object(io, "open", layer.open),
        mock.patch.object(os, "fsync", fsync),
        mock.patch.object(pq.ParquetWriter, "write_table", write_table),
        *(mock.patch.object(module, "save_file", save_file) for module in _modules_with(save)),
        *(
            mock.patch.object(os, name, layer.wrap(getattr(os, name)))
            for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "chmod")
        ),
        mock.patch.object(shutil, "rmtree", layer.wrap(shutil.rmtree)),
        mock.patch.object(files, "exchange", layer.wrap(files.exchange)),
    ]
    for patch in patches:
        patch.start()
    try:
        yield layer
    finally:
        for patch in reversed(patches):
            patch.stop()


_FSYNC = os.fsync


def _modules_with(function: Callable[..., Any]) -> list[Any]:
    """Modules that hold a function under the name `save_file`."""
    import sys

    # Not by getattr, which makes lazy modules import what may not be installed.
    return [
        module for module in list(sys.modules.values()) if vars(module).get("save_file") is function
    ]


def sweep(
    root: Path,
    act: Callable[[], Any],
    check: Callable[[bool], None],
    *,
    prepare: Callable[[], Any] = lambda: None,
    lasting: bool = False,
    code: int = errno.EIO,
    first: int = 1,
    stride: int = 1,
    errors: tuple[type[BaseException], ...] = (OSError, ValueError),
) -> int:
    """Let the first operation fail, then the second, and so on, until a run goes through clean.

    Args:
        root: The folder whose files are watched.
        act: What is done; it may raise `errors` only.
        check: Called after every run, with whether `act` was completed without an error.
        prepare: Restores the state before `act`.
        lasting: See `Faults`.
        code: See `Faults`.
        first: The first operation that fails.
        stride: Operations from one that fails to the next.
        errors: What `act` may raise.

    Returns:
        The number of runs with a failure.
    """
    number, runs = first, 0
    while True:
        prepare()
        completed = False
        with faults(root, number, lasting=lasting, code=code) as layer:
            try:
                act()
                completed = True
            except errors:
                assert layer.failed, "an error without a fault"
        check(completed)
        if not layer.failed:
            return runs
        number, runs = number + stride, runs + 1
