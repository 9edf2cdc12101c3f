"""The folder of an editing session: pictures, histories and results, named by content.

session.json                 pictures in their order, with their histories
pictures/<id>.<ending>       the files as they were given
pictures/<id>.safetensors    slots that were given for a picture
results/<key>.safetensors    what was painted in the square that the model sees
"""

import hashlib
import io
import json
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentslots.data.store.encoding import DECODING_ERRORS, IMAGE_SUFFIXES, decode
from latentslots.data.transforms import to_rgb
from latentslots.files import atomic_file, check_format, read_json, write_json
from latentslots.workflows.edit_state import EditState

SESSION_FILE = "session.json"
FORMAT = 1
"""Format of a session's folder."""
ID_LENGTH = 16
MAX_PIXELS = 100_000_000
"""Pixels of a picture."""


@dataclass
class Step:
    """A state of an edit, and what led to it, such as `remove`."""

    label: str
    state: EditState


@dataclass
class History:
    """A picture of a session, and the states of its edit.

    Attributes:
        id: The beginning of the hash of its file.
        name: The name of its file.
        ending: The ending of its file.
        origin: Where it was read from; empty if it was uploaded.
        slots: The name of a file of slots that were given for it; empty if its own are found.
        steps: All states, from the picture as it was.
        position: The number of the current one.
    """

    id: str
    name: str
    ending: str
    origin: str = ""
    slots: str = ""
    steps: list[Step] = field(default_factory=list)
    position: int = 0

    @property
    def state(self) -> EditState:
        """The current state."""
        return self.steps[self.position].state

    def push(self, label: str, state: EditState, *, merge: bool = False) -> None:
        """Append a state; what was undone before can no longer be redone.

        Args:
            label: What led to it.
            state: The state.
            merge: Replace the current state, if the same led to it.
        """
        if state == self.state:
            return
        del self.steps[self.position + 1 :]
        if merge and self.position and self.steps[-1].label == label:
            self.steps.pop()
        self.steps.append(Step(label, state))
        self.position = len(self.steps) - 1

    def go(self, position: int) -> None:
        """Undo or redo up to a state.

        Raises:
            ValueError: If there is no such state.
        """
        if not 0 <= position < len(self.steps):
            raise ValueError(f"the history has states 0 to {len(self.steps) - 1}, got {position}")
        self.position = position

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        steps = [{"label": step.label, "state": step.state.to_dict()} for step in self.steps]
        return {**self.__dict__, "steps": steps}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "History":
        """The inverse of `to_dict`."""
        steps = [
            Step(str(step["label"]), EditState.from_dict(step["state"]))
            for step in content["steps"]
        ]
        history = cls(**{**content, "steps": steps})
        texts = (history.id, history.name, history.ending, history.origin, history.slots)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a name is no text")
        if not re.fullmatch(r"[0-9a-f]{16}", history.id) or history.ending not in IMAGE_SUFFIXES:
            raise ValueError(f"there is no picture {history.id + history.ending!r}")
        if history.slots and not re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{16}", history.slots):
            raise ValueError(f"there are no slots {history.slots!r}")
        if steps or history.position:  # a picture that was never opened has none
            history.go(history.position)
        return history


def content_id(encoded: bytes) -> str:
    """The id of a picture: the beginning of the hash of its file."""
    return hashlib.sha256(encoded).hexdigest()[:ID_LENGTH]


