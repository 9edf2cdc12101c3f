"""Conversion of MOVi's records, one per video, to rows, one per frame.

Dimensions: K objects, T frames.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Image, List, Value

from latentslots.data.errors import DataError
from latentslots.data.importers.tfrecord import Feature
from latentslots.data.store.encoding import decode
from latentslots.data.transforms import ResizeCenterCrop

VARIANTS = tuple(f"movi-{letter}" for letter in "abcdef")
LAYERS = ("depth", "normal", "object_coordinates", "forward_flow", "backward_flow")
"""Further maps of a frame, beside its image and segmentation."""
_FLOWS = ("forward_flow", "backward_flow")

_CATEGORIES = (
    "Action Figures", "Bag", "Board Games", "Bottles and Cans and Cups", "Camera", "Car Seat",
    "Consumer Goods", "Hat", "Headphones", "Keyboard", "Legos", "Media Cases", "Mouse", "None",
    "Shoe", "Stuffed Toys", "Toys",
)  # fmt: skip
_SHAPES = {
    "movi-a": ("cube", "cylinder", "sphere"),
    "movi-b": (
        "cube", "cylinder", "sphere", "cone", "torus", "gear", "torus_knot", "sponge", "spot",
        "teapot", "suzanne",
    ),
}  # fmt: skip
_COLORS = ("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow")

# Attributes of an object, constant in a video or with a value per frame, and their values' shapes.
_CONSTANT: dict[str, tuple[int, ...]] = {
    "mass": (),
    "friction": (),
    "restitution": (),
    "scale": (),
    "color": (3,),
}
_PER_FRAME: dict[str, tuple[int, ...]] = {
    "positions": (3,),
    "velocities": (3,),
    "angular_velocities": (3,),
    "quaternions": (4,),
    "bboxes_3d": (8, 3),
    "image_positions": (2,),
}


@dataclass(frozen=True, kw_only=True)
class MoviOptions:
    """How MOVi is imported.

    Attributes:
        variant: One of `VARIANTS`.
        every: Take every n-th frame, from the first on.
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
        layers: Names among `LAYERS` to keep; they cannot be resized.
    """

    variant: str
    every: int = 1
    resolution: int | None = None
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject values that are not allowed."""
        if self.variant not in VARIANTS:
            raise DataError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if self.every < 1:
            raise DataError(f"every must be at least 1, got {self.every}")
        unknown = sorted(set(self.layers) - set(LAYERS))
        if unknown:
            raise DataError(f"layers must be among {', '.join(LAYERS)}, got {unknown[0]!r}")
        if self.layers and self.resolution is not None:
            raise DataError(
                f"{self.layers[0]} cannot be resized: set either a resolution or layers"
            )


def columns(first: Mapping[str, Feature], options: MoviOptions) -> dict[str, Any]:
    """HF features of the columns beside image, segmentation and attributes.

    Args:
        first: Features of the first video.
        options: How videos are imported.

    Raises:
        DataError: If the video is not of MOVi, or lacks a layer.
    """
    missing = sorted({"video", "segmentations"} - set(first))
    if missing:
        raise DataError(f"the shards are not MOVi's: their records have no {missing[0]!r}")
    features: dict[str, Any] = {
        "camera_position": List(Value("float32"), length=3),
        "camera_quaternion": List(Value("float32"), length=4),
        "camera_field_of_view": Value("float32"),
        "camera_focal_length": Value("float32"),
    }
    if "camera/sensor_width" in first:
        features["camera_sensor_width"] = Value("float32")
    if "background" in first:
        features["background"] = Value("string")
    for layer in options.layers:
        if layer not in first:
            raise DataError(f"{options.variant} has no layer {layer!r} in these shards")
        features[layer] = Value("binary") if layer in _FLOWS else Image()
        if layer in (*_FLOWS, "depth"):
            features[f"{layer}_range"] = List(Value("float32"), length=2)
    return features


def attribute_features(variant: str, first: Mapping[str, Feature]) -> dict[str, Any]:
    """HF features of the attributes that the records have."""

    def tensor(shape: tuple[int, ...]) -> Any:
        feature: Any = Value("float32")
        for side in reversed(shape):
            feature = List(feature, length=side)
        return feature

    all_features: dict[str, Any] = {
        "category": ClassLabel(names=list(_CATEGORIES)),
        "shape_label": ClassLabel(names=list(_SHAPES.get(variant, ("none",)))),
        "size_label": ClassLabel(names=["small", "large"]),
        "material_label": ClassLabel(names=["metal", "rubber"]),
        "color_label": ClassLabel(names=list(_COLORS)),
        "asset_id": Value("string"),
        "is_dynamic": Value("bool"),
        **{name: tensor(shape) for name, shape in (_CONSTANT | _PER_FRAME).items()},
        "visibility": Value("int32"),
    }
    features = {
        name: feature for name, feature in all_features.items() if f"instances/{name}" in first
    }
    if "instances/bboxes/ragged_flat_values" in first:
        features["bboxes"] = tensor((4,))
    return features


