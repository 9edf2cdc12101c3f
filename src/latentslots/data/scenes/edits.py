"""Pairs of scenes before and after one change, as ground truth for edits."""

from dataclasses import replace

import numpy as np

from latentslots.data.scenes.layout import (
    Scene,
    SceneObject,
    are_visible,
    sample_appearance,
    sample_ground,
    sample_object,
    touch,
)

EDITS = ("removed", "moved", "replaced", "recolored", "ground")
_MAX_TRIES = 200
_OFFSET = 50_000_000


def edit_scene(scene: Scene) -> tuple[Scene, str, int]:
    """Change one object or the ground; the scene's seed determines which, and how.

    Returns:
        The scene after the edit, the name of the edit (one of `EDITS`), and the id of the edited
        object in the scene before; 0 for the ground. After a removal, the ids of the following
        objects are lower by 1.
    """
    random = np.random.default_rng(_OFFSET + scene.seed)
    while True:
        edit = EDITS[random.integers(len(EDITS))]
        index = int(random.integers(len(scene.objects)))
        if edit == "ground":
            return _other_ground(scene, random), edit, 0
        if edit == "removed" and len(scene.objects) > 1:
            objects = (*scene.objects[:index], *scene.objects[index + 1 :])
            return replace(scene, objects=objects), edit, index + 1
        if edit == "removed":
            continue
        edited = _edit_object(scene, edit, index, random)
        if edited is not None:
            return edited, edit, index + 1


def _edit_object(scene: Scene, edit: str, index: int, random: np.random.Generator) -> Scene | None:
    """Move, replace or recolor an object; `None` if no free position was found for it."""
    before = scene.objects[index]
    others = [*scene.objects[:index], *scene.objects[index + 1 :]]
    for _ in range(_MAX_TRIES):
        after = _changed(before, edit, scene, random)
        if after is None or any(touch(after, other) for other in others):
            continue
        objects = (*scene.objects[:index], after, *scene.objects[index + 1 :])
        if are_visible(scene.camera, objects):
            return replace(scene, objects=objects)
    return None


def _changed(
    before: SceneObject, edit: str, scene: Scene, random: np.random.Generator
) -> SceneObject | None:
    if edit == "recolored":
        color, color_label, texture = sample_appearance(random, scene.kind)
        if (color_label, texture) == (before.color_label, before.texture):
            return None
        return replace(before, color=color, color_label=color_label, texture=texture)
    drawn = sample_object(random, scene.kind, scene.camera)
    if drawn is None:
        return None
    x, y, _ = drawn.position
    if edit == "moved":
        return replace(before, position=(x, y, before.position[2]))
    x, y, _ = before.position
    same = (drawn.shape, drawn.color_label, drawn.texture)
    if same == (before.shape, before.color_label, before.texture):
        return None
    return replace(drawn, position=(x, y, drawn.position[2]))


def _other_ground(scene: Scene, random: np.random.Generator) -> Scene:
    while True:
        color, texture = sample_ground(random, scene.kind)
        apart = abs(color[0] - scene.ground_color[0]) >= 0.1
        if apart or texture != scene.ground_texture:
            return replace(scene, ground_color=color, ground_texture=texture)
