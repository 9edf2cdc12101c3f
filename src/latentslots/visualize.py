"""Figures of images and slots: palettes, overlays, slot strips, grids and curves.

Functions take images as PIL images, as numpy arrays `[H, W, 3]` (uint8, or floating point in
[0, 1]), or as tensors of pixel values `[3, H, W]` in [-1, 1]. They return PIL images.

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

ImageLike = Image.Image | np.ndarray | Tensor
"""Anything that `to_pil` converts to an image."""

_WHITE = (255, 255, 255)
_CAPTION_SIZE = 14
_NUM_COLORS = 512


def palette(num_colors: int) -> UInt8[np.ndarray, "K 3"]:
    """Colors that are easy to distinguish. Color i is the same for every `num_colors`.

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
        segmentation: Ids, 0 or above. From id 512 on, colors repeat.
    """
    ids = np.asarray(segmentation)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"a segmentation must be integers [H, W], got {ids.dtype} {list(ids.shape)}"
        )
    return Image.fromarray(_all_colors()[ids.astype(np.int64) % _NUM_COLORS])


def overlay(
    image: ImageLike, segmentation: Integer[Tensor, "H W"] | np.ndarray, *, alpha: float = 0.5
) -> Image.Image:
    """Tint an image with the colors of its segmentation.

    Args:
        image: The image.
        segmentation: Ids, of the size of the image.
        alpha: From 0, the image alone, to 1, the colors alone.
    """
    image, colors = to_pil(image), colorize(segmentation)
    if image.size != colors.size:
        raise ValueError(
            f"the segmentation must have the size of its image, {image.height}x{image.width}, "
            f"got {colors.height}x{colors.width}"
        )
    return Image.blend(image, colors, alpha)


def slot_strip(
    image: ImageLike,
    masks: Float[Tensor, "K h w"] | np.ndarray,
    *,
    with_image: bool = True,
    background: tuple[int, int, int] = _WHITE,
    gap: int = 2,
) -> Image.Image:
    """Show an image and, beside it, the part of it in the mask of each slot.

    Args:
        image: The image.
        masks: Soft masks in [0, 1], of any size; they are resized bilinearly.
        with_image: Whether the image itself is the first tile.
        background: Color outside of the masks.
        gap: Pixels between the tiles.
    """
    image = to_pil(image)
    backdrop = Image.new("RGB", image.size, background)
    tiles = [image] if with_image else []
    for mask in masks:
        soft = Image.fromarray(np.asarray(mask, dtype=np.float32))
        soft = soft.resize(image.size, Image.Resampling.BILINEAR)
        opacity = Image.fromarray((np.asarray(soft).clip(0, 1) * 255).round().astype(np.uint8))
        tiles.append(Image.composite(image, backdrop, opacity))
    return grid([tiles], gap=gap)


def slot_crop(image: ImageLike, mask: Float[Tensor, "H W"], size: int) -> Image.Image:
    """Cut out the square around the mask of a slot, white outside of the mask.

    Args:
        image: The image.
        mask: The slot's soft mask, of the size of the image.
        size: Side of the result, in pixels.
    """
    inside = (mask >= mask.max() / 2).nonzero()
    (top, left), (bottom, right) = inside.amin(dim=0).tolist(), inside.amax(dim=0).tolist()
    half = (max(bottom - top, right - left) + 1) * 0.6
    y, x = (top + bottom + 1) / 2, (left + right + 1) / 2
    corners = [round(edge) for edge in (x - half, y - half, x + half, y + half)]
    page = Image.new("RGB", (corners[2] - corners[0], corners[3] - corners[1]), _WHITE)
    masked = slot_strip(image, mask[None].numpy(), with_image=False)
    page.paste(masked, (-corners[0], -corners[1]))
    return page.resize((size, size), Image.Resampling.BICUBIC)


def grid(
    rows: Sequence[Sequence[ImageLike]], *, captions: Sequence[str] | None = None, gap: int = 2
) -> Image.Image:
    """Arrange images in rows on a white page.

    Args:
        rows: Images of any sizes, from left to right. Rows may differ in length.
        captions: A line of text above each row.
        gap: Pixels between images.
    """
    images = [[to_pil(image) for image in row] for row in rows]
    if not any(images):
        raise ValueError("a grid requires at least one image")
    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"{len(rows)} rows require as many captions, got {len(captions)}")
    line = 0 if captions is None else _CAPTION_SIZE + 6
    widths = [sum(image.width + gap for image in row) - gap for row in images]
    heights = [line + max((image.height for image in row), default=0) for row in images]
    page = Image.new("RGB", (max(widths), sum(heights) + gap * (len(rows) - 1)), _WHITE)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_CAPTION_SIZE)
    top = 0
    for index, (row, height) in enumerate(zip(images, heights, strict=True)):
        if captions is not None:
            draw.text((2, top + 1), captions[index], fill=0, font=font)
        left = 0
        for image in row:
            page.paste(image, (left, top + line))
            left += image.width + gap
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
    """Plot logged numbers over the course of a run.

    Args:
        rows: Logged rows, such as the lines of a `metrics.jsonl`. Rows without a number for a key
            are left out of its line.
        keys: Keys to plot, one line each.
        x: Key of the horizontal axis.
        title: Above the axes.
        log_scale: Whether the vertical axis is logarithmic.

    Returns:
        An image of 700 x 400 pixels.
    """
    # Imported here, because matplotlib is slow to import and nothing else requires it.
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


def to_pil(image: ImageLike) -> Image.Image:
    """Convert an image to PIL, in RGB."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    return Image.fromarray(to_uint8(image))


def to_uint8(image: ImageLike) -> UInt8[np.ndarray, "H W 3"]:
    """Convert an image to an array of bytes.

    Values outside of their range, [-1, 1] for tensors and [0, 1] for arrays, are clipped.
    """
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(
                "an image as a tensor must be floating point [3, H, W] in [-1, 1], got "
                f"{image.dtype} {list(image.shape)}"
            )
        image = (image.detach().cpu().float().permute(1, 2, 0).numpy() + 1) / 2
    is_supported = image.dtype == np.uint8 or image.dtype.kind == "f"
    if image.ndim != 3 or image.shape[2] != 3 or not is_supported:
        raise ValueError(
            "an image as an array must be [H, W, 3], uint8 or floating point in [0, 1], got "
            f"{image.dtype} {list(image.shape)}"
        )
    if image.dtype == np.uint8:
        return image
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def png_bytes(image: ImageLike) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(image: ImageLike) -> str:
    """Encode an image as a data URI, to embed it in an HTML page."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")


def rgb_to_lab(pixels: UInt8[np.ndarray, "*shape 3"]) -> Float64[np.ndarray, "*shape 3"]:
    """Convert sRGB bytes to CIE L*a*b* under D65, in which distances match perceived differences.

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
    """Choose colors one by one, each as far as possible from all before it.

    Grays are excluded, because pages, shadows and captions have them, and so are colors that are so
    light or dark that they look gray.
    """
    levels = np.linspace(0, 255, 12).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = rgb_to_lab(cube)
    is_mid_tone = (lab[:, 0] >= 35) & (lab[:, 0] <= 85)
    cube, lab = cube[is_mid_tone], lab[is_mid_tone]
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