class SessionStore:
    """Reads and writes the folder of a session, which one process uses at a time.

    Args:
        folder: The folder; it is made if it does not exist.

    Raises:
        ValueError: If another process uses it, or it holds something other than a session.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.is_file() or (
            folder.is_dir() and any(folder.iterdir()) and not self._file.is_file()
        ):
            raise ValueError(f"{folder} holds something other than a session: name another folder")
        for name in ("pictures", "results"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"the session {folder} is open in another editor: close that, or name another "
                "--session"
            ) from None
        if not self._file.is_file():
            self.write([], {})

    @property
    def _file(self) -> Path:
        return self.folder / SESSION_FILE

    def close(self) -> None:
        """Let other processes use the folder."""
        self._lock.release()

    def read(self) -> tuple[list[History], dict[str, Any]]:
        """The pictures of the session, and what the numbers of their slots depend on.

        Raises:
            ValueError: If its file is damaged, or a newer release wrote it.
        """
        content = read_json(self._file)
        check_format(content.pop("format", None), FORMAT, f"the session {self.folder}")
        try:
            histories = [History.from_dict(one) for one in content["pictures"]]
            made_by = dict(content["made_by"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"the session {self.folder} is damaged: {error}") from error
        return [one for one in histories if self.path(one).is_file()], made_by

    def write(self, histories: list[History], made_by: dict[str, Any]) -> None:
        """Write the pictures and their histories, and what the numbers of slots depend on."""
        pictures = [history.to_dict() for history in histories]
        write_json(self._file, {"format": FORMAT, "made_by": made_by, "pictures": pictures})

    def path(self, history: History) -> Path:
        """The file of a picture."""
        return self.folder / "pictures" / (history.id + history.ending)

    def slots_path(self, history: History) -> Path | str:
        """The file of slots that were given for a picture; empty if its own are found."""
        return self._slots(history.slots) if history.slots else ""

    def put_slots(self, history: History, content: bytes) -> str:
        """Write slots that were given for a picture, and return their name."""
        name = f"{history.id}-{content_id(content)}"
        self.write_file(f"pictures/{name}.safetensors", content)
        return name

    def _slots(self, name: str) -> Path:
        return self.folder / "pictures" / f"{name}.safetensors"

    def remove(self, history: History) -> None:
        """Remove the files of a picture."""
        self.path(history).unlink(missing_ok=True)
        for path in (self.folder / "pictures").glob(f"{history.id}-*.safetensors"):
            path.unlink()

    def sweep(self, keys: Collection[str]) -> None:
        """Remove the results that have none of these names."""
        for path in (self.folder / "results").glob("*.safetensors"):
            if path.stem not in keys:
                path.unlink(missing_ok=True)

    def put(self, encoded: bytes, ending: str) -> str:
        """Write the file of a picture, and return its id."""
        identity = content_id(encoded)
        self.write_file(f"pictures/{identity}{ending}", encoded)
        return identity

    def check_id(self, history: History, encoded: bytes) -> None:
        """Refuse a file that is not that of its picture.

        Raises:
            ValueError: If it is another, or its name leads elsewhere.
        """
        if history.id != content_id(encoded):
            raise ValueError(f"the file of {history.name!r} is not that of its picture")

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file of the session, unless it is there."""
        path = self.folder / name
        if not path.is_file():
            with atomic_file(path) as partial:
                partial.write_bytes(content)

    def new_batch(self) -> Path:
        """Make a new folder for the results of a batch."""
        number = 1
        while (folder := self.folder / "batches" / f"{number:03d}").exists():
            number += 1
        folder.mkdir(parents=True)
        return folder

    def result_key(self, identity: str, facts: dict[str, Any]) -> str:
        """The name of a result: a hash of everything that it depends on."""
        text = json.dumps([identity, facts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def put_result(
        self, key: str, edited: Float[Tensor, "3 h w"], weight: Float[Tensor, "1 h w"]
    ) -> None:
        """Write what was painted in the square, and how much of each pixel it replaces."""
        tensors = {"edited": edited.float().cpu(), "weight": weight.float().cpu()}
        with atomic_file(self._result(key)) as partial:
            save_file({name: one.contiguous() for name, one in tensors.items()}, partial)

    def has_result(self, key: str) -> bool:
        """Whether there is a result."""
        return self._result(key).is_file()

    def result(self, key: str) -> tuple[Tensor, Tensor]:
        """What was painted, in [0, 1], and the weight of each pixel.

        Raises:
            ValueError: If it is damaged.
        """
        try:
            tensors = load_file(self._result(key))
            return tensors["edited"].to(torch.float32), tensors["weight"]
        except (SafetensorError, KeyError, OSError) as error:
            raise ValueError(f"the result {self._result(key)} is damaged: {error}") from error

    def _result(self, key: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{32}", key):
            raise ValueError(f"there is no result {key!r}")
        return self.folder / "results" / f"{key}.safetensors"


def check_picture(encoded: bytes, name: str) -> None:
    """Refuse what is no picture, or one of too many pixels, before they are decoded.

    Raises:
        ValueError: If it is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded)) as image:
                width, height = image.size
    except DECODING_ERRORS as error:
        raise ValueError(
            f"{name} cannot be decoded: it is not an image of a known format"
        ) from error
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width} x {height} pixels, more than {MAX_PIXELS / 1e6:g} megapixels"
        )
    to_rgb(decode({"bytes": encoded, "path": None}, where=name))
