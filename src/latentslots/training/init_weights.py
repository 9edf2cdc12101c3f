"""Weights of a trained model to start a training from, instead of fresh ones."""

from diffusers import ModelMixin
from torch import nn

from latentslots.objectives import Objective


def load_init_weights(objective: Objective, name: str) -> None:
    """Copy the weights of a trained model into all trained parts of an objective.

    Frozen weights inside of these parts must be the same in both. Statistics of the
    data, such as the mean color, are copied as well, because the weights depend on them.

    Args:
        objective: The objective, with fresh weights.
        name: A pipeline folder, a run folder, `bundled`, or a hub id.

    Raises:
        ValueError: If there is no such model, or one of its parts is missing, or has another shape
            or other frozen weights.
    """
    components = objective.components_of(name)
    for part, module in objective.trained().items():
        source = components.get(part)
        if not isinstance(source, ModelMixin):
            raise ValueError(f"init_from: {name} has no {part} to start from")
        _copy(source, module, part=part, name=name)
    objective.adopt_statistics(components, name)


def _copy(source: nn.Module, into: nn.Module, *, part: str, name: str) -> None:
    """Copy weights, none of which may be missing, left over, or of another shape."""
    theirs, ours = source.state_dict(), into.state_dict()
    different = [
        f"{key} is {_shape(theirs, key)} there and {_shape(ours, key)} here"
        for key in [*ours, *theirs]
        if _shape(theirs, key) != _shape(ours, key)
    ]
    if different:
        raise ValueError(f"init_from: the {part} of {name} is different: {different[0]}")
    frozen = [key for key, weight in into.named_parameters() if not weight.requires_grad]
    for key in frozen:
        if not theirs[key].to(ours[key]).equal(ours[key]):
            raise ValueError(
                f"init_from: the {part} of {name} was trained around other frozen weights "
                f"(such as {key})"
            )
    into.load_state_dict(theirs)


def _shape(state: dict[str, object], key: str) -> str:
    if key not in state:
        return "missing"
    return "x".join(map(str, getattr(state[key], "shape", ()))) or "a number"