def video_rows(video: Mapping[str, Feature], options: MoviOptions) -> Iterator[dict[str, Any]]:
    """Yield the rows of one video, one for every frame that is imported."""
    frames = video["video"].byte_strings()
    masks = video["segmentations"].byte_strings()
    num_frames, count = len(frames), int(video["metadata/num_instances"].ints()[0])
    name = video["metadata/video_name"].byte_strings()[0].decode()
    if len(masks) != num_frames:
        raise ValueError(f"it has {num_frames} frames but {len(masks)} segmentations")
    constant, per_frame = _attributes(video, num_frames, count, options.variant)
    camera = {
        "camera_position": video["camera/positions"].floats().reshape(num_frames, 3),
        "camera_quaternion": video["camera/quaternions"].floats().reshape(num_frames, 4),
        "camera_field_of_view": np.resize(video["camera/field_of_view"].floats(), num_frames),
        "camera_focal_length": np.resize(video["camera/focal_length"].floats(), num_frames),
    }
    if "camera/sensor_width" in video:
        width = video["camera/sensor_width"].floats()
        camera["camera_sensor_width"] = np.resize(width, num_frames)
    background = {}
    if "background" in video:
        background["background"] = video["background"].byte_strings()[0].decode()
    layers, ranges = _layers(video, options.layers, num_frames)
    crop = None if options.resolution is None else ResizeCenterCrop(options.resolution)
    for number in range(0, num_frames, options.every):
        image: Any = frames[number]
        ids: Any = masks[number]
        if crop is not None:
            image, ids = (
                decode({"bytes": encoded, "path": None}, where=f"frame {number} of {name}")
                for encoded in (image, ids)
            )
            image, ids = crop(image, ids)
        yield {
            "image": image,
            "segmentation": ids,
            "attributes": constant | {key: value[number] for key, value in per_frame.items()},
            "video": name,
            "frame": number,
            **{column: values[number] for column, values in camera.items()},
            **{layer: values[number] for layer, values in layers.items()},
            **ranges,
            **background,
        }


def _attributes(
    video: Mapping[str, Feature], num_frames: int, count: int, variant: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the constant attributes `[K, ...]` and those with a value per frame `[T, K, ...]`."""
    names = attribute_features(variant, video)
    constant: dict[str, Any] = {}
    per_frame: dict[str, Any] = {}
    for name in names:
        if name == "bboxes":
            per_frame[name] = _boxes(video, num_frames, count)
            continue
        values = video[f"instances/{name}"]
        if name in _CONSTANT:
            constant[name] = values.floats().reshape(count, *_CONSTANT[name])
        elif name in _PER_FRAME:
            shape = (count, num_frames, *_PER_FRAME[name])
            per_frame[name] = values.floats().reshape(shape).swapaxes(0, 1)
        elif name == "visibility":
            per_frame[name] = values.ints().reshape(count, num_frames).T
        elif name == "asset_id":
            constant[name] = [asset.decode() for asset in values.byte_strings()]
        elif name == "is_dynamic":
            constant[name] = values.ints().astype(bool)
        else:
            constant[name] = values.ints()
    for name, values in constant.items():
        if len(values) != count:
            raise ValueError(f"{count} objects have {len(values)} values of {name}")
    return constant, per_frame


def _boxes(video: Mapping[str, Feature], num_frames: int, count: int) -> np.ndarray:
    """Read boxes `[T, K, 4]`; a record lists those of frames in which the object is visible."""
    boxes = np.zeros((num_frames, count, 4), np.float32)
    flat = video["instances/bboxes/ragged_flat_values"].floats().reshape(-1, 4)
    frames = video["instances/bbox_frames/ragged_flat_values"].ints()
    lengths = video["instances/bbox_frames/ragged_row_lengths_0"].ints()
    if len(flat) != len(frames) or lengths.sum() != len(frames) or len(lengths) != count:
        raise ValueError(f"{len(flat)} boxes for {len(frames)} frames of {len(lengths)} objects")
    if len(frames) and not 0 <= frames.min() <= frames.max() < num_frames:
        raise ValueError(f"it has a box of frame {frames.max()}, but {num_frames} frames")
    boxes[frames, np.repeat(np.arange(count), lengths)] = flat
    return boxes


def _layers(
    video: Mapping[str, Feature], names: Sequence[str], num_frames: int
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Read the layers of every frame, and the ranges of values that they are scaled to."""
    layers: dict[str, list[Any]] = {}
    ranges: dict[str, Any] = {}
    for layer in names:
        if layer in _FLOWS:
            height, width = (
                int(video[f"metadata/{side}"].ints()[0]) for side in ("height", "width")
            )
            flow = video[layer].ints().astype(np.uint16).reshape(num_frames, height, width, 2)
            layers[layer] = [_npy(frame) for frame in flow]
        else:
            layers[layer] = [
                {"bytes": encoded, "path": None} for encoded in video[layer].byte_strings()
            ]
        if layer in (*_FLOWS, "depth"):
            ranges[f"{layer}_range"] = video[f"metadata/{layer}_range"].floats()
    return layers, ranges


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
