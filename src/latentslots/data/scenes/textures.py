"""Procedural textures: families of patterns with variants, the same on every machine."""

import colorsys
from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8

from latentslots.data.scenes.layout import NUM_VARIANTS, TEXTURES


@cache
def texture(number: int, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Generate a texture that tiles seamlessly; it is cached, and therefore read-only.

    Args:
        number: Number of the texture: the variants of each family in a row, in the order of
            `TEXTURES`.
        size: Side in pixels.
    """
    family, variant = divmod(number, NUM_VARIANTS)
    random = np.random.default_rng([family, variant])
    axis = (np.arange(size) + 0.5) / size
    y, x = np.meshgrid(axis, axis, indexing="ij")
    share = _PATTERNS[TEXTURES[family]](x, y, random)[..., None]
    dark, light = _colors(random)
    pixels = np.round((1 - share) * dark + share * light).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


def mean_color(number: int) -> tuple[float, float, float]:
    """Average color of a texture, in [0, 1]."""
    red, green, blue = texture(number, 32).mean(axis=(0, 1)) / 255
    return float(red), float(green), float(blue)


def _colors(random: np.random.Generator) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    hue = random.uniform()
    other = hue + random.choice([0.0, 0.08, 0.5]) + random.uniform(-0.04, 0.04)
    dark = colorsys.hsv_to_rgb(hue, random.uniform(0.4, 1), random.uniform(0.2, 0.5))
    light = colorsys.hsv_to_rgb(other % 1, random.uniform(0.1, 0.8), random.uniform(0.75, 1))
    return 255 * np.array(dark), 255 * np.array(light)


Plane = Float[np.ndarray, "S S"]


def _checker(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    count = random.integers(2, 5)
    return (np.floor(2 * count * x) + np.floor(2 * count * y)) % 2


def _stripes(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    across, down = [(3, 0), (0, 4), (2, 2), (4, 2), (1, 3), (5, 1)][random.integers(6)]
    return ((across * x + down * y) % 1 < random.uniform(0.35, 0.65)).astype(float)


def _dots(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    count = random.integers(3, 6)
    away = np.hypot((count * x) % 1 - 0.5, (count * y) % 1 - 0.5)
    return (away < random.uniform(0.22, 0.4)).astype(float)


def _bricks(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    rows = 2 * random.integers(2, 4)
    row = np.floor(rows * y)
    joint = ((rows * y) % 1 < 0.18) | ((rows / 2 * x + 0.5 * (row % 2)) % 1 < 0.09)
    return 1.0 - joint


def _clouds(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    field = np.zeros_like(x)
    for _ in range(14):
        across, down = random.integers(-4, 5, 2)
        phase, strength = random.uniform(), 1 / (1 + np.hypot(across, down))
        field += strength * np.cos(2 * np.pi * (across * x + down * y + phase))
    low, high = np.quantile(field, [0.02, 0.98])
    return np.clip((field - low) / max(high - low, 1e-9), 0, 1)


def _wood(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    bend = 0.12 * np.sin(2 * np.pi * (y + random.uniform()))
    bend += 0.05 * np.sin(2 * np.pi * (3 * y + random.uniform()))
    return 0.5 + 0.5 * np.sin(2 * np.pi * (random.integers(4, 8) * (x + bend)))


def _rings(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    away = np.hypot((2 * x) % 1 - 0.5, (2 * y) % 1 - 0.5)
    return ((random.integers(4, 7) * away) % 1 < 0.5).astype(float)


def _waves(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    bend = random.uniform(0.06, 0.14) * np.sin(2 * np.pi * (2 * x + random.uniform()))
    return ((random.integers(3, 6) * (y + bend)) % 1 < 0.5).astype(float)


_PATTERNS: dict[str, Callable[[Plane, Plane, np.random.Generator], Plane]] = {
    "checker": _checker,
    "stripes": _stripes,
    "dots": _dots,
    "bricks": _bricks,
    "clouds": _clouds,
    "wood": _wood,
    "rings": _rings,
    "waves": _waves,
}
