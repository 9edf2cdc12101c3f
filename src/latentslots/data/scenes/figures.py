"""Figures of exchangeable parts: images of a single object, to be segmented into its parts.

A figure stands on the ground and has a hat, a head, a body, arms and legs. Each part has its own
shape, size, appearance and pose. Its position follows from the part that it is attached to, so any
part of one figure fits any other. Lengths are in meters, angles in radians, z points up, and the
figure faces -y.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from latentslots.data.scenes.layout import (
    Camera,
    Scene,
    SceneObject,
    sample_appearance,
    sample_lights,
)

PARTS = ("hat", "head", "body", "arms", "legs")
PART_SHAPES = {
    "hat": ("cylinder", "box", "ellipsoid"),
    "head": ("sphere", "box", "ellipsoid"),
    "body": ("box", "cylinder", "ellipsoid"),
    "arms": ("capsule", "box"),
    "legs": ("capsule", "box", "cylinder"),
}
POSES = {
    "hat": (-0.15, 0.15),
    "head": (-0.3, 0.3),
    "body": (0.0, 0.0),
    "arms": (0.25, 2.4),
    "legs": (0.05, 0.4),
}
"""Range of the angle: to the side for hat and head, away from the vertical for limbs."""
_NEIGHBORS = {"body": "", "head": "body", "hat": "head", "arms": "body", "legs": "body"}
"""The part that each part is attached to; plain colors of the two differ, to show the border."""
_TEXTURED = ("hat", "body", "legs")
_TEXTURE_SHARE = 0.4
_PART_EDITS = ("removed", "replaced", "recolored", "ground")
_OFFSET = 70_000_000


@dataclass(frozen=True, kw_only=True)
class Part:
    """Shape, size, pose and appearance of a part, without its position.

    Attributes:
        shape: One of `PART_SHAPES`.
        size: In [0, 1], from the smallest to the largest.
        pose: Angle within `POSES`.
        color: Factor of the texture: white if there is a texture.
        color_label: Name of the color; empty if there is a texture.
        texture: Number of the texture; -1 for none.
    """

    shape: str
    size: float
    pose: float
    color: tuple[float, float, float]
    color_label: str
    texture: int

    def geom(
        self,
        half_size: tuple[float, float, float],
        position: tuple[float, float, float],
        angle: float,
    ) -> SceneObject:
        """Create an object of this part, rotated toward +x about the y axis."""
        x, y, z, w = Rotation.from_euler("y", angle).as_quat().tolist()
        return SceneObject(
            shape=self.shape,
            half_size=half_size,
            position=position,
            quaternion=(w, x, y, z),
            material="rubber",
            color=self.color,
            color_label=self.color_label,
            texture=self.texture,
        )


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure and its scene.

    Attributes:
        parts: The parts in the order of `PARTS`.
        scene: Camera, light and ground, without objects.
        missing: Name of the part that was removed; empty for none. The others keep their positions.
    """

    parts: tuple[Part, ...]
    scene: Scene
    missing: str = ""

    def build(self) -> tuple[Scene, list[int]]:
        """Create the scene to render, and for each of its objects the id of its part, from 1 on."""
        hat, head, body, arms, legs = self.parts
        leg = _stretch(legs, (0.10, 0.14), (0.32, 0.42))
        hip = 2 * leg[2] * math.cos(legs.pose)
        trunk = (_between(body, 0.26, 0.38), _between(body, 0.2, 0.26), _between(body, 0.36, 0.5))
        shoulder = hip + 2 * trunk[2] - 0.12
        arm = _stretch(arms, (0.08, 0.11), (0.28, 0.36))
        skull = (_between(head, 0.22, 0.3),) * 3
        neck = hip + 2 * trunk[2] - 0.04
        brim = _between(hat, 0.55, 0.95) * skull[0]
        crown = (brim, brim, _between(hat, 0.1, 0.24))
        lean = head.pose + hat.pose
        top = 2 * skull[2] - 0.05 + crown[2]
        pieces = {
            "hat": [hat.geom(crown, _up(neck, top, head.pose), lean)],
            "head": [head.geom(_shaped(head, skull), _up(neck, skull[2], head.pose), head.pose)],
            "body": [body.geom(_shaped(body, trunk), (0.0, 0.0, hip + trunk[2]), 0.0)],
            "arms": [_limb(arms, arm, side, trunk[0] - 0.02, shoulder) for side in (-1, 1)],
            "legs": [_limb(legs, leg, side, 0.14, hip) for side in (-1, 1)],
        }
        objects: list[SceneObject] = []
        owners: list[int] = []
        for number, name in enumerate(PARTS, start=1):
            if name != self.missing:
                objects += pieces[name]
                owners += [number] * len(pieces[name])
        return replace(self.scene, objects=tuple(objects)), owners


