"""Pictures of what a model found: palettes, overlays, slot strips, grids and curves.

Pictures come in as PIL images, as numpy arrays `[H, W, 3]` (uint8, or floating point in [0, 1]), or
as tensors of pixel values `[3, H, W]` in [-1, 1]. They go out as PIL images, one at a time: nothing
here holds more than one picture in floating point.

Dimensions: H W pixels, h w tokens, K slots.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float64, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Picture = Image.Image | np.ndarray | Tensor

_WHITE = (255, 255, 255)
_CAPTION_SIZE = 14
_NUM_COLORS = 512


def palette(num_colors: int) -> UInt8[np.ndarray, "K 3"]:
    """Colors that are easy to tell apart. Color i is the same whatever `num_colors` is.

    Args:
        num_colors: From 0 to 512.

    Example:
        >>> bool((palette(24)[:5] == palette(5)).all())
        True
    """
    if not 0 <= num_colors <= _NUM_COLORS:
        raise ValueError(f"num_colors must be between 0 and {_NUM_COLORS}, got {num_colors}")
    return _all_colors()[:num_colors].copy()


def colorize(segmentation: Integer[Tensor, "H W"] | np.ndarray) -> Image.Image:
    """Draw a segmentation in the colors of its ids.

    Args:
        segmentation: Ids, 0 or above. Ids from 512 on use the colors again.
    """
    ids = np.asarray(segmentation)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"a segmentation must be integers [H, W], got {ids.dtype} {list(ids.shape)}"
        )
    return Image.fromarray(_all_colors()[ids.astype(np.int64) % _NUM_COLORS])


def overlay(
    image: Picture, segmentation: Integer[Tensor, "H W"] | np.ndarray, *, alpha: float = 0.5
) -> Image.Image:
    """Tint an image with the colors of its segmentation.

    Args:
        image: The picture, see the head of this module.
        segmentation: Ids, of the size of the picture.
        alpha: From 0, the picture alone, to 1, the colors alone.
    """
    picture, colors = to_pil(image), colorize(segmentation)
    if picture.size != colors.size:
        raise ValueError(
            f"the segmentation must have the size of its image, {picture.height}x{picture.width}, "
            f"got {colors.height}x{colors.width}"
        )
    return Image.blend(picture, colors, alpha)


def slot_strip(
    image: Picture,
    masks: Float[Tensor, "K h w"] | np.ndarray,
    *,
    with_image: bool = True,
    background: tuple[int, int, int] = _WHITE,
    gap: int = 2,
) -> Image.Image:
    """Show an image and, beside it, what every slot sees of it.

    Args:
        image: The picture, see the head of this module.
        masks: Soft masks in [0, 1], of any size; they are resized bilinearly.
        with_image: Whether the image itself is the first tile.
        background: Color of what a slot does not see.
        gap: Pixels between the tiles.
    """
    picture = to_pil(image)
    backdrop = Image.new("RGB", picture.size, background)
    tiles = [picture] if with_image else []
    for mask in masks:
        soft = Image.fromarray(np.asarray(mask, dtype=np.float32))
        soft = soft.resize(picture.size, Image.Resampling.BILINEAR)
        opacity = Image.fromarray((np.asarray(soft).clip(0, 1) * 255).round().astype(np.uint8))
        tiles.append(Image.composite(picture, backdrop, opacity))
    return grid([tiles], gap=gap)


def slot_crop(image: Picture, mask: Float[Tensor, "H W"], size: int) -> Image.Image:
    """Cut out the square around what a slot sees, white where it sees nothing.

    Args:
        image: The picture, see the head of this module.
        mask: The slot's soft mask, of the size of the picture.
        size: Side of the result, in pixels.
    """
    places = (mask >= mask.max() / 2).nonzero()
    (top, left), (bottom, right) = places.amin(dim=0).tolist(), places.amax(dim=0).tolist()
    half = (max(bottom - top, right - left) + 1) * 0.6
    y, x = (top + bottom + 1) / 2, (left + right + 1) / 2
    corners = [round(edge) for edge in (x - half, y - half, x + half, y + half)]
    page = Image.new("RGB", (corners[2] - corners[0], corners[3] - corners[1]), _WHITE)
    seen = slot_strip(image, mask[None].numpy(), with_image=False)
    page.paste(seen, (-corners[0], -corners[1]))
    return page.resize((size, size), Image.Resampling.BICUBIC)


def grid(
    rows: Sequence[Sequence[Picture]], *, captions: Sequence[str] | None = None, gap: int = 2
) -> Image.Image:
    """Put pictures into rows on a white page.

    Args:
        rows: Pictures of any sizes, from left to right. Rows may differ in length.
        captions: A line of text above each row.
        gap: Pixels between pictures.
    """
    pictures = [[to_pil(picture) for picture in row] for row in rows]
    if not any(pictures):
        raise ValueError("a grid needs at least one picture")
    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"captions must name all {len(rows)} rows, got {len(captions)}")
    line = 0 if captions is None else _CAPTION_SIZE + 6
    widths = [sum(picture.width + gap for picture in row) - gap for row in pictures]
    heights = [line + max((picture.height for picture in row), default=0) for row in pictures]
    page = Image.new("RGB", (max(widths), sum(heights) + gap * (len(rows) - 1)), _WHITE)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_CAPTION_SIZE)
    top = 0
    for index, (row, height) in enumerate(zip(pictures, heights, strict=True)):
        if captions is not None:
            draw.text((2, top + 1), captions[index], fill=0, font=font)
        left = 0
        for picture in row:
            page.paste(picture, (left, top + line))
            left += picture.width + gap
        top += height + gap
    return page


def curve(
    rows: Iterable[Mapping[str, object]],
    keys: Sequence[str],
    *,
    x: str = "step",
    title: str = "",
    log_scale: bool = False,
) -> Image.Image:
    """Draw numbers over the course of a run.

    Args:
        rows: What was logged, such as the lines of a `metrics.jsonl`. A row without a key, or
            without a number there, is left out of that key's line.
        keys: What to draw, one line each.
        x: Key of the horizontal axis.
        title: Above the axes.
        log_scale: Whether the vertical axis is logarithmic.

    Returns:
        A picture of 700 x 400 pixels.
    """
    # Imported here, because the other pictures do without it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(rows)
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, color in zip(keys, palette(len(keys)), strict=True):
        points = [(row[x], row[key]) for row in rows if _is_number(row, x) and _is_number(row, key)]
        across, up = np.array(points, dtype=float).reshape(-1, 2).T
        axes.plot(across, up, color=color / 255, marker="." if len(points) < 30 else None)
    axes.set(xlabel=x, title=title, yscale="log" if log_scale else "linear")
    axes.grid(alpha=0.3)
    axes.legend(axes.lines, list(keys))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def to_pil(image: Picture) -> Image.Image:
    """Turn any picture that this module takes into an RGB image."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    return Image.fromarray(to_uint8(image))


