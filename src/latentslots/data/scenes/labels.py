"""Attributes of the objects in a frame, with MOVi's names.

Three are not MOVi's: `occlusion`, the fraction of an object's projection that others hide;
`truncation`, the fraction that is outside the image; and `apparent_width`, the width of the whole
projection as a fraction of the image's width. `image_positions` and `bboxes` are fractions of the
image's sides. A box is (y_min, x_min, y_max, x_max) of the visible pixels, 0 if there are none.
`visibility` is the number of visible pixels.
"""

from typing import Any

import numpy as np
from datasets import ClassLabel, List, Value
from jaxtyping import Int

from latentslots.data.importers.boxes import bounding_box
from latentslots.data.scenes.figures import PARTS, Figure, Part
from latentslots.data.scenes.layout import (
    COLORS,
    MATERIALS,
    NUM_VARIANTS,
    SHAPES,
    SIZES,
    TEXTURES,
    Kind,
    Scene,
    apparent_width,
    silhouettes,
)
from latentslots.data.scenes.textures import mean_color

CAMERA_COLUMNS = {
    "camera_position": List(Value("float32"), length=3),
    "camera_quaternion": List(Value("float32"), length=4),
    "camera_field_of_view": Value("float32"),
}


def attribute_features(kind: Kind) -> dict[str, Any]:
    """HF feature of every attribute of an object."""
    number, point = Value("float32"), List(Value("float32"), length=3)
    if kind == "parts":
        return {
            "category": ClassLabel(names=list(PARTS)),
            "shape_label": ClassLabel(names=list(SHAPES)),
            "color_label": ClassLabel(names=list(COLORS)),
            "texture_label": ClassLabel(names=["plain", *TEXTURES]),
            "color": point,
            "scale": number,
            "pose": number,
            "bboxes": List(Value("float32"), length=4),
            "visibility": Value("int32"),
        }
    appearance = (
        {"color_label": ClassLabel(names=list(COLORS))}
        if kind == "scenes"
        else {"texture_label": ClassLabel(names=list(TEXTURES))}
    )
    return {
        "category": ClassLabel(names=list(SHAPES)),
        "shape_label": ClassLabel(names=list(SHAPES)),
        "size_label": ClassLabel(names=list(SIZES)),
        "material_label": ClassLabel(names=list(MATERIALS)),
        **appearance,
        "color": point,
        "scale": number,
        "positions": point,
        "quaternions": List(Value("float32"), length=4),
        "bboxes_3d": List(point, length=8),
        "image_positions": List(Value("float32"), length=2),
        "bboxes": List(Value("float32"), length=4),
        "visibility": Value("int32"),
        "occlusion": number,
        "truncation": number,
        "apparent_width": number,
    }


def attributes(scene: Scene, ids: Int[np.ndarray, "H W"]) -> dict[str, list[Any]]:
    """Compute the attributes of the objects in a scene; item i belongs to the object with id i + 1.

    Args:
        scene: The scene.
        ids: Its rendered segmentation.
    """
    masks, areas = silhouettes(scene.camera, scene.objects, len(ids))
    rows = []
    for index, thing in enumerate(scene.objects):
        visible = ids == index + 1
        hidden = masks[index] & ~visible & (ids != 0)
        projected = max(1, masks[index].sum())
        family = TEXTURES[thing.texture // NUM_VARIANTS]
        plain = thing.texture < 0
        center = scene.camera.project(np.array([thing.position]))[0]
        rows.append(
            {
                "category": thing.shape,
                "shape_label": thing.shape,
                "size_label": thing.size_label,
                "material_label": thing.material,
                **({"color_label": thing.color_label} if plain else {"texture_label": family}),
                "color": list(thing.color if plain else mean_color(thing.texture)),
                "scale": sum(thing.half_size) / 3,
                "positions": list(thing.position),
                "quaternions": list(thing.quaternion),
                "bboxes_3d": thing.corners().tolist(),
                "image_positions": center.tolist(),
                "bboxes": bounding_box(visible),
                "visibility": int(visible.sum()),
                "occlusion": float(hidden.sum() / projected),
                "truncation": float(max(0, 1 - masks[index].mean() / areas[index])),
                "apparent_width": apparent_width(scene.camera, thing),
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def part_attributes(figure: Figure, ids: Int[np.ndarray, "H W"]) -> dict[str, list[Any]]:
    """Compute the attributes of all parts of a figure, including a removed one.

    `scale` is from 0, the smallest of its kind, to 1; for a texture, `color_label` is the nearest
    color.

    Args:
        figure: The figure.
        ids: Its rendered segmentation.
    """
    rows = []
    for number, (name, part) in enumerate(zip(PARTS, figure.parts, strict=True), start=1):
        color = _mean_color(part)
        apart = {label: np.abs(np.subtract(color, named)).sum() for label, named in COLORS.items()}
        textured = part.texture >= 0
        visible = ids == number
        rows.append(
            {
                "category": name,
                "shape_label": part.shape,
                "color_label": min(apart, key=apart.__getitem__),
                "texture_label": TEXTURES[part.texture // NUM_VARIANTS] if textured else "plain",
                "color": list(color),
                "scale": part.size,
                "pose": part.pose,
                "bboxes": bounding_box(visible),
                "visibility": int(visible.sum()),
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _mean_color(part: Part) -> tuple[float, float, float]:
    return part.color if part.texture < 0 else mean_color(part.texture)


def camera_columns(scene: Scene) -> dict[str, Any]:
    """Pose and field of view of the camera, which looks along its own negative z, as in MOVi."""
    camera = scene.camera
    return {
        "camera_position": camera.position.tolist(),
        "camera_quaternion": camera.quaternion.tolist(),
        "camera_field_of_view": camera.field_of_view,
    }