def sample_figure(seed: int) -> Figure:
    """Sample a figure; the same seed gives the same figure on every machine."""
    random = np.random.default_rng(seed)
    parts: dict[str, Part] = {}
    for name, neighbor in _NEIGHBORS.items():
        parts[name] = _sample_part(random, name)
        while neighbor and parts[name].color_label == parts[neighbor].color_label != "":
            parts[name] = _sample_part(random, name)
    camera = Camera(
        look_at=(0.0, 0.0, 1.2),
        distance=float(random.uniform(4.2, 4.7)),
        azimuth=float(-np.pi / 2 + random.uniform(-0.5, 0.5)),
        elevation=float(random.uniform(0.66, 0.78)),
        field_of_view=0.66,
    )
    scene = Scene(
        seed=seed,
        kind="parts",
        objects=(),
        camera=camera,
        **sample_lights(random),
        ground_color=_sample_ground(random),
        ground_texture=-1,
    )
    return Figure(parts=tuple(parts[name] for name in PARTS), scene=scene)


def edit_figure(figure: Figure) -> tuple[Figure, str, int]:
    """Change one part or the ground; the figure's seed determines which, and how.

    A replaced part comes from the figure with the next seed, so that a model can make the same edit
    from an image of that figure.

    Returns:
        The figure after the edit, the name of the edit (one of `edits.EDITS`), and the id of the
        edited part; 0 for the ground.
    """
    random = np.random.default_rng(_OFFSET + figure.scene.seed)
    edit = _PART_EDITS[random.integers(len(_PART_EDITS))]
    index = int(random.integers(len(PARTS)))
    if edit == "ground":
        ground = figure.scene.ground_color
        while np.abs(np.subtract(ground, figure.scene.ground_color)).max() < 0.1:
            ground = _sample_ground(random)
        return replace(figure, scene=replace(figure.scene, ground_color=ground)), edit, 0
    if edit == "removed":
        return replace(figure, missing=PARTS[index]), edit, index + 1
    part = figure.parts[index]
    if edit == "replaced":
        other = sample_figure(figure.scene.seed + 1).parts[index]
    else:
        other = part
        while (other.color, other.texture) == (part.color, part.texture):
            color, label, texture = sample_appearance(random, "scenes")
            other = replace(part, color=color, color_label=label, texture=texture)
    parts = (*figure.parts[:index], other, *figure.parts[index + 1 :])
    return replace(figure, parts=parts), edit, index + 1


def _sample_part(random: np.random.Generator, name: str) -> Part:
    shapes = PART_SHAPES[name]
    textured = name in _TEXTURED and random.uniform() < _TEXTURE_SHARE
    color, color_label, texture = sample_appearance(
        random, "scenes-textured" if textured else "scenes"
    )
    return Part(
        shape=shapes[random.integers(len(shapes))],
        size=float(random.uniform()),
        pose=float(random.uniform(*POSES[name])),
        color=color,
        color_label=color_label,
        texture=texture,
    )


def _sample_ground(random: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = random.uniform(0.4, 0.8, 3).tolist()
    return (red, green, blue)


def _between(part: Part, least: float, most: float) -> float:
    return least + part.size * (most - least)


def _stretch(
    part: Part, thickness: tuple[float, float], length: tuple[float, float]
) -> tuple[float, float, float]:
    """Half extents of a limb; small limbs are thin and long."""
    half = thickness[0] + part.size * (thickness[1] - thickness[0])
    return (half, half, length[1] - part.size * (length[1] - length[0]))


def _shaped(part: Part, half_size: tuple[float, ...]) -> tuple[float, float, float]:
    """Adapt half extents to the shape: cylinders are round, and ellipsoid heads are long."""
    x, y, z = half_size
    if part.shape == "cylinder":
        return (x, x, z)
    if part.shape == "ellipsoid" and x == z:
        return (0.8 * x, 0.8 * x, z)
    return (x, y, z)


def _up(base: float, height: float, angle: float) -> tuple[float, float, float]:
    """Position at a height above the neck, along the inclined head."""
    return (height * math.sin(angle), 0.0, base + height * math.cos(angle))


def _limb(
    part: Part, half_size: tuple[float, float, float], side: int, apart: float, joint: float
) -> SceneObject:
    """Create one of two limbs, which hangs from its joint and is raised sideways by its pose."""
    length = half_size[2]
    position = (
        side * (apart + length * math.sin(part.pose)),
        0.0,
        joint - length * math.cos(part.pose),
    )
    return part.geom(half_size, position, -side * part.pose)
