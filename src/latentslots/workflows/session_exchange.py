"""Files that go in and out of an editing session: pictures, slots, masks, whole sessions.

Dimensions: K regions, H W pixels.
"""

import io
import json
import re
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from latentslots.config.conventions import UNSEEN
from latentslots.data.store.encoding import decode_ids
from latentslots.files import check_format
from latentslots.pipelines.slot_output import SlotOutput
from latentslots.workflows.edit_state import EditState
from latentslots.workflows.image_files import ImageFile, open_image_file
from latentslots.workflows.scenes import encode_regions, load_scene, save_scene, scene_facts
from latentslots.workflows.session import Session
from latentslots.workflows.session_store import (
    FORMAT,
    SESSION_FILE,
    History,
    Step,
    check_picture,
    content_id,
)
from latentslots.workflows.session_views import cutout, slot_map, things

PNG = b"\x89PNG\r\n\x1a\n"
PNG_LEVEL = 3
"""A photograph of 12 megapixels takes seconds at the usual level, and is a few percent smaller."""
MAX_UNPACKED = 2**30
"""Bytes of a session once it is unpacked."""
NO_SESSION = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    RuntimeError,  # encrypted archives, JSON that is nested too deeply
    NotImplementedError,
    OverflowError,
    EOFError,
)
"""What reading a file that is no session can raise."""
MAX_REGIONS = 64
RESULT = re.compile(r"results/[0-9a-f]{32}\.safetensors")


def export(session: Session, identity: str, what: str) -> tuple[str, bytes, str]:
    """A file to save.

    Args:
        session: The session.
        identity: The picture.
        what: `picture`, `masks`, `cutouts` or `slots`.

    Returns:
        A name for the file, its content, and its media type.

    Raises:
        ValueError: If there is no such file.
    """
    history = session.open(identity)
    stem = Path(history.name).stem
    if what == "picture":
        return f"{stem}.png", _png(session.image(identity)), "image/png"
    if what == "masks":
        return f"{stem}_ids.png", _png(id_map(session, identity)), "image/png"
    if what == "cutouts":
        return f"{stem}_cutouts.zip", _cutouts(session, identity), "application/zip"
    if what == "slots":
        editor, edit = session.edit_of(identity)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "slots.safetensors"
            facts = {"seed": session.sampling.seed, "seen": list(editor.file.square)}
            save_scene(edit.after, path, session.fingerprint, **facts)
            return f"{stem}_slots.safetensors", path.read_bytes(), "application/octet-stream"
    raise ValueError(f"picture, masks, cutouts and slots can be saved, not {what!r}")


def id_map(session: Session, identity: str) -> Image.Image:
    """The number of the thing in each pixel of a picture; 255 outside of the square."""
    history = session.open(identity)
    file = session.editor(history, history.state.area).file
    left, top, right, bottom = file.square
    ids = Image.fromarray(slot_map(session, identity))
    whole = Image.new("L", file.image.size, UNSEEN)
    whole.paste(ids.resize((right - left, bottom - top), Image.Resampling.NEAREST), (left, top))
    return whole


