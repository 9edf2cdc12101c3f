"""Options that all imports of `latentslots data import` share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

Source = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
Out = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]


@dataclass(frozen=True, kw_only=True)
class ImportOptions(ABC):
    """Options of all imports; `kind` names the data set if several share a class."""

    kind: ClassVar[str] = ""

    source: Source
    """The data set as its authors publish it."""
    out: Out
    """Folder of the data set, new or of an interrupted import, which is resumed."""
    resolution: int | None = None
    """Resize the shortest side to this and crop the center; by default images are not changed."""

    @abstractmethod
    def write(self) -> Path:
        """Import the data set; returns its folder."""

    def run(self) -> int:
        """Import the data set and print its folder."""
        print(self.write())
        return 0


@dataclass(frozen=True, kw_only=True)
class ParallelImportOptions(ImportOptions):
    """Options of imports by several processes."""

    workers: int | None = None
    """Number of processes; by default one per core."""


@dataclass(frozen=True, kw_only=True)
class AddOptions(ImportOptions):
    """Options of imports that add a split to the images of a user."""

    out: Out
    """Folder of the data set, new or existing; an interrupted import is resumed."""
    split: str = "train"
    """Split to write, which the data set must not have yet."""
    name: str | None = None
    """Name of the data set; by default the name of its folder."""
    license: str | None = None
    """License of the images."""
    credit: str | None = None
    """Author to be named."""
