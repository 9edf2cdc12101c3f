"""Weights to start a training from, instead of fresh ones."""

import torch
from diffusers import ModelMixin
from torch import nn

from latentslots.models.autoencoder import load_vae
from latentslots.objectives import AutoencoderObjective, Objective
from latentslots.pipelines import load_pipeline


def load_initial_weights(objective: Objective, name: str) -> None:
    """Copy the weights of a trained model into all that an objective trains.

    What does not learn, in a part that learns otherwise, must be the same there. What is measured
    of the images, such as their mean color, comes along: weights count on it.

    Args:
        objective: With fresh weights.
        name: A pipeline folder, a run folder, `bundled`, or a hub id.

    Raises:
        ValueError: If there is no such model, or it lacks a part, or has one of another shape, or
            one whose frozen weights are others.
    """
    trained = objective.trained()
    if isinstance(objective, AutoencoderObjective):
        _copy(load_vae(name), trained["vae"], part="vae", name=name)
        return
    components = load_pipeline(name).components
    for part, module in trained.items():
        source = components.get(part)
        if not isinstance(source, ModelMixin):
            raise ValueError(f"init_from: {name} has no {part} to start from")
        _copy(source, module, part=part, name=name)


def _copy(source: nn.Module, into: nn.Module, *, part: str, name: str) -> None:
    """Copy weights, of which none may be missing, left over, or of another shape."""
    theirs, ours = source.state_dict(), into.state_dict()
    different = [
        f"{key} is {_shape(theirs, key)} there and {_shape(ours, key)} here"
        for key in [*ours, *theirs]
        if _shape(theirs, key) != _shape(ours, key)
    ]
    if different:
        raise ValueError(f"init_from: the {part} of {name} is another one: {different[0]}")
    frozen = [key for key, weight in into.named_parameters() if not weight.requires_grad]
    for key in frozen:
        if not torch.equal(theirs[key].to(ours[key]), ours[key]):
            raise ValueError(
                f"init_from: the {part} of {name} was trained around other frozen weights "
                f"(such as {key})"
            )
    into.load_state_dict(theirs)


def _shape(state: dict[str, object], key: str) -> str:
    if key not in state:
        return "missing"
    return "x".join(map(str, getattr(state[key], "shape", ()))) or "a number"
