"""Rendering of scenes and their segmentations with MuJoCo."""

import os
import sys
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from latentslots.data.errors import DataError
from latentslots.data.scenes.layout import NUM_VARIANTS, TEXTURES, Scene, SceneObject
from latentslots.data.scenes.textures import texture

MAX_OBJECTS = 10
_NUM_TEXTURES = len(TEXTURES) * NUM_VARIANTS
_TEXTURE_SIZE, _GROUND_TEXTURE_SIZE = 64, 256
_GROUND = 20.0
_SHINE = {"rubber": (0.1, 0.1), "metal": (0.9, 0.6)}


class SceneRenderer:
    """Renders scenes of one size.

    One model is compiled once, and its geoms are rewritten for every scene.

    Args:
        size: Side of the images in pixels.

    Raises:
        DataError: If MuJoCo, or an OpenGL that works without a screen, is missing.
    """

    def __init__(self, size: int) -> None:
        self._mujoco = mujoco = import_mujoco()
        self.size = size
        self.model = _compile(mujoco, size)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        try:
            self._renderer = mujoco.Renderer(self.model, size, size, max_geom=MAX_OBJECTS + 8)
        except Exception as error:  # each OpenGL backend raises its own
            raise DataError(f"{_NO_OPENGL} ({' '.join(str(error).split())})") from error
        self._camera = mujoco.MjvCamera()

    def __enter__(self) -> "SceneRenderer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory of the renderer."""
        self._renderer.close()

    def render(self, scene: Scene) -> tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "H W"]]:
        """Render a scene.

        Returns:
            The image, and the ids: i + 1 at pixels of object i, 0 at the background.
        """
        self._load(scene)
        renderer = self._renderer
        renderer.update_scene(self.data, self._camera)
        renderer.disable_segmentation_rendering()
        image = renderer.render()
        renderer.enable_segmentation_rendering()
        geoms = renderer.render()[..., 0]
        # Geom 0 is the ground, -1 the empty background.
        return image, np.maximum(geoms, 0)

    def _load(self, scene: Scene) -> None:
        """Write a scene into the model."""
        mujoco, model, data = self._mujoco, self.model, self.data
        model.geom_rgba[1:, 3] = 0
        for geom, thing in enumerate(scene.objects, start=1):
            kind = geom_type(mujoco, thing.shape)
            model.geom_type[geom] = kind
            model.geom_size[geom] = geom_size(thing)
            model.geom_rbound[geom] = np.linalg.norm(thing.half_size)
            model.geom_rgba[geom] = (*thing.color, 1)
            model.geom_matid[geom] = _material(thing)
            data.geom_xpos[geom] = thing.position
            mujoco.mju_quat2Mat(data.geom_xmat[geom], np.array(thing.quaternion))
        model.geom_rgba[0] = (*scene.ground_color, 1)
        model.geom_matid[0] = 2 * (_NUM_TEXTURES + 1) + 1 + scene.ground_texture
        data.light_xdir[0] = np.array(scene.light_direction) / np.linalg.norm(scene.light_direction)
        data.light_xpos[0] = -6 * data.light_xdir[0]
        model.light_diffuse[0] = scene.light
        model.vis.headlight.ambient[:] = scene.ambient
        camera, model.vis.global_.fovy = self._camera, np.degrees(scene.camera.field_of_view)
        camera.lookat[:] = scene.camera.look_at
        camera.distance = scene.camera.distance
        camera.azimuth = np.degrees(scene.camera.azimuth) + 180
        camera.elevation = -np.degrees(scene.camera.elevation)


_NO_OPENGL = (
    "no OpenGL that works without a screen was found: on Debian or Ubuntu, install one by "
    "`apt-get install -y libegl1 libgl1-mesa-dri`"
)


def import_mujoco() -> Any:
    """Import MuJoCo for rendering without a screen.

    Raises:
        DataError: If MuJoCo or OpenGL is missing; the message contains the command to install it.
    """
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise DataError(
            "rendering scenes requires MuJoCo: pip install 'latentslots[scenes]'"
        ) from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise DataError(f"{_NO_OPENGL} ({' '.join(str(error).split())})") from error
    return mujoco


def _compile(mujoco: Any, size: int) -> Any:
    """Compile a model with a ground, geoms for the objects, a light, and all materials of scenes.

    The order of the materials: for rubber, metal and the ground in turn, one without a texture and
    one per texture.
    """
    spec = mujoco.MjSpec()
    spec.visual.global_.offwidth = spec.visual.global_.offheight = size
    spec.visual.quality.shadowsize = 1024
    spec.visual.quality.offsamples = 4
    spec.visual.headlight.diffuse = [0.15, 0.15, 0.15]
    spec.visual.headlight.specular = [0, 0, 0]
    spec.visual.map.shadowclip = 3
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 60
    spec.stat.extent, spec.stat.center = 4, [0, 0, 0]
    names = [f"texture_{number}" for number in range(_NUM_TEXTURES)]
    for name in names:
        for prefix, kind, side in (
            ("", mujoco.mjtTexture.mjTEXTURE_CUBE, _TEXTURE_SIZE),
            ("ground_", mujoco.mjtTexture.mjTEXTURE_2D, _GROUND_TEXTURE_SIZE),
        ):
            spec.add_texture(
                name=prefix + name,
                type=kind,
                builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
                width=side,
                height=side,
            )
    for material, (specular, shininess) in _SHINE.items():
        spec.add_material(name=material, specular=specular, shininess=shininess)
        for name in names:
            _add_material(mujoco, spec, f"{material}_{name}", name, specular, shininess)
    spec.add_material(name="ground", specular=0, shininess=0)
    for name in names:
        added = _add_material(mujoco, spec, f"ground_{name}", f"ground_{name}", 0.0, 0.0)
        added.texrepeat = [_GROUND / 2, _GROUND / 2]
    world = spec.worldbody
    world.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=True, specular=[0.4, 0.4, 0.4]
    )
    world.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[_GROUND, _GROUND, 1], material="ground")
    for _ in range(MAX_OBJECTS):
        world.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.1, 0.1, 0.1], material="rubber")
    model = spec.compile()
    for number, name in enumerate(names):
        _set_texture(model, name, np.concatenate([texture(number, _TEXTURE_SIZE)] * 6))
        _set_texture(model, f"ground_{name}", texture(number, _GROUND_TEXTURE_SIZE))
    return model


def _set_texture(model: Any, name: str, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
    start = model.texture(name).adr[0]
    model.tex_data[start : start + pixels.size] = pixels.ravel()


def _add_material(
    mujoco: Any, spec: Any, name: str, image: str, specular: float, shininess: float
) -> Any:
    added = spec.add_material(name=name, specular=specular, shininess=shininess)
    added.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = image
    return added


def _material(thing: SceneObject) -> int:
    return list(_SHINE).index(thing.material) * (_NUM_TEXTURES + 1) + 1 + thing.texture


def geom_type(mujoco: Any, shape: str) -> int:
    """MuJoCo's number of a shape."""
    return int(getattr(mujoco.mjtGeom, f"mjGEOM_{shape.upper()}"))


def geom_size(thing: SceneObject) -> Float[np.ndarray, " 3"]:
    """Size of an object in MuJoCo's convention for its shape."""
    x, y, z = thing.half_size
    if thing.shape == "cylinder":
        return np.array([x, z, 0])
    if thing.shape == "capsule":
        return np.array([x, z - x, 0])
    return np.array([x, y, z])
