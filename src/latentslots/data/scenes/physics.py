"""Simulation of objects that are thrown together, which turns a scene into a video."""

from dataclasses import replace
from typing import Any

import numpy as np

from latentslots.data.scenes.layout import Scene, SceneObject
from latentslots.data.scenes.renderer import geom_size, geom_type, import_mujoco

NUM_FRAMES, FRAMES_PER_SECOND = 24, 12
_STEPS_PER_FRAME = 20


def throw(scene: Scene) -> list[Scene]:
    """Lift the objects of a scene, throw them toward its center, and let them fall and collide.

    Returns:
        24 frames at 12 frames per second.
    """
    mujoco = import_mujoco()
    random = np.random.default_rng([scene.seed, 1])
    model = _compile(mujoco, scene)
    data = mujoco.MjData(model)
    for index, thing in enumerate(scene.objects):
        aim = random.uniform(-0.4, 0.4, 2) - thing.position[:2]
        height = thing.position[2] + random.uniform(0.1, 0.7)
        data.qpos[7 * index : 7 * index + 7] = (*thing.position[:2], height, *thing.quaternion)
        data.qvel[6 * index : 6 * index + 6] = (
            *(aim * random.uniform(0.8, 1.6)),
            random.uniform(0, 1.5),
            *random.uniform(-3, 3, 3),
        )
    frames = []
    for _ in range(NUM_FRAMES):
        frames.append(replace(scene, objects=_read(scene, data)))
        for _ in range(_STEPS_PER_FRAME):
            mujoco.mj_step(model, data)
    return frames


def _read(scene: Scene, data: Any) -> tuple[SceneObject, ...]:
    moved = []
    for index, thing in enumerate(scene.objects):
        x, y, z, *quaternion = data.qpos[7 * index : 7 * index + 7].tolist()
        moved.append(replace(thing, position=(x, y, z), quaternion=tuple(quaternion)))
    return tuple(moved)


def _compile(mujoco: Any, scene: Scene) -> Any:
    spec = mujoco.MjSpec()
    spec.option.timestep = 1 / FRAMES_PER_SECOND / _STEPS_PER_FRAME
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[20, 20, 1])
    for thing in scene.objects:
        body = spec.worldbody.add_body()
        body.add_freejoint()
        # Rolling friction stops round objects.
        body.add_geom(
            type=geom_type(mujoco, thing.shape),
            size=geom_size(thing),
            condim=6,
            friction=[0.6, 0.02, 0.01],
        )
    return spec.compile()
