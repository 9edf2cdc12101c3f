"""The editor without an interface: pictures, their slots, histories of edits, and painting.

Everything is kept in a folder (`session_store`), so that a session survives its process.

Dimensions: h w the square that the model sees.
"""

import io
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from latentslots.concepts import ConceptLibrary
from latentslots.config.sampling import Sampling
from latentslots.data.store.encoding import DECODING_ERRORS, IMAGE_SUFFIXES
from latentslots.data.transforms import to_rgb
from latentslots.pipelines.full_size import Area, central_square, check_area, paste_into
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.workflows.edit import Editor
from latentslots.workflows.edit_state import LIBRARY, EditState
from latentslots.workflows.image_files import open_image_file
from latentslots.workflows.jobs import Progress
from latentslots.workflows.other_scenes import OtherScenes
from latentslots.workflows.painter import Painter
from latentslots.workflows.provenance import image_provenance, slot_provenance
from latentslots.workflows.session_store import History, SessionStore, Step

MAX_EDITORS = 4
"""Pictures whose pixels and slots are kept in memory."""
MAX_PIXELS = 100_000_000
"""Pixels of a picture."""
PREVIEW_STEPS = 6


class Session:
    """An editing session.

    Args:
        pipe: Any slot pipeline; those that are no Latent Slot Diffusion find things, but do not
            paint.
        folder: The folder of the session.
        library: The folder of a concept library; empty for none.
        sampling: How results are painted, until a state says otherwise.

    Attributes:
        forgotten: Pictures whose history was dropped, as it was of another pipeline.

    Raises:
        ValueError: If the folder is in use or holds something else, or the library is of another
            pipeline.
    """

    def __init__(
        self,
        pipe: Any,
        folder: str | Path,
        *,
        library: str | Path = "",
        sampling: Sampling | None = None,
    ) -> None:
        self.pipe, self.sampling = pipe, sampling or Sampling()
        self.painter = Painter(pipe)
        self.fingerprint = pipe.fingerprint()
        self.library_folder = str(library)
        self.library = ConceptLibrary.load(library) if library else None
        if self.library is not None:
            self.library.check(pipe)
        self.others = OtherScenes(pipe, seed=self.sampling.seed)
        self.forgotten = 0
        self.lock = threading.RLock()
        self._editors: OrderedDict[tuple[str, Any], Editor] = OrderedDict()
        self.store = SessionStore(Path(folder))
        try:
            self._pictures = self._restore()
        except BaseException:
            self.store.close()
            raise
        self._provenance = (
            image_provenance(pipe) if self.painter.can_edit else slot_provenance(pipe)
        )

    def close(self) -> None:
        """Let other processes use the folder."""
        self.store.close()

    def _restore(self) -> dict[str, History]:
        histories, pipeline = self.store.read()
        if pipeline != self.fingerprint:  # the numbers of its slots mean others here
            self.forgotten = sum(len(history.steps) > 1 for history in histories)
            for history in histories:
                history.steps, history.position = [], 0
        return {history.id: history for history in histories}

    def _write(self) -> None:
        self.store.write(list(self._pictures.values()), self.fingerprint)

    # Pictures

    @property
    def pictures(self) -> list[History]:
        """All pictures, in their order."""
        with self.lock:
            return list(self._pictures.values())

    def picture(self, identity: str) -> History:
        """A picture with its history.

        Raises:
            ValueError: If there is none.
        """
        with self.lock:
            if identity not in self._pictures:
                raise ValueError(f"there is no picture {identity!r} in this session")
            return self._pictures[identity]

    def add(self, encoded: bytes, name: str, *, origin: str = "") -> History:
        """Add a picture; one that is there already stays as it is.

        Args:
            encoded: The content of an image file.
            name: Its name; only shown.
            origin: The file that it was read from, which printed commands name.

        Raises:
            ValueError: If it cannot be decoded as an image, or has too many pixels.
        """
        name = PurePosixPath(name).name
        _check_size(encoded, name)
        ending = PurePosixPath(name).suffix.lower()
        ending = ending if ending in IMAGE_SUFFIXES else ".png"
        identity, path = self.store.put(encoded, ending)
        with self.lock:
            if identity in self._pictures:
                return self._pictures[identity]
        try:
            open_image_file(path)
        except ValueError as error:
            path.unlink()
            raise ValueError(str(error).replace(str(path), name)) from error
        history = History(identity, name, ending, origin)
        with self.lock:
            self._pictures[identity] = history
            self._write()
        return history

    def discard(self, identity: str) -> None:
        """Take a picture out of the session, with its history."""
        history = self.picture(identity)
        with self.lock:
            del self._pictures[identity]
            self._write()
        self.store.path(history).unlink(missing_ok=True)

    def path_of(self, identity: str) -> str:
        """The file of a picture, or the folder of the library; empty for an empty id."""
        if not identity:
            return ""
        if identity == LIBRARY:
            if self.library is None:
                raise ValueError("there is no concept library in this session")
            return self.library_folder
        return str(self.store.path(self.picture(identity)))

    def has(self, identity: str) -> bool:
        """Whether there is a picture of this id."""
        with self.lock:
            return identity in self._pictures

    def restart(self, identity: str, *steps: Step, like: History | None = None) -> History:
        """Begin the history of a picture anew, as slots were given for it.

        Args:
            identity: The picture.
            *steps: The states of the new history.
            like: A history whose name and current state it gets.
        """
        history = self.picture(identity)
        with self.lock:
            self._editors.pop((identity, None), None)
            history.steps, history.position = list(steps), 0
            if like is not None:
                history.name, history.position = like.name, like.position
            self._write()
        return history

    # Slots

    def open(self, identity: str) -> History:
        """Find the slots of a picture, if that is still to be done, which begins its history."""
        history = self.picture(identity)
        if not history.steps:
            count = self.editor(history, None).scene.slots.shape[1]
            with self.lock:
                if not history.steps:
                    state = EditState(num_slots=count, sampling=self.sampling)
                    history.steps.append(Step("open", state))
                    self._write()
        return history

    def editor(self, history: History, area: Area | None) -> Editor:
        """The picture with its slots in a square."""
        key = (history.id, area)
        with self.lock:
            if key in self._editors:
                self._editors.move_to_end(key)
                return self._editors[key]
        file = open_image_file(self.store.path(history), area)
        slots = self.store.slots_path(history) if area is None else ""
        with self.painter.lock:
            editor = Editor(
                self.pipe, file, seed=self.sampling.seed, slots=slots, others=self.others
            )
        with self.lock:
            self._editors[key] = editor
            while len(self._editors) > MAX_EDITORS:
                self._editors.popitem(last=False)
        return editor

    def edit_of(self, identity: str, state: EditState | None = None) -> tuple[Editor, SlotEdit]:
        """The edit of a picture's slots, in its current state or another one.

        Raises:
            ValueError: If something that it names does not exist (any more).
        """
        history = self.open(identity)
        state = state or history.state
        editor = self.editor(history, state.area)
        with self.painter.lock:  # other pictures may have to be encoded
            edit = editor.parse(state.arguments(self.path_of))
        return editor, edit

    # History

    def change(
        self,
        identity: str,
        label: str,
        function: Callable[[EditState], EditState],
        *,
        merge: bool = False,
    ) -> History:
        """Append a state to the history of a picture.

        Args:
            identity: The picture.
            label: What leads to the state, such as `remove`.
            function: Makes it from the current one (`edit_state`).
            merge: Replace the current state, if the same led to it, as while a slider is dragged.

        Raises:
            ValueError: If the change is not possible; nothing has changed then.
        """
        history = self.open(identity)
        with self.lock:
            state = function(history.state)
            self.edit_of(identity, state)  # which refuses what cannot be
            history.push(label, state, merge=merge)
            self._write()
        return history

    def set_area(self, identity: str, area: Area | None) -> History:
        """Edit another square of a picture; its things are others, so the edit starts anew there.

        Raises:
            ValueError: If it is no square in the picture.
        """
        history = self.open(identity)
        with Image.open(self.store.path(history)) as image:
            size = to_rgb(image).size
        if area is not None:
            check_area(area, size)
            area = None if area == central_square(size) else area
        count = self.editor(history, area).scene.slots.shape[1]
        with self.lock:
            old = history.state
            state = EditState(num_slots=count, area=area, sampling=old.sampling, invert=old.invert)
            history.push("area", state)
            self._write()
        return history

    def go(self, identity: str, position: int) -> History:
        """Undo or redo up to a state of the history.

        Raises:
            ValueError: If there is no such state.
        """
        history = self.open(identity)
        with self.lock:
            history.go(position)
            self._write()
        return history

    # Painting

    def key(self, history: History, state: EditState | None = None) -> str:
        """The name of the result of a state."""
        facts = {"state": (state or history.state).to_dict(), **self._provenance}
        return self.store.result_key(history.id, facts)

    def is_painted(self, history: History) -> bool:
        """Whether the current state has been painted, or needs none."""
        return not history.state.changes or self.store.has_result(self.key(history))

    def run(
        self,
        identity: str,
        progress: Progress,
        *,
        state: EditState | None = None,
        preview: bool = False,
    ) -> dict[str, Any]:
        """Paint a state of a picture, unless that has been done.

        Args:
            identity: The picture.
            progress: Called after every step; what it raises ends painting.
            state: The state; the current one if `None`.
            preview: Paint in a few steps, for a first impression.

        Returns:
            The `key` of the result.

        Raises:
            ValueError: If the model cannot paint.
        """
        self.painter.check()
        history = self.open(identity)
        state = state or history.state
        if preview:
            sampling = replace(state.sampling, num_inference_steps=PREVIEW_STEPS)
            state = replace(state, sampling=sampling)
        key = self.key(history, state)
        if not self.store.has_result(key):
            editor, edit = self.edit_of(identity, state)
            edited, weight = self.painter.edit(editor, edit, state, progress)
            self.store.put_result(key, edited[0], weight[0])
        return {"key": key}

    def image(self, identity: str, key: str = "") -> Image.Image:
        """A picture with a result, at its own size.

        Args:
            identity: The picture.
            key: The name of the result; by default that of the newest painted state up to the
                current one, or the picture as it was.

        Raises:
            ValueError: If there is no such picture or result.
        """
        history = self.picture(identity)
        editor_area = history.state.area if history.steps else None
        if not key:
            shown = history.steps[self.shown(history)].state if history.steps else None
            if shown is None or not shown.changes:
                return open_image_file(self.store.path(history)).original
            key, editor_area = self.key(history, shown), shown.area
        elif not self.store.has_result(key):
            raise ValueError(f"there is no result {key!r}")
        original = open_image_file(self.store.path(history)).original
        return paste_into(original, *self.store.result(key), editor_area)

    def shown(self, history: History) -> int:
        """The newest state up to the current one that is painted, or needs no painting."""
        for position in range(history.position, 0, -1):
            state = history.steps[position].state
            if not state.changes or self.store.has_result(self.key(history, state)):
                return position
        return 0


def _check_size(encoded: bytes, name: str) -> None:
    """Refuse a picture of too many pixels, before they are decoded."""
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