def to_uint8(image: Picture) -> UInt8[np.ndarray, "H W 3"]:
    """Turn any picture that this module takes into an array of bytes.

    Numbers outside of their range, [-1, 1] for tensors and [0, 1] for arrays, are clipped.
    """
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(
                "a picture as a tensor must be floating point [3, H, W] in [-1, 1], got "
                f"{image.dtype} {list(image.shape)}"
            )
        image = (image.detach().cpu().float().permute(1, 2, 0).numpy() + 1) / 2
    is_known = image.dtype == np.uint8 or image.dtype.kind == "f"
    if image.ndim != 3 or image.shape[2] != 3 or not is_known:
        raise ValueError(
            "a picture as an array must be [H, W, 3], uint8 or floating point in [0, 1], got "
            f"{image.dtype} {list(image.shape)}"
        )
    if image.dtype == np.uint8:
        return image
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def png_bytes(image: Picture) -> bytes:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(image: Picture) -> str:
    """Encode a picture so that it can stand inside an HTML page."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")


def rgb_to_lab(pixels: UInt8[np.ndarray, "*shape 3"]) -> Float64[np.ndarray, "*shape 3"]:
    """Convert sRGB bytes to CIE L*a*b* under D65, in which distances are differences that we see.

    IEC 61966-2-1 for sRGB, ISO/CIE 11664-4 for L*a*b*.

    Example:
        >>> rgb_to_lab(np.array([255, 255, 255], dtype=np.uint8)).round().tolist()
        [100.0, 0.0, 0.0]
    """
    encoded = np.arange(256) / 255
    light = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = light[pixels] @ (to_xyz / to_xyz.sum(axis=1, keepdims=True)).T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    fx, fy, fz = np.moveaxis(f, -1, 0)
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=-1)


@lru_cache(maxsize=1)
def _all_colors() -> UInt8[np.ndarray, "512 3"]:
    """Choose colors one by one, each as far from all before it as can be.

    Grays count as taken, because pages, shadows and captions have them; so do colors that are so
    light or so dark that they pass for gray.
    """
    levels = np.linspace(0, 255, 12).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = rgb_to_lab(cube)
    is_middling = (lab[:, 0] >= 35) & (lab[:, 0] <= 85)
    cube, lab = cube[is_middling], lab[is_middling]
    gray = np.array([[lightness, 0, 0] for lightness in range(0, 101, 10)])
    distance = np.linalg.norm(lab[:, None] - gray, axis=2).min(axis=1)
    order: list[int] = []
    for _ in range(_NUM_COLORS):
        chosen = int(distance.argmax())
        order.append(chosen)
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen], axis=1))
        distance[chosen] = -1
    return cube[order]


def _is_number(row: Mapping[str, object], key: str) -> bool:
    value = row.get(key)
    return isinstance(value, (int, float)) and not isinstance(value, bool)
