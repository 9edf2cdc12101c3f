"""Opening the session that the editor starts with."""

import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentslots.config.sampling import Sampling
from latentslots.data.store.reader import load_dataset
from latentslots.workflows.image_files import find_image_files
from latentslots.workflows.session import Session

NUM_BUNDLED = 12
"""Bundled scenes that a new session begins with."""


@dataclass(frozen=True)
class OpenedSession:
    """A session, and what its user should hear of.

    Attributes:
        session: The session.
        notices: Sentences about it.
    """

    session: Session
    notices: list[str]


def open_session(
    pipe: Any,
    folder: str,
    *,
    images: Sequence[str] = (),
    library: str = "",
    sampling: Sampling | None = None,
) -> OpenedSession:
    """Open a session, and add pictures to it.

    Args:
        pipe: The model.
        folder: The folder of the session; by default one in the user's cache folder, or a temporary
            one where that cannot be written.
        images: Image files, and folders of them, to add. Without any, a session that has no
            pictures gets bundled scenes.
        library: The folder of a concept library; empty for none.
        sampling: How results are painted.

    Raises:
        ValueError: If there is no such image, the folder is in use or holds something else, or the
            library is of another pipeline.
    """
    paths = [path for one in images for path in find_image_files([one])]
    notices: list[str] = []
    session = Session(pipe, folder or _default_folder(notices), library=library, sampling=sampling)
    try:
        if session.forgotten:
            notices.append(
                "The session was one of another model, library, seed or way to infer slots, so the "
                f"histories of {session.forgotten} pictures begin anew."
            )
        for path in paths:
            try:
                session.add(path.read_bytes(), path.name, origin=str(path.absolute()))
            except (ValueError, OSError) as error:
                notices.append(f"{path.name} was left out: {error}.")
        if paths and not session.pictures:
            raise ValueError(f"none of the {len(paths)} images can be read: {notices[-1]}")
        if not session.pictures:
            _add_bundled(session)
        if not session.painter.can_edit:
            notices.append(
                f"This model, a {type(pipe).__name__}, finds things in pictures, but cannot paint "
                "edited ones."
            )
    except BaseException:
        session.close()
        raise
    return OpenedSession(session, notices)


def _default_folder(notices: list[str]) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "latentslots" / "session"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        temporary = Path(tempfile.mkdtemp(prefix="latentslots-"))
        notices.append(
            f"{folder} cannot be written ({error.strerror}), so the session is kept in "
            f"{temporary}; name another folder by --session."
        )
        return temporary
    return folder


def _add_bundled(session: Session) -> None:
    scenes = load_dataset("bundled", split="validation")
    for row in range(min(NUM_BUNDLED, len(scenes))):
        buffer = io.BytesIO()
        scenes[row]["image"].save(buffer, format="PNG")
        session.add(buffer.getvalue(), f"scene_{row:02d}.png")
