"""What is known of every object in a frame, under the names that MOVi gives it.

`occlusion` and `truncation` are ours: the share of an object's picture that others hide, and the
share that lies outside the image; so is `apparent_width`, the width of its whole picture as a
share of the image's. `image_positions` and `bboxes` are shares of the image's sides, a box being
(y_min, x_min, y_max, x_max) of the pixels in sight, and 0 where there are none. `visibility`
counts pixels.
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
    """The HF feature behind every attribute of an object."""
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
    """Describe the objects of a scene, item i the one with id i + 1, given who is seen where."""
    masks, areas = silhouettes(scene.camera, scene.objects, len(ids))
    rows = []
    for index, thing in enumerate(scene.objects):
        mine = ids == index + 1
        hidden = masks[index] & (ids != index + 1) & (ids != 0)
        alone = max(1, masks[index].sum())
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
                "bboxes": bounding_box(mine),
                "visibility": int(mine.sum()),
                "occlusion": float(hidden.sum() / alone),
                "truncation": float(max(0, 1 - masks[index].mean() / areas[index])),
                "apparent_width": apparent_width(scene.camera, thing),
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def part_attributes(figure: Figure, ids: Int[np.ndarray, "H W"]) -> dict[str, list[Any]]:
    """Describe the parts of a figure, also one that is missing, given who is seen where.

    `scale` goes from 0, the smallest of its kind, to 1; `color_label` is the nearest of a texture.
    """
    rows = []
    for number, (name, part) in enumerate(zip(PARTS, figure.parts, strict=True), start=1):
        color = _mean_color(part)
        apart = {label: np.abs(np.subtract(color, named)).sum() for label, named in COLORS.items()}
        textured = part.texture >= 0
        mine = ids == number
        rows.append(
            {
                "category": name,
                "shape_label": part.shape,
                "color_label": min(apart, key=apart.__getitem__),
                "texture_label": TEXTURES[part.texture // NUM_VARIANTS] if textured else "plain",
                "color": list(color),
                "scale": part.size,
                "pose": part.pose,
                "bboxes": bounding_box(mine),
                "visibility": int(mine.sum()),
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _mean_color(part: Part) -> tuple[float, float, float]:
    return part.color if part.texture < 0 else mean_color(part.texture)


def camera_columns(scene: Scene) -> dict[str, Any]:
    """Where a frame was seen from; the camera looks along its own negative z, as in MOVi."""
    camera = scene.camera
    return {
        "camera_position": camera.position.tolist(),
        "camera_quaternion": camera.quaternion.tolist(),
        "camera_field_of_view": camera.field_of_view,
    }
