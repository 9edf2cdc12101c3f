"""Sampling of scenes, their objects, camera and lights, from one seed, without rendering.

Lengths are in meters, angles in radians, and the ground is z = 0. Image coordinates are in [0, 1],
x to the right and y down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from latentslots.data.errors import DataError

Kind = Literal["scenes", "scenes-textured", "parts"]
SCENE_KINDS: tuple[Kind, ...] = ("scenes", "scenes-textured")
KINDS: tuple[Kind, ...] = (*SCENE_KINDS, "parts")
SHAPES = ("box", "sphere", "cylinder", "ellipsoid", "capsule")
MATERIALS = ("rubber", "metal")
SIZES = ("small", "medium", "large")
COLORS = {
    "gray": (0.42, 0.42, 0.42),
    "red": (0.80, 0.16, 0.16),
    "blue": (0.18, 0.30, 0.85),
    "green": (0.12, 0.55, 0.18),
    "brown": (0.50, 0.30, 0.12),
    "purple": (0.52, 0.22, 0.75),
    "cyan": (0.18, 0.78, 0.80),
    "yellow": (0.93, 0.84, 0.20),
}
TEXTURES = ("checker", "stripes", "dots", "bricks", "clouds", "wood", "rings", "waves")
NUM_VARIANTS = 8

APPARENT_WIDTH = (0.10, 0.35)
_RADIUS = (0.22, 0.52)
_MAX_TRIES = 60
# An object counts as visible if this fraction of its projection, and of the image, is visible.
_MIN_VISIBLE, _MIN_AREA = 0.35, 0.005
_GRID = 96
_CIRCLE = np.linspace(0, 2 * np.pi, 24, endpoint=False)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """The camera, which looks at a point from a distance; images are square.

    Attributes:
        look_at: The point at the image's center.
        distance: Distance from that point.
        azimuth: Angle around the vertical.
        elevation: Angle above the ground.
        field_of_view: Vertical angle of view.
    """

    look_at: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    field_of_view: float

    @property
    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Rows: the directions of right, up and backward."""
        back = np.array(
            [
                math.cos(self.elevation) * math.cos(self.azimuth),
                math.cos(self.elevation) * math.sin(self.azimuth),
                math.sin(self.elevation),
            ]
        )
        right = np.array([-math.sin(self.azimuth), math.cos(self.azimuth), 0.0])
        return np.stack([right, np.cross(back, right), back])

    @property
    def position(self) -> Float[np.ndarray, " 3"]:
        """Position in the world."""
        return np.asarray(self.look_at) + self.distance * self.axes[2]

    @property
    def quaternion(self) -> Float[np.ndarray, " 4"]:
        """Rotation from the camera's axes to the world's, real part first."""
        x, y, z, w = Rotation.from_matrix(self.axes.T).as_quat()
        return np.array([w, x, y, z])

    def project(self, points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "P 2"]:
        """Compute image coordinates (x, y) of points in front of the camera."""
        local = (points - self.position) @ self.axes.T
        scale = 0.5 / math.tan(self.field_of_view / 2) / -local[:, 2]
        return np.stack([0.5 + local[:, 0] * scale, 0.5 - local[:, 1] * scale], axis=1)


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object on the ground.

    Attributes:
        shape: One of `SHAPES`.
        half_size: Half extents along its own axes; z is the axis of a cylinder or capsule.
        position: Center in the world.
        quaternion: Rotation, real part first.
        material: One of `MATERIALS`.
        color: Factor of the texture: white if there is a texture.
        color_label: Name of the color; empty if there is a texture.
        texture: Number of the texture, with the variants of a family in a row; -1 for none.
    """

    shape: str
    half_size: tuple[float, float, float]
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    material: str
    color: tuple[float, float, float]
    color_label: str
    texture: int

    @property
    def size_label(self) -> str:
        """Name of the size, by the mean half extent."""
        third = (_RADIUS[1] - _RADIUS[0]) / 3
        mean = sum(self.half_size) / 3
        return SIZES[min(2, max(0, int((mean - _RADIUS[0]) / third)))]

    def corners(self) -> Float[np.ndarray, "8 3"]:
        """Corners of its bounding box in the world."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        return self._to_world(signs * self.half_size)

    def surface(self) -> Float[np.ndarray, "P 3"]:
        """Points in the world whose convex hull approximates the object."""
        if self.shape == "box":
            return self.corners()
        circle = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=1)
        x, y, z = self.half_size
        if self.shape == "cylinder":
            rims = [np.column_stack([circle * x, np.full(len(circle), end)]) for end in (-z, z)]
            return self._to_world(np.concatenate(rims))
        heights = np.linspace(-1, 1, 13)
        ball = np.concatenate(
            [np.column_stack([circle * math.sqrt(1 - h * h), np.full(24, h)]) for h in heights]
        )
        if self.shape == "capsule":
            ends = np.where(ball[:, 2:] < 0, -1, 1) * np.array([[0, 0, z - x]])
            return self._to_world(ball * x + ends)
        return self._to_world(ball * np.array([x, y, z]))

    def _to_world(self, points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "P 3"]:
        w, x, y, z = self.quaternion
        return Rotation.from_quat([x, y, z, w]).apply(points) + np.asarray(self.position)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that an image depends on: objects, camera, lights and ground.

    Attributes:
        seed: Seed that the scene was sampled from.
        kind: Kind of its appearance.
        objects: The objects; object i has the id i + 1.
        camera: The camera.
        light_direction: Direction in which the directional light shines.
        light: Strength of the directional light, in [0, 1].
        ambient: Strength of the ambient light, in [0, 1].
        ground_color: Color of the ground.
        ground_texture: Number of the ground's texture; -1 for none.
    """

    seed: int
    kind: Kind
    objects: tuple[SceneObject, ...]
    camera: Camera
    light_direction: tuple[float, float, float]
    light: float
    ambient: float
    ground_color: tuple[float, float, float]
    ground_texture: int


def sample_scene(seed: int, kind: Kind, *, num_objects: tuple[int, int] = (3, 6)) -> Scene:
    """Sample a scene; the same seed gives the same scene on every machine.

    Objects stand on the ground without touching each other. Each is between 10 and 35 % of the
    image wide, and at least 35 % of its projection is visible.

    Args:
        seed: A number from 0 on.
        kind: `scenes` (plain colors) or `scenes-textured`.
        num_objects: Least and greatest number of objects.
    """
    if kind not in SCENE_KINDS:
        raise DataError(f"kind must be {' or '.join(SCENE_KINDS)}, got {kind!r}")
    fewest, most = num_objects
    if not 1 <= fewest <= most <= 10:
        raise DataError(f"a scene must have 1 to 10 objects, got {fewest} to {most}")
    random = np.random.default_rng(seed)
    count = int(random.integers(fewest, most + 1))
    while True:
        camera = _sample_camera(random)
        objects = _sample_objects(random, kind, camera, count)
        if objects is not None:
            break
    lights = sample_lights(random)
    ground_color, ground_texture = sample_ground(random, kind)
    return Scene(
        seed=seed,
        kind=kind,
        objects=objects,
        camera=camera,
        **lights,
        ground_color=ground_color,
        ground_texture=ground_texture,
    )


def sample_lights(random: np.random.Generator) -> dict[str, Any]:
    """Sample direction and strength of the lights, as arguments of `Scene`."""
    angle, slope = random.uniform(0, 2 * np.pi), random.uniform(0.25, 0.75)
    light, ambient = float(random.uniform(0.45, 0.65)), float(random.uniform(0.35, 0.5))
    direction = (slope * math.cos(angle), slope * math.sin(angle), -1.0)
    return {"light_direction": direction, "light": light, "ambient": ambient}


def sample_ground(
    random: np.random.Generator, kind: Kind
) -> tuple[tuple[float, float, float], int]:
    """Sample color and texture of the ground."""
    if kind == "scenes":
        return _shade((1.0, 1.0, 1.0), random.uniform(0.45, 0.75)), -1
    return (1.0, 1.0, 1.0), _sample_texture(random)


def silhouettes(
    camera: Camera, objects: Sequence[SceneObject], size: int
) -> tuple[Bool[np.ndarray, "n H W"], Float[np.ndarray, " n"]]:
    """Project each object as if it were alone.

    Returns:
        Masks of the projections, and their areas as fractions of the image, including the parts
        outside of it.
    """
    centers = (np.arange(size) + 0.5) / size
    masks = np.zeros((len(objects), size, size), bool)
    areas = np.zeros(len(objects))
    for index, thing in enumerate(objects):
        hull = ConvexHull(camera.project(thing.surface()))
        areas[index] = hull.volume  # the area, in two dimensions
        (left, top), (right, bottom) = np.searchsorted(centers, [hull.min_bound, hull.max_bound])
        x, y = centers[left:right], centers[top:bottom]
        # Points are inside of an edge if normal . point + offset <= 0.
        normal_x, normal_y, offset = hull.equations.T[:, :, None, None]
        inside = (normal_x * x + normal_y * y[:, None] + offset <= 0).all(axis=0)
        masks[index, top:bottom, left:right] = inside
    return masks, areas


def apparent_width(camera: Camera, thing: SceneObject) -> float:
    """Width of an object's projection as a fraction of the image's, including parts outside."""
    return float(np.ptp(camera.project(thing.surface())[:, 0]))


def _sample_camera(random: np.random.Generator) -> Camera:
    return Camera(
        look_at=(*random.uniform(-0.2, 0.2, 2).tolist(), 0.2),
        distance=float(random.uniform(4.4, 5.6)),
        azimuth=float(random.uniform(0, 2 * np.pi)),
        elevation=float(random.uniform(0.55, 0.8)),
        field_of_view=float(random.uniform(0.60, 0.70)),
    )


def _sample_objects(
    random: np.random.Generator, kind: Kind, camera: Camera, count: int
) -> tuple[SceneObject, ...] | None:
    """Sample objects; `None` if they do not fit, or one of them is hardly visible."""
    objects: list[SceneObject] = []
    for _ in range(_MAX_TRIES):
        candidate = sample_object(random, kind, camera)
        if candidate is not None and not any(touch(candidate, other) for other in objects):
            objects.append(candidate)
        if len(objects) == count:
            break
    else:
        return None
    return tuple(objects) if are_visible(camera, objects) else None


def are_visible(camera: Camera, objects: Sequence[SceneObject]) -> bool:
    """Whether enough of every object is visible."""
    masks, areas = silhouettes(camera, objects, _GRID)
    ids = visible_ids(camera, objects, masks)
    return all(
        np.mean(ids == index + 1) >= max(_MIN_AREA, _MIN_VISIBLE * areas[index])
        for index in range(len(objects))
    )


def visible_ids(
    camera: Camera, objects: Sequence[SceneObject], masks: Bool[np.ndarray, "n H W"]
) -> Int[np.ndarray, "H W"]:
    """Id of the nearest object at each pixel; 0 is the background."""
    distances = [np.linalg.norm(camera.position - thing.position) for thing in objects]
    ids = np.zeros(masks.shape[1:], np.int64)
    for index in np.argsort(distances)[::-1]:
        ids[masks[index]] = index + 1
    return ids


def sample_object(random: np.random.Generator, kind: Kind, camera: Camera) -> SceneObject | None:
    """Sample an object within the image; `None` if it would look too small or too large."""
    shape = SHAPES[random.integers(len(SHAPES))]
    radius = random.uniform(*_RADIUS)
    half_size, lies = _sample_size(random, shape, radius)
    height = half_size[0] if lies else half_size[2]
    image_x, image_y = random.uniform(0.12, 0.88, 2)
    scale = 2 * math.tan(camera.field_of_view / 2)
    ray = np.array([(image_x - 0.5) * scale, (0.5 - image_y) * scale, -1.0]) @ camera.axes
    if ray[2] > -0.1:
        return None
    position = camera.position + ray * ((camera.position[2] - height) / -ray[2])
    color, color_label, texture = sample_appearance(random, kind)
    thing = SceneObject(
        shape=shape,
        half_size=half_size,
        position=(float(position[0]), float(position[1]), height),
        quaternion=_sample_rotation(random, lies=lies),
        material=MATERIALS[random.integers(len(MATERIALS))],
        color=color,
        color_label=color_label,
        texture=texture,
    )
    narrowest, widest = APPARENT_WIDTH
    return thing if narrowest <= apparent_width(camera, thing) <= widest else None


def sample_appearance(
    random: np.random.Generator, kind: Kind
) -> tuple[tuple[float, float, float], str, int]:
    """Sample color, color label and texture of an object."""
    if kind == "scenes":
        color_label = list(COLORS)[random.integers(len(COLORS))]
        return _shade(COLORS[color_label], random.uniform(0.85, 1.15)), color_label, -1
    return (1.0, 1.0, 1.0), "", _sample_texture(random)


def _sample_size(
    random: np.random.Generator, shape: str, radius: float
) -> tuple[tuple[float, float, float], bool]:
    """Sample the half extents, and whether the object lies on its side."""
    if shape == "sphere":
        return (radius, radius, radius), False
    if shape == "box":
        x, y, z = radius * random.uniform(0.65, 1.0, 3)
        return (float(x), float(y), float(z)), False
    if shape == "ellipsoid":
        x, y, z = radius * random.uniform(0.6, 1.1, 3)
        return (float(x), float(y), float(z)), False
    stretch = random.uniform(1.5, 2.0) if shape == "capsule" else random.uniform(0.7, 1.5)
    width = radius / math.sqrt(stretch)
    return (width, width, float(width * stretch)), bool(random.integers(2))


def _sample_rotation(
    random: np.random.Generator, *, lies: bool
) -> tuple[float, float, float, float]:
    """Sample a rotation about the vertical, after a tilt if the object lies on its side."""
    half = random.uniform(0, np.pi)
    w, z = math.cos(half), math.sin(half)
    if not lies:
        return (w, 0.0, 0.0, z)
    tilt = math.sqrt(0.5)
    return (w * tilt, w * tilt, z * tilt, z * tilt)


def touch(one: SceneObject, other: SceneObject) -> bool:
    """Whether the bounding circles of two objects overlap on the ground."""
    distance = math.dist(one.position[:2], other.position[:2])
    return distance < _ground_radius(one) + _ground_radius(other) + 0.03


def _ground_radius(thing: SceneObject) -> float:
    x, y, z = thing.half_size
    if thing.quaternion[1] != 0:
        return math.hypot(x, z) if thing.shape == "cylinder" else z
    return math.hypot(x, y) if thing.shape == "box" else max(x, y)


def _sample_texture(random: np.random.Generator) -> int:
    return int(random.integers(len(TEXTURES) * NUM_VARIANTS))


def _shade(color: tuple[float, float, float], brightness: float) -> tuple[float, float, float]:
    red, green, blue = color
    return (min(1.0, red * brightness), min(1.0, green * brightness), min(1.0, blue * brightness))
