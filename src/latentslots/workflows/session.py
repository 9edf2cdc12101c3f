"""The editor without an interface: pictures, their slots, histories of edits, and painting.

Everything is kept in a folder (`session_store`), so that a session survives its process.

Dimensions: h w the square that the model sees.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from torch import Tensor

from latentslots.concepts import ConceptLibrary
from latentslots.config.sampling import Sampling
from latentslots.data.store.encoding import IMAGE_SUFFIXES
from latentslots.pipelines.full_size import Area, central_square, check_area, paste_into
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.pipelines.slot_output import SlotOutput
from latentslots.workflows.edit import Editor
from latentslots.workflows.edit_state import LIBRARY, EditState, parse_scene_name
from latentslots.workflows.image_files import open_image_file
from latentslots.workflows.jobs import Progress
from latentslots.workflows.other_scenes import OtherScenes, source_hash
from latentslots.workflows.painter import Painter
from latentslots.workflows.provenance import image_provenance, slot_provenance
from latentslots.workflows.scenes import save_scene
from latentslots.workflows.session_store import History, SessionStore, Step, check_picture

MAX_EDITORS = 4
"""Pictures whose pixels and slots are kept in memory."""
PREVIEW_STEPS = 6
MAX_PREVIEWS = 16
"""Previews that are kept, in memory."""


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
        self._encoding = threading.Lock()
        self.others = OtherScenes(pipe, seed=self.sampling.seed, lock=self._encoding)
        self.forgotten = 0
        self.lock = threading.RLock()
        self._editors: OrderedDict[tuple[str, Any], Editor] = OrderedDict()
        self._previews: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        provenance = image_provenance if self.painter.can_edit else slot_provenance
        self._provenance = provenance(pipe)
        library_hash = source_hash(self.library_folder) if library else ""
        self._made_by = {
            **slot_provenance(pipe),
            "seed": self.sampling.seed,
            "library": library_hash,
        }
        self._pictures: dict[str, History] = {}
        self.store = SessionStore(Path(folder))
        try:
            self._restore()
        except BaseException:
            self.store.close()
            raise

    def close(self) -> None:
        """Let other processes use the folder."""
        self.store.close()

    def _restore(self) -> None:
        """Read the folder, and drop what this pipeline or library cannot continue."""
        histories, made_by = self.store.read()
        library = made_by.pop("library", "")
        known = {name: value for name, value in self._made_by.items() if name != "library"}
        for history in histories:
            names = {name for step in history.steps for name in step.state.scenes}
            other_library = LIBRARY in names and library != self._made_by["library"]
            if made_by != known or other_library:  # the numbers of slots or concepts mean others
                self.forgotten += len(history.steps) > 1
                history.steps, history.position, history.slots = [], 0, ""
        self._pictures = {history.id: history for history in histories}
        self.store.sweep({self.key(one, step.state) for one in histories for step in one.steps})

    def _write(self) -> None:
        self.store.write(list(self._pictures.values()), self._made_by)

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
        check_picture(encoded, name)
        ending = PurePosixPath(name).suffix.lower()
        ending = ending if ending in IMAGE_SUFFIXES else ".png"
        identity = self.store.put(encoded, ending)
        with self.lock:
            if identity in self._pictures:
                return self._pictures[identity]
        history = History(identity, name, ending, origin)
        with self.lock:
            self._pictures[identity] = history
            self._write()
        return history

    def discard(self, identity: str) -> None:
        """Take a picture out of the session, with its history.

        Raises:
            ValueError: If another picture has something of it.
        """
        history = self.picture(identity)
        with self.lock:
            for other in self._pictures.values():
                names = {name for step in other.steps for name in step.state.scenes}
                used = {parse_scene_name(name)[0] for name in names}
                if other is not history and identity in used:
                    raise ValueError(
                        f"{other.name} has something of {history.name}, also in its history: take "
                        "that out first"
                    )
            del self._pictures[identity]
            for key in [key for key in self._editors if key[0] == identity]:
                del self._editors[key]
            self._write()
        self.store.remove(history)

    def path_of(self, name: str) -> str:
        """The file of the scene that a source names, or the folder of the library.

        A picture's own file stands for its scene, unless slots were given for it, or the scene is
        that of another square; then a file of slots does.
        """
        if not name:
            return ""
        if name == LIBRARY:
            if self.library is None:
                raise ValueError("there is no concept library in this session")
            return self.library_folder
        identity, area = parse_scene_name(name)
        history = self.picture(identity)
        if area is None:
            return str(self.store.slots_path(history) or self.store.path(history))
        path = self.store.folder / "pictures" / f"{identity}-{name.partition('@')[2]}.safetensors"
        if not path.is_file():
            scene = self.editor(history, area).scene
            save_scene(scene, path, self.fingerprint, seed=self.sampling.seed, seen=list(area))
        return str(path)

    def has(self, identity: str) -> bool:
        """Whether there is a picture of this id."""
        with self.lock:
            return identity in self._pictures

    def restart(self, identity: str, slots: str, *steps: Step, like: History | None = None) -> None:
        """Begin the history of a picture anew, as slots were given for it.

        Args:
            identity: The picture.
            slots: The name of their file; empty for the picture's own.
            *steps: The states of the new history.
            like: A history whose name and current state it gets.
        """
        history = self.picture(identity)
        with self.lock:
            self._editors.pop((identity, None), None)
            history.slots, history.steps, history.position = slots, list(steps), 0
            if like is not None:
                history.name, history.position = like.name, like.position
            self._write()

    # Slots

    def encode(self, function: Callable[[Any], SlotOutput]) -> SlotOutput:
        """Call a function that encodes with the pipeline, while nobody else encodes."""
        with self._encoding:
            return function(self.pipe)

    def check_made_by(self, made_by: dict[str, Any]) -> None:
        """Refuse a session whose numbers of slots or concepts mean others here.

        Raises:
            ValueError: If they do.
        """
        for name, value in self._made_by.items():
            if made_by.get(name) != value and not (name == "library" and not made_by.get(name)):
                raise ValueError(
                    "it was made with another model, seed, library, or way to infer slots"
                )

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
        with self._encoding:
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
        try:
            return editor, editor.parse(state.arguments(self.path_of))
        except ValueError as error:
            raise ValueError(str(error).replace(str(editor.file.path), history.name)) from error

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
        while True:
            before = history.state
            state = function(before)
            self.edit_of(identity, state)  # which refuses what cannot be, and may take a while
            with self.lock:
                if history.state is before:
                    merge = merge and not self.store.has_result(self.key(history))
                    history.push(label, state, merge=merge)
                    self._write()
                    return history

    def set_area(self, identity: str, area: Area | None) -> History:
        """Edit another square of a picture; its things are others, so the edit starts anew there.

        Raises:
            ValueError: If it is no square in the picture.
        """
        history = self.open(identity)
        size = self.editor(history, history.state.area).file.image.size
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
        state = state or history.state
        given = {name: self._slots_of(name) for name in sorted(state.scenes)}
        facts = {"state": state.to_dict(), "slots": history.slots, "given": given}
        facts |= self._provenance
        return self.store.result_key(history.id, facts)

    def _slots_of(self, name: str) -> str:
        """What a scene's slots depend on, apart from the model and the picture."""
        if name == LIBRARY:
            return str(self._made_by["library"])
        known = self._pictures.get(parse_scene_name(name)[0])
        return known.slots if known is not None else ""

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
        if not self.store.has_result(key) and key not in self._previews:
            editor, edit = self.edit_of(identity, state)
            edited, weight = self.painter.edit(editor, edit, state, progress)
            if preview:
                self._previews[key] = (edited[0], weight[0])
                while len(self._previews) > MAX_PREVIEWS:
                    self._previews.popitem(last=False)
            else:
                self.store.put_result(key, edited[0], weight[0])
        return {"key": key}

    def image(self, identity: str, key: str = "") -> Image.Image:
        """A picture with a result, at its own size; as its file has it where nothing is edited.

        Args:
            identity: The picture.
            key: The name of the result or preview; by default that of the newest painted state up
                to the current one.

        Raises:
            ValueError: If there is no such picture or result.
        """
        history = self.picture(identity)
        state = history.steps[self.shown(history)].state if history.steps else None
        original = open_image_file(self.store.path(history)).original
        if not key:
            if state is None or not state.changes:
                return original
            key = self.key(history, state)
        else:
            state = history.state if history.steps else None
        result = self._previews.get(key) or self.store.result(key)
        return paste_into(original, *result, None if state is None else state.area)

    def shown(self, history: History) -> int:
        """The newest state up to the current one that is painted, or needs no painting."""
        for position in range(history.position, 0, -1):
            state = history.steps[position].state
            if not state.changes or self.store.has_result(self.key(history, state)):
                return position
        return 0
