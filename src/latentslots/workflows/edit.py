"""Edit picture files object by object."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Generator, Tensor
from tqdm.auto import tqdm

from latentslots import editing
from latentslots.files import atomic_folder, check_output_dir
from latentslots.fingerprint import content_hash
from latentslots.pipelines.base import upsample_masks
from latentslots.pipelines.edit import paint_edit
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.visualize import grid, overlay, slot_strip, to_pil
from latentslots.workflows.image_files import Picture, open_picture
from latentslots.workflows.provenance import Outcome, facts_made_alike, painted_by, write_facts
from latentslots.workflows.scenes import SLOTS_FILE, Scene, find_scenes, load_scene, save_scene

EDITED_FILE = "edited.png"
FACTS_FILE = "edited.json"
AT = re.compile(r"at(\d*)")


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What is to be done to one scene, in the words of the command line.

    A slot is a number, or `at` (`at1`, `at2`, ...): the slot under a pixel of `at`. All numbers
    are those of the scene before the edit. Another scene is a picture file, or the
    `slots.safetensors` of one.

    Attributes:
        remove: Slots.
        replace: `SLOT=OTHER:SLOT`.
        insert: `OTHER:SLOT`.
        swap_background: Another scene, whose background is taken.
        at: Pixels `X,Y` of the original picture.
    """

    remove: Sequence[str] = ()
    replace: Sequence[str] = ()
    insert: Sequence[str] = ()
    swap_background: str = ""
    at: Sequence[str] = ()

    def others(self) -> list[str]:
        """The other scenes that parts are taken from."""
        named = [text.partition("=")[2] for text in self.replace]
        named = [text.rpartition(":")[0] for text in (*named, *self.insert)]
        return sorted({*named, self.swap_background} - {""})


@dataclass(frozen=True)
class Edited:
    """A scene after its edit.

    Attributes:
        scene: Its slots, and where they should be: those that came from elsewhere are where they
            were there.
        changed: Where something was or shall be, in the pixels that the model sees.
    """

    scene: Scene
    changed: Bool[Tensor, "1 H W"]


