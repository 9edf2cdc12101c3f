"""Edit image files object by object."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Generator
from tqdm.auto import tqdm

from latentslots import editing
from latentslots.config.sampling import Sampling
from latentslots.data.transforms import to_rgb
from latentslots.files import atomic_folder, check_output_dir, write_json
from latentslots.fingerprint import content_hash
from latentslots.pipelines.edit import SlotEdit
from latentslots.pipelines.full_size import Area
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import use_sampling
from latentslots.pipelines.slot_output import SlotOutput, upsample_masks
from latentslots.visualize import grid, overlay, slot_strip, to_pil
from latentslots.workflows.image_files import ImageFile, open_image_file
from latentslots.workflows.provenance import BatchResult, finished, image_provenance, read_facts
from latentslots.workflows.scenes import (
    SLOTS_FILE,
    encode_files,
    load_scene,
    save_scene,
    scene_facts,
)

EDITED_FILE = "edited.png"
FACTS_FILE = "edited.json"
AT = re.compile(r"at(\d*)", re.ASCII)
SIGNED = r"[+-]?[0-9]+(?:\.[0-9]+)?"


@dataclass(frozen=True, kw_only=True)
class EditArguments:
    """An edit of a scene, as the command line describes it.

    A slot is a number, or `at` (`at1`, `at2`, ...): the slot under a pixel of `at`. All numbers are
    those of the scene before the edit. Another scene is an image file, or the `slots.safetensors`
    of one.

    Attributes:
        remove: Slots to remove.
        replace: `SLOT=OTHER:SLOT`.
        insert: `OTHER:SLOT`.
        place: `OTHER:SLOT=X,Y`: the same, centered at a pixel of the image.
        move: `SLOT=+X,-Y`: to the right and down, in pixels of the image.
        scale: `SLOT=FACTOR`.
        swap_background: Another scene, whose background replaces this one's.
        at: Pixels `X,Y` of the image, which `at1`, `at2`, ... stand for.
    """

    remove: Sequence[str] = ()
    replace: Sequence[str] = ()
    insert: Sequence[str] = ()
    place: Sequence[str] = ()
    move: Sequence[str] = ()
    scale: Sequence[str] = ()
    swap_background: str = ""
    at: Sequence[str] = ()

    def others(self) -> list[str]:
        """The other scenes that slots are taken from."""
        named = [text.partition("=")[2] for text in self.replace]
        placed = [text.rpartition("=")[0] for text in self.place]
        named = [text.rpartition(":")[0] for text in (*named, *self.insert, *placed)]
        return sorted({*named, self.swap_background} - {""})


class Editor:
    """An image, its scene, and the other scenes that slots are taken from.

    Args:
        pipe: The pipeline.
        file: The image.
        seed: Seed of the slot noise of this image and all others.
        slots: A file with the image's slots; the image is encoded when absent.
    """

    def __init__(
        self,
        pipe: LatentSlotDiffusionPipeline,
        file: ImageFile,
        *,
        seed: int = 0,
        slots: str | Path = "",
    ) -> None:
        self.pipe, self.file, self.seed = pipe, file, seed
        self.fingerprint = pipe.fingerprint()
        self.pixel_values = pipe.preprocess(file.seen)
        if slots:
            self.scene = load_scene(slots, self.fingerprint)
            seen = scene_facts(Path(slots)).get("seen")
            if seen not in (None, list(file.square)):
                left, top, right, _ = seen
                raise ValueError(
                    f"{slots} holds the slots of the square {left},{top},{right - left},"
                    f"{right - left} of its image: pass it as the area"
                )
        else:
            (self.scene,) = encode_files(pipe, [file], seed=seed)
        self._others: dict[str, SlotOutput] = {}

    def slots_at(self, at: Sequence[str]) -> list[int]:
        """The slots under pixels `X,Y` of the image."""
        masks = self.file.masks(self.scene.masks[0])[None]
        pixels = [self.file.to_square(*_pixel(text)) for text in at]
        return [int(editing.select(masks, at=pixel)) for pixel in pixels]

    def parse(self, arguments: EditArguments) -> SlotEdit:
        """Convert arguments of the command line to an edit of the slots.

        Raises:
            ValueError: If an argument cannot be parsed, or a slot, pixel or scene does not exist.
        """
        pointed = self.slots_at(arguments.at)
        background = self._other(arguments.swap_background) if arguments.swap_background else None
        replace = []
        for text in arguments.replace:
            slot, equals, source = text.partition("=")
            if not equals:
                raise ValueError(
                    f"--replace takes SLOT=OTHER:SLOT, such as 2=b.png:5, got {text!r}"
                )
            replace.append((self._number(slot, self.scene, pointed), *self._other_slot(source)))
        return SlotEdit.of(
            self.scene,
            background=background,
            replace=replace,
            insert=[self._other_slot(text) for text in arguments.insert],
            place=[self._placed(text) for text in arguments.place],
            move=[self._moved(text, pointed) for text in arguments.move],
            scale=[self._scaled(text, pointed) for text in arguments.scale],
            remove=[self._number(text, self.scene, pointed) for text in arguments.remove],
            size=(self.pixel_values.shape[2], self.pixel_values.shape[3]),
        )

    def apply(
        self,
        edit: SlotEdit,
        sampling: Sampling,
        *,
        inversion: bool,
        blending: bool,
        full_size: bool = True,
    ) -> Image.Image:
        """The image after an edit; see `LatentSlotDiffusionPipeline.edit`."""
        image: Image.Image = self.pipe.edit(
            self.file.original,
            edit,
            full_size=full_size,
            area=self.file.area,
            inversion=inversion,
            blending=blending,
            guidance_scale=sampling.guidance_scale,
            num_inference_steps=sampling.num_inference_steps,
            generator=Generator().manual_seed(sampling.seed),
        ).images[0]
        return image

    def strip(self, after: Image.Image) -> Image.Image:
        """The image before and after an edit, and its slots with their numbers."""
        before = to_pil(self.pixel_values[0])
        if after.size != before.size:  # of the whole image: show the square that was edited
            after = to_rgb(after).crop(self.file.square).resize(before.size)
        masks = upsample_masks(self.scene.masks, (before.height, before.width))[0]
        tinted = overlay(before, masks.argmax(dim=0))
        slots = slot_strip(before, masks, with_image=False)
        return grid([[before, tinted, after], [slots]], captions=["before, slots, after", "slots"])

    def _other(self, name: str) -> SlotOutput:
        if name not in self._others:
            if name.endswith(".safetensors"):
                self._others[name] = load_scene(name, self.fingerprint)
            else:
                file = open_image_file(name)
                (self._others[name],) = encode_files(self.pipe, [file], seed=self.seed)
        return self._others[name]

    def _other_slot(self, text: str) -> tuple[SlotOutput, int]:
        """Another scene, and the number of one of its slots."""
        name, colon, number = text.rpartition(":")
        if not colon or not name:
            raise ValueError(f"a slot of another scene is FILE:SLOT, such as b.png:5, got {text!r}")
        scene = self._other(name)
        return scene, self._number(number, scene, [])

    def _placed(self, text: str) -> tuple[SlotOutput, int, tuple[float, float]]:
        """Another scene, the number of one of its slots, and the point for its center."""
        source, equals, pixel = text.rpartition("=")
        if not equals:
            raise ValueError(f"--place takes OTHER:SLOT=X,Y, such as b.png:5=40,20, got {text!r}")
        left, _, right, _ = self.file.square
        x, y = (2 * (p + 0.5) / (right - left) - 1 for p in self.file.to_square(*_pixel(pixel)))
        return (*self._other_slot(source), (x, y))

    def _moved(self, text: str, pointed: list[int]) -> tuple[int, tuple[float, float]]:
        """A slot, and how far it moves, in halves of the square that the model sees."""
        slot, _, distance = text.partition("=")
        match = re.fullmatch(rf"\s*({SIGNED})\s*,\s*({SIGNED})\s*", distance)
        if match is None:
            raise ValueError(
                "--move takes SLOT=X,Y, pixels to the right and down, such as 3=+12,-4, "
                f"got {text!r}"
            )
        left, _, right, _ = self.file.square
        x, y = (2 * float(pixels) / (right - left) for pixels in match.groups())
        return self._number(slot, self.scene, pointed), (x, y)

    def _scaled(self, text: str, pointed: list[int]) -> tuple[int, float]:
        """A slot, and its factor."""
        slot, _, factor = text.partition("=")
        match = re.fullmatch(rf"\s*({SIGNED})\s*", factor)
        if match is None or float(factor) <= 0:
            raise ValueError(
                f"--scale takes SLOT=FACTOR, a factor above 0, such as 3=1.4, got {text!r}"
            )
        return self._number(slot, self.scene, pointed), float(factor)

    def _number(self, text: str, scene: SlotOutput, pointed: list[int]) -> int:
        count = scene.slots.shape[1]
        match = AT.fullmatch(text.strip())
        if match is not None:
            number = int(match[1] or 1)
            if not 1 <= number <= len(pointed):
                raise ValueError(f"{text!r} means pixel {number} of --at, which has {len(pointed)}")
            return pointed[number - 1]
        if not text.strip().isdecimal() or int(text) >= count:
            raise ValueError(f"there is no slot {text!r}: the scene has slots 0 to {count - 1}")
        return int(text)


def edit_files(
    pipe: LatentSlotDiffusionPipeline,
    paths: list[Path],
    output_dir: Path,
    arguments: EditArguments,
    sampling: Sampling,
    *,
    inversion: bool = False,
    blending: bool = True,
    slots: str = "",
    area: Area | None = None,
    full_size: bool = True,
    progress: bool = True,
) -> BatchResult:
    """Apply one edit to image files, with a folder of results for each.

    `output_dir/NAME` gets `edited.png`, of the size of the image, `strip.png` (before, slots,
    after), `slots.safetensors` (the slots after the edit), and `edited.json`, which records how it
    was made. Images that
    already have results made in the same way from the same files are skipped.

    Args:
        pipe: The pipeline; it keeps the sampler.
        paths: Image files with different names.
        output_dir: The folder of results.
        arguments: The edit.
        sampling: How images are sampled. All draw slot noise and starting noise from the same seed.
        inversion: Start from the noise of the image itself (DDIM inversion).
        blending: Keep the image where the edit does not change it.
        slots: A file with the slots of the one image; it is encoded when absent.
        area: The square of every image that is edited; by default the central one.
        full_size: Whether images keep their size; otherwise the edited square has the model's.
        progress: Whether to show a progress bar on stderr.
    """
    use_sampling(pipe, sampling)
    settings: dict[str, Any] = {
        **_lists(asdict(arguments)),
        "inversion": inversion,
        "blending": blending,
        "slots": slots,
        "area": None if area is None else list(area),
        "full_size": full_size,
        "others": {name: content_hash(name) for name in (*arguments.others(), slots) if name},
        **asdict(sampling),
        **image_provenance(pipe),
    }
    provenance = {path: {**settings, "sha256": content_hash(path)} for path in paths}
    known = finished(provenance, lambda path: read_facts(output_dir / path.stem / FACTS_FILE))
    missing = [path for path in paths if path not in known]
    for path in missing:
        check_output_dir(output_dir / path.stem, mark=EDITED_FILE)
    result = BatchResult(skipped=[path.stem for path in known])
    for path in tqdm(missing, disable=not progress, unit="image"):
        try:
            editor = Editor(pipe, open_image_file(path, area), seed=sampling.seed, slots=slots)
            edit = editor.parse(arguments)
        except ValueError as error:
            message = str(error)
            result.problems.append(message if str(path) in message else f"{path}: {message}")
            continue
        after = editor.apply(
            edit, sampling, inversion=inversion, blending=blending, full_size=full_size
        )
        with atomic_folder(output_dir / path.stem, mark=EDITED_FILE) as folder:
            after.save(folder / EDITED_FILE, exif=after.getexif())
            editor.strip(after).save(folder / "strip.png")
            facts = {"seed": sampling.seed, "seen": list(editor.file.square)}
            save_scene(edit.after, folder / SLOTS_FILE, editor.fingerprint, **facts)
            write_json(folder / FACTS_FILE, {"image": path.name, **provenance[path]})
        result.done.append(path.stem)
    return result


def slots_under(
    pipe: LatentSlotDiffusionPipeline,
    paths: list[Path],
    at: Sequence[str],
    *,
    seed: int = 0,
    slots: str = "",
    area: Area | None = None,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Find the slots under pixels of image files, and list the files that cannot be read.

    Returns:
        For each image, by name, the number of its `slots` and the slots under the pixels (`at`);
        and a sentence for each file that cannot be read.
    """
    pointed: dict[str, dict[str, Any]] = {}
    problems = []
    for path in paths:
        try:
            editor = Editor(pipe, open_image_file(path, area), seed=seed, slots=slots)
            numbers = editor.slots_at(at)
        except ValueError as error:
            problems.append(str(error))
            continue
        pointed[path.stem] = {"slots": editor.scene.slots.shape[1], "at": numbers}
    return pointed, problems


def parse_area(text: str) -> Area:
    """Parse an area X,Y,W,H of an image.

    Raises:
        ValueError: If it is not four numbers, or not a square.
    """
    match = re.fullmatch(r"\s*" + r"\s*,\s*".join([r"(-?[0-9]+)"] * 4) + r"\s*", text)
    if match is None:
        raise ValueError(f"an area is X,Y,W,H, such as 300,120,400,400, got {text!r}")
    x, y, width, height = map(int, match.groups())
    if width != height:
        raise ValueError(
            f"an area must be a square, of as many pixels in width as in height, got {text!r}"
        )
    return (x, y, x + width, y + height)


def _pixel(text: str) -> tuple[int, int]:
    """Parse a pixel X,Y."""
    match = re.fullmatch(r"\s*(-?[0-9]+)\s*,\s*(-?[0-9]+)\s*", text)
    if match is None:
        raise ValueError(f"a pixel is X,Y, such as 120,64, got {text!r}")
    return int(match[1]), int(match[2])


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    """Convert tuples to lists, as JSON returns them."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
