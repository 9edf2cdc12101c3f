"""Edits as the command line describes them: `--move 3=+12,-4 --replace 2=other.png:5`."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from latentslots.pipelines.full_size import Area

SIGNED = r"\s*([+-]?[0-9]+(?:\.[0-9]+)?)\s*"
WHOLE = r"\s*(-?[0-9]+)\s*"


@dataclass(frozen=True, kw_only=True)
class EditArguments:
    """An edit of a scene, as the command line describes it.

    A slot is a number, or `at` (`at1`, `at2`, ...): the slot under a pixel of `at`. All numbers are
    those of the scene before the edit. OTHER is another scene: an image file, the
    `slots.safetensors` of one, or the folder of a concept library, whose slots are its concepts
    (`concepts:5`, or `concepts:5.2` for the third of its crops).

    Attributes:
        remove: Slots to remove.
        remove_like: `OTHER:SLOT`: the slot most like it is removed.
        replace: `SLOT=OTHER:SLOT`.
        exchange: `SLOT=OTHER:SLOT`: the same, in the place of the old one.
        mix: `SLOT=OTHER:SLOT,WEIGHT`: the same, by a weight from 0 to 1.
        insert: `OTHER:SLOT`.
        place: `OTHER:SLOT=X,Y`, or `OTHER:SLOT=X,Y,FACTOR`: the same, centered at a pixel of the
            image, and scaled.
        copy: `SLOT=X,Y`, or `SLOT=X,Y,FACTOR`: a copy of a slot of this image.
        move: `SLOT=+X,-Y`: to the right and down, in pixels of the image.
        scale: `SLOT=FACTOR`.
        swap_background: Another scene, whose background replaces this one's.
        at: Pixels `X,Y` of the image, which `at1`, `at2`, ... stand for.
    """

    remove: Sequence[str] = ()
    remove_like: Sequence[str] = ()
    replace: Sequence[str] = ()
    exchange: Sequence[str] = ()
    mix: Sequence[str] = ()
    insert: Sequence[str] = ()
    place: Sequence[str] = ()
    copy: Sequence[str] = ()
    move: Sequence[str] = ()
    scale: Sequence[str] = ()
    swap_background: str = ""
    at: Sequence[str] = ()

    def others(self) -> list[str]:
        """The other scenes that slots are taken from."""
        things = [text.partition("=")[2] for text in (*self.replace, *self.exchange)]
        things += [text.partition("=")[2].rpartition(",")[0] for text in self.mix]
        things += [text.rpartition("=")[0] for text in self.place]
        names = [text.rpartition(":")[0] for text in (*things, *self.insert, *self.remove_like)]
        return sorted({*names, self.swap_background} - {""})

    def flags(self) -> list[str]:
        """The flags of `latentslots edit` that describe this edit."""
        flags = []
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            values = [values] if isinstance(values, str) and values else values
            if values:
                flags += ["--" + field.name.replace("_", "-"), *values]
        return flags


def parse_thing(text: str) -> tuple[str, str]:
    """Parse OTHER:SLOT, a slot of another scene.

    Raises:
        ValueError: If it is not of this form, as in the following.
    """
    name, colon, number = text.rpartition(":")
    if not colon or not name:
        raise ValueError(f"a slot of another scene is FILE:SLOT, such as b.png:5, got {text!r}")
    return name, number


def parse_exchange(text: str, flag: str) -> tuple[str, tuple[str, str]]:
    """Parse SLOT=OTHER:SLOT."""
    slot, equals, source = text.partition("=")
    if not equals:
        raise ValueError(f"--{flag} takes SLOT=OTHER:SLOT, such as 2=b.png:5, got {text!r}")
    return slot, parse_thing(source)


def parse_mix(text: str) -> tuple[str, tuple[str, str], float]:
    """Parse SLOT=OTHER:SLOT,WEIGHT."""
    rest, comma, weight = text.rpartition(",")
    match = re.fullmatch(SIGNED, weight)
    if not comma or match is None or not 0 <= float(match[1]) <= 1:
        raise ValueError(
            "--mix takes SLOT=OTHER:SLOT,WEIGHT, a weight from 0 to 1, such as 2=b.png:5,0.4, "
            f"got {text!r}"
        )
    return (*parse_exchange(rest, "mix"), float(match[1]))


def parse_place(text: str, flag: str, example: str) -> tuple[str, tuple[int, int], float]:
    """Parse WHAT=X,Y or WHAT=X,Y,FACTOR: what is placed, the pixel, and its new size by its old."""
    what, _, place = text.rpartition("=")
    match = re.fullmatch(f"{WHOLE},{WHOLE}(?:,{SIGNED})?", place)
    if not what or match is None:
        raise ValueError(
            f"--{flag} takes {example}=X,Y, a pixel, or {example}=X,Y,FACTOR, got {text!r}"
        )
    factor = float(match[3] or 1)
    if factor <= 0:
        raise ValueError(f"a slot is scaled by a factor above 0, got {text!r}")
    return what, (int(match[1]), int(match[2])), factor


def parse_move(text: str) -> tuple[str, tuple[float, float]]:
    """Parse SLOT=X,Y."""
    slot, _, distance = text.partition("=")
    match = re.fullmatch(f"{SIGNED},{SIGNED}", distance)
    if match is None:
        raise ValueError(
            f"--move takes SLOT=X,Y, pixels to the right and down, such as 3=+12,-4, got {text!r}"
        )
    return slot, (float(match[1]), float(match[2]))


def parse_scale(text: str) -> tuple[str, float]:
    """Parse SLOT=FACTOR."""
    slot, _, factor = text.partition("=")
    match = re.fullmatch(SIGNED, factor)
    if match is None or float(match[1]) <= 0:
        raise ValueError(
            f"--scale takes SLOT=FACTOR, a factor above 0, such as 3=1.4, got {text!r}"
        )
    return slot, float(match[1])


def parse_pixel(text: str) -> tuple[int, int]:
    """Parse a pixel X,Y."""
    match = re.fullmatch(f"{WHOLE},{WHOLE}", text)
    if match is None:
        raise ValueError(f"a pixel is X,Y, such as 120,64, got {text!r}")
    return int(match[1]), int(match[2])


def parse_area(text: str) -> Area:
    """Parse an area X,Y,W,H of an image.

    Raises:
        ValueError: If it is not four numbers, or not a square.
    """
    match = re.fullmatch(",".join([WHOLE] * 4), text)
    if match is None:
        raise ValueError(f"an area is X,Y,W,H, such as 300,120,400,400, got {text!r}")
    x, y, width, height = map(int, match.groups())
    if width != height:
        raise ValueError(
            f"an area must be a square, of as many pixels in width as in height, got {text!r}"
        )
    return (x, y, x + width, y + height)