def _cutouts(session: Session, identity: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for view in things(session, identity):
            image = cutout(session, identity, view.number)
            archive.writestr(f"thing_{view.number:02d}.png", _png(image))
    return buffer.getvalue()


def give_slots(session: Session, identity: str, content: bytes) -> History:
    """Use given slots of a picture instead of those that the model finds; its history begins anew.

    Args:
        session: The session.
        identity: The picture.
        content: A file of slots, as `latentslots segment` writes it, or a PNG of ids, of the size
            of the picture.

    Raises:
        ValueError: If it is neither, or of another model or picture.
    """
    history = session.picture(identity)
    file = open_image_file(session.store.path(history))
    if content.startswith(PNG):
        regions = _regions(content, file)
        scene = session.encode(lambda pipe: encode_regions(pipe, file, regions))
    else:
        scene = _given_scene(session, content, file)
    facts = {"seed": session.sampling.seed, "seen": list(file.square)}
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "slots.safetensors"
        save_scene(scene, given, session.fingerprint, **facts)
        name = session.store.put_slots(history, given.read_bytes())
    state = EditState(num_slots=scene.slots.shape[1], sampling=session.sampling)
    session.restart(identity, name, Step("slots", state))
    return history


def _regions(content: bytes, file: ImageFile) -> Bool[Tensor, "K H W"]:
    """The regions of an id map, in the square that the model sees."""
    ids = np.asarray(decode_ids({"bytes": content, "path": None}, where="the id map"))
    width, height = file.image.size
    if ids.shape != (height, width):
        raise ValueError(
            f"an id map has one id in each of the {width} x {height} pixels of its picture, got "
            f"an image of shape {list(ids.shape)}"
        )
    left, top, right, bottom = file.square
    numbers = torch.from_numpy(ids[top:bottom, left:right].astype(np.int64))
    kept = [int(i) for i in numbers.unique() if i != UNSEEN]
    if not 1 <= len(kept) <= MAX_REGIONS:
        raise ValueError(f"an id map has 1 to {MAX_REGIONS} ids, got {len(kept)}")
    return torch.stack([numbers == i for i in kept])


def _given_scene(session: Session, content: bytes, file: ImageFile) -> SlotOutput:
    """The scene of a file of slots."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "slots.safetensors"
        given.write_bytes(content)
        try:
            scene = load_scene(given, session.fingerprint)
        except ValueError as error:
            raise ValueError(str(error).replace(str(given), "the file")) from error
        seen = scene_facts(given).get("seen", list(file.square))
    if seen != list(file.square):
        raise ValueError(f"the file holds the slots of another picture or square, {seen}")
    return scene


def pack(session: Session) -> bytes:
    """The whole session as a ZIP archive."""
    buffer, folder = io.BytesIO(), session.store.folder
    with session.lock, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        names = [SESSION_FILE]
        for history in session.pictures:
            files = [session.store.path(history), session.store.slots_path(history)]
            names += [str(Path(file).relative_to(folder)) for file in files if file]
            for step in history.steps:
                key = session.key(history, step.state)
                if step.state.changes and session.store.has_result(key):
                    names.append(f"results/{key}.safetensors")
        for name in dict.fromkeys(names):
            archive.write(folder / name, name)
    return buffer.getvalue()


def unpack(session: Session, content: bytes) -> list[History]:
    """Add the pictures of a packed session, with their histories.

    Raises:
        ValueError: If it is no session, or one of another model; nothing is added then.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED:
                raise ValueError(f"it is larger than {MAX_UNPACKED // 2**20} MB")
            index = json.loads(archive.read(SESSION_FILE))
            check_format(index.pop("format", None), FORMAT, "the session")
            session.check_made_by(index["made_by"])
            histories = [History.from_dict(one) for one in index["pictures"]]
            if len({one.id for one in histories}) < len(histories):
                raise ValueError("a picture is named twice")
            files = [archive.read(f"pictures/{one.id}{one.ending}") for one in histories]
            names = {one.slots for one in histories} - {""}
            slots = {name: archive.read(f"pictures/{name}.safetensors") for name in names}
            results = {
                name: archive.read(name) for name in archive.namelist() if RESULT.fullmatch(name)
            }
        for history, encoded in zip(histories, files, strict=True):
            session.store.check_id(history, encoded)
            check_picture(encoded, history.name)
        for name, one in slots.items():
            if name.partition("-")[2] != content_id(one):
                raise ValueError(f"the slots {name!r} are not those of their name")
    except NO_SESSION as error:
        raise ValueError(f"the file is no session that can be opened: {error}") from error
    added = []
    for history, encoded in zip(histories, files, strict=True):
        if session.has(history.id):
            continue
        if history.slots:
            path = f"pictures/{history.slots}.safetensors"
            session.store.write_file(path, slots[history.slots])
        new = session.add(encoded, history.id + history.ending)
        session.restart(new.id, history.slots, *history.steps, like=history)
        added.append(new)
    for name, one in results.items():
        session.store.write_file(name, one)
    return added


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {k: v for k, v in image.info.items() if k in ("exif", "icc_profile")}
    image.save(buffer, format="PNG", compress_level=PNG_LEVEL, **options)
    return buffer.getvalue()
