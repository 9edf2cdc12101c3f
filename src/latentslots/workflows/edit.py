"""Edit image files object by object."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
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
from latentslots.pipelines.full_size import Area
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import use_sampling
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.pipelines.slot_output import upsample_masks
from latentslots.visualize import grid, overlay, slot_strip, to_pil
from latentslots.workflows.edit_arguments import (
    EditArguments,
    parse_exchange,
    parse_mix,
    parse_move,
    parse_pixel,
    parse_place,
    parse_scale,
    parse_thing,
)
from latentslots.workflows.image_files import ImageFile, open_image_file
from latentslots.workflows.other_scenes import OtherScenes, likeness, slot_number, source_hash
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


class Editor:
    """An image, its scene, and the other scenes that slots are taken from.

    Args:
        pipe: The pipeline; only Latent Slot Diffusion can `apply` an edit.
        file: The image.
        seed: Seed of the slot noise of this image and all others.
        slots: A file with the image's slots; the image is encoded when absent.
        others: Reads the other scenes; by default a new one does.
    """

    def __init__(
        self,
        pipe: Any,
        file: ImageFile,
        *,
        seed: int = 0,
        slots: str | Path = "",
        others: OtherScenes | None = None,
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
        self.others = others or OtherScenes(pipe, seed=seed)

    def slots_at(self, at: Sequence[str]) -> list[int]:
        """The slots under pixels `X,Y` of the image."""
        masks = self.file.masks(self.scene.masks[0])[None]
        pixels = [self.file.to_square(*parse_pixel(text)) for text in at]
        return [int(editing.select(masks, at=pixel)) for pixel in pixels]

    def parse(self, arguments: EditArguments) -> SlotEdit:
        """Convert arguments of the command line to an edit of the slots.

        Raises:
            ValueError: If an argument cannot be parsed, or a slot, pixel or scene does not exist.
        """
        number = partial(self._number, pointed=self.slots_at(arguments.at))
        thing, ground = self.others.thing, arguments.swap_background
        like = [thing(*parse_thing(text)) for text in arguments.remove_like]
        remove = [number(text) for text in arguments.remove]
        if like:
            remove = sorted({*remove, *likeness(self.scene, like).argmax(dim=1).tolist()})
        exchanges = {
            flag: [
                (number(slot), *thing(*other))
                for slot, other in (parse_exchange(text, flag) for text in values)
            ]
            for flag, values in (
                ("replace", arguments.replace),
                ("exchange", arguments.exchange),
            )
        }
        mixes = map(parse_mix, arguments.mix)
        copies = [self._parse_place(text, "copy", "SLOT") for text in arguments.copy]
        placed = [self._parse_place(text, "place", "OTHER:SLOT") for text in arguments.place]
        return SlotEdit.of(
            self.scene,
            background=self.others.scene(ground) if ground else None,
            replace=exchanges["replace"],
            exchange=exchanges["exchange"],
            mix=[(number(slot), *thing(*other), weight) for slot, other, weight in mixes],
            insert=[thing(*parse_thing(text)) for text in arguments.insert],
            place=[(*thing(*parse_thing(what)), point, factor) for what, point, factor in placed],
            copy=[(number(slot), point, factor) for slot, point, factor in copies],
            move=[
                (number(slot), self._distance(pixels))
                for slot, pixels in map(parse_move, arguments.move)
            ],
            scale=[(number(slot), factor) for slot, factor in map(parse_scale, arguments.scale)],
            remove=remove,
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
        resample: int | None = None,
    ) -> Image.Image:
        """The image after an edit; see `LatentSlotDiffusionPipeline.edit` and `edit_files`."""
        image: Image.Image = self.pipe.edit(
            self.file.original,
            edit,
            full_size=full_size,
            area=self.file.area,
            inversion=inversion,
            blending=blending,
            guidance_scale=sampling.guidance_scale,
            num_inference_steps=sampling.num_inference_steps,
            generator=Generator().manual_seed(sampling.seed if resample is None else resample),
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

    def _parse_place(
        self, text: str, flag: str, example: str
    ) -> tuple[str, tuple[float, float], float]:
        """What is placed, the point for its center from -1 to 1, and its factor."""
        what, pixel, factor = parse_place(text, flag, example)
        left, _, right, _ = self.file.square
        x, y = (2 * (p + 0.5) / (right - left) - 1 for p in self.file.to_square(*pixel))
        return what, (x, y), factor

    def _distance(self, pixels: tuple[float, float]) -> tuple[float, float]:
        """A distance in pixels, in halves of the square that the model sees."""
        left, _, right, _ = self.file.square
        x, y = (2 * p / (right - left) for p in pixels)
        return x, y

    def _number(self, text: str, pointed: list[int]) -> int:
        match = AT.fullmatch(text.strip())
        if match is None:
            return slot_number(text, self.scene)
        number = int(match[1] or 1)
        if not 1 <= number <= len(pointed):
            raise ValueError(f"{text!r} means pixel {number} of --at, which has {len(pointed)}")
        return pointed[number - 1]


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
    resample: int | None = None,
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
        resample: Seed of the starting noise, for another result of the same edit.
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
        **({} if resample is None else {"resample": resample}),
        "others": {name: source_hash(name) for name in (*arguments.others(), slots) if name},
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
            edit,
            sampling,
            inversion=inversion,
            blending=blending,
            full_size=full_size,
            resample=resample,
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


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    """Convert tuples to lists, as JSON returns them."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