class Editor:
    """One picture, its slots, and the other scenes that parts are taken from.

    Args:
        pipe: The pipeline.
        picture: The picture.
        seed: Of slot noise, for the picture and all others, and of the noise that is painted from.
        slots: The picture's slots as they were saved; found anew when absent.
    """

    def __init__(
        self,
        pipe: LatentSlotDiffusionPipeline,
        picture: Picture,
        *,
        seed: int = 0,
        slots: str | Path = "",
    ) -> None:
        self.pipe, self.picture, self.seed = pipe, picture, seed
        self.fingerprint = pipe.fingerprint()
        self.pixel_values = pipe.preprocess(picture.image)
        if slots:
            self.scene = load_scene(slots, self.fingerprint)
        else:
            (self.scene,) = find_scenes(pipe, [picture], seed=seed)
        self._others: dict[str, Scene] = {}

    def slots_at(self, at: Sequence[str]) -> list[int]:
        """The slots under pixels `X,Y` of the picture."""
        masks = self.picture.masks(self.scene.masks)[None]
        found = []
        for text in at:
            match = re.fullmatch(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*", text)
            if match is None:
                raise ValueError(f"a pixel is X,Y, such as 120,64, got {text!r}")
            x, y = self.picture.to_square(int(match[1]), int(match[2]))
            found.append(int(editing.select(masks, at=(x, y))))
        return found

    def apply(self, edits: Edits) -> Edited:
        """Edit the slots; the picture's own numbers hold until all is done.

        Raises:
            ValueError: If a word is not understood, or there is no such slot, pixel or scene.
        """
        named = self.slots_at(edits.at)
        whole, ground = _join(self.scene), int(editing.background(self.scene.masks[None]))
        changed = torch.zeros_like(self._owned(self.scene, 0))
        if edits.swap_background:
            other = self._other(edits.swap_background)
            theirs = int(editing.background(other.masks[None]))
            whole = editing.replace(whole, ground, _join(other)[:, theirs])
            changed |= self._owned(self.scene, ground)  # what stands before it stays
        for text in edits.replace:
            mine, equals, source = text.partition("=")
            if not equals:
                raise ValueError(
                    f"--replace takes SLOT=OTHER:SLOT, such as 2=b.png:5, got {text!r}"
                )
            slot = self._number(mine, self.scene, named)
            other, theirs = self._part(source)
            whole = editing.replace(whole, slot, _join(other)[:, theirs])
            changed |= self._owned(self.scene, slot) | self._owned(other, theirs)
        for text in edits.insert:
            other, theirs = self._part(text)
            whole = editing.insert(whole, _join(other)[:, theirs])
            changed |= self._owned(other, theirs)
        gone = [self._number(text, self.scene, named) for text in edits.remove]
        for slot in gone:
            changed |= self._owned(self.scene, slot)
        return Edited(_split(editing.remove(whole, gone), self.scene), changed)

    def paint(self, edited: Edited, **options: Any) -> Image.Image:
        """The picture after an edit; see `paint_edit` for the options."""
        (image,) = paint_edit(
            self.pipe,
            self.pixel_values,
            self.scene.slots,
            edited.scene.slots,
            edited.changed,
            generator=[Generator().manual_seed(self.seed)],
            **options,
        )
        assert isinstance(image, Image.Image)
        return image

    def strip(self, after: Image.Image) -> Image.Image:
        """The picture, its slots by number, and the picture after the edit."""
        before = to_pil(self.pixel_values[0])
        size = (before.height, before.width)
        masks = upsample_masks(self.scene.masks[None], size)[0]
        tinted = overlay(before, masks.argmax(dim=0))
        seen = slot_strip(before, masks, with_image=False)
        return grid([[before, tinted, after], [seen]], captions=["before, slots, after", "slots"])

    def _owned(self, scene: Scene, slot: int) -> Tensor:
        """The pixels of a slot, `[1, H, W]`."""
        height, width = self.pixel_values.shape[-2:]
        masks = upsample_masks(scene.masks[None], (height, width))
        return masks.argmax(dim=1) == slot

    def _other(self, name: str) -> Scene:
        if name not in self._others:
            if name.endswith(".safetensors"):
                self._others[name] = load_scene(name, self.fingerprint)
            else:
                (scene,) = find_scenes(self.pipe, [open_picture(name)], seed=self.seed)
                self._others[name] = scene
        return self._others[name]

    def _part(self, text: str) -> tuple[Scene, int]:
        """Another scene, and the number of one of its slots."""
        name, colon, number = text.rpartition(":")
        if not colon or not name:
            raise ValueError(f"a slot of another scene is FILE:SLOT, such as b.png:5, got {text!r}")
        scene = self._other(name)
        return scene, self._number(number, scene, [])

    def _number(self, text: str, scene: Scene, named: list[int]) -> int:
        count = scene.slots.shape[1]
        match = AT.fullmatch(text.strip())
        if match is not None:
            place = int(match[1] or 1)
            if not 1 <= place <= len(named):
                raise ValueError(f"{text!r} means pixel {place} of --at, which has {len(named)}")
            return named[place - 1]
        if not text.strip().isdigit() or int(text) >= count:
            raise ValueError(f"there is no slot {text!r}: the scene has slots 0 to {count - 1}")
        return int(text)


@dataclass(frozen=True, kw_only=True)
class Painting:
    """How edited pictures are painted; see `paint_edit`.

    Attributes:
        inversion: Start from the picture's own noise.
        blending: Keep what was not edited.
        guidance_scale: Above 1, the slots are followed more closely.
        num_inference_steps: Denoising steps.
    """

    inversion: bool = False
    blending: bool = True
    guidance_scale: float = 1.0
    num_inference_steps: int = 25


def edit_files(
    pipe: LatentSlotDiffusionPipeline,
    paths: list[Path],
    output_dir: Path,
    edits: Edits,
    painting: Painting,
    *,
    seed: int = 0,
    slots: str = "",
    progress: bool = True,
) -> Outcome:
    """Edit pictures alike, each into a folder of its own.

    `output_dir/NAME` gets `edited.png`, `strip.png` (before, slots, after), `slots.safetensors`
    (the slots after the edit), and `edited.json`, which says how it was made. What is there already
    and was made in the same way, of the same files, is skipped.

    Args:
        pipe: Finds the slots, and paints.
        paths: Picture files of different names.
        output_dir: Where the folders go.
        edits: What is done to each.
        painting: How it is painted.
        seed: Of slot noise, and of the noise that is painted from.
        slots: The slots of the one picture as they were saved; found anew when absent.
        progress: Whether to show a progress bar on stderr.
    """
    how = {**asdict(edits), **asdict(painting), "seed": seed, "slots": slots}
    how["others"] = {name: content_hash(name) for name in (*edits.others(), slots) if name}
    alike = {**painted_by(pipe), **{name: _plain(value) for name, value in how.items()}}
    made_by = {path: {**alike, "sha256": content_hash(path)} for path in paths}
    outcome = Outcome()
    waiting = []
    for path in paths:
        if facts_made_alike(output_dir / path.stem / FACTS_FILE, made_by[path]) is None:
            check_output_dir(output_dir / path.stem, mark=EDITED_FILE)
            waiting.append(path)
        else:
            outcome.skipped.append(path.stem)
    for path in tqdm(waiting, disable=not progress, unit="image"):
        try:
            editor = Editor(pipe, open_picture(path), seed=seed, slots=slots)
            edited = editor.apply(edits)
        except ValueError as error:
            text = str(error)
            outcome.problems.append(text if str(path) in text else f"{path}: {text}")
            continue
        after = editor.paint(edited, **asdict(painting))
        with atomic_folder(output_dir / path.stem, mark=EDITED_FILE) as folder:
            after.save(folder / EDITED_FILE)
            editor.strip(after).save(folder / "strip.png")
            save_scene(edited.scene, folder / SLOTS_FILE, editor.fingerprint, seed=seed)
            write_facts(folder / FACTS_FILE, {"image": path.name, **made_by[path]})
        outcome.done.append(path.stem)
    return outcome


def slots_under(
    pipe: LatentSlotDiffusionPipeline,
    paths: list[Path],
    at: Sequence[str],
    *,
    seed: int = 0,
    slots: str = "",
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The slots under pixels of pictures, and a sentence for each that cannot be read.

    Returns:
        For each picture's name the number of its `slots`, and those under the pixels (`at`).
    """
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for path in paths:
        try:
            editor = Editor(pipe, open_picture(path), seed=seed, slots=slots)
            under = editor.slots_at(at)
        except ValueError as error:
            problems.append(str(error))
            continue
        found[path.stem] = {"slots": editor.scene.slots.shape[1], "at": under}
    return found, problems


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _join(scene: Scene) -> Tensor:
    """Slots with their masks behind them, so that an edit moves both: `[1, K, D + h w]`."""
    return torch.cat([scene.slots, scene.masks.flatten(1)[None]], dim=2)


def _split(whole: Tensor, like: Scene) -> Scene:
    """The other way; the masks sum to 1 again."""
    width = like.slots.shape[2]
    masks = whole[0, :, width:].unflatten(1, like.masks.shape[1:])
    return Scene(whole[:, :, :width], masks / masks.sum(dim=0).clamp_min(1e-6))
