"""What images are compared by: features of a network, made by name.

Dimensions: B images, H W pixels, F features.
"""

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from latentslots.models.autoencoder import load_vae
from latentslots.models.dinov2_encoder import DINOv2Features

INCEPTION = (
    "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan3/versions/1/files/metrics/"
    "inception-2015-12-05.pt"
)


def load_features(name: str) -> tuple[nn.Module, str]:
    """Something that turns images `[B, 3, H, W]` in [0, 1] into features `[B, F]`, and its name.

    Args:
        name: `bundled`: the bundled autoencoder, for a number without downloads that is not FID.
            `inception:FILE`: a TorchScript file with the Inception of FID, such as NVIDIA's
            inception-2015-12-05.pt. `dinov2:FOLDER` or `dinov2:HUB-ID`: class token of a DINOv2.
            `module:PACKAGE.MODULE:NAME`: what a class or function of yours returns, a module that
            takes such images.

    Raises:
        ValueError: If there is nothing of that name.
    """
    kind, _, place = name.partition(":")
    if name == "bundled":
        return AutoencoderFeatures(load_vae("bundled")), "bundled-autoencoder"
    if kind == "inception" and place:
        return InceptionFeatures(Path(place)), "inception"
    if kind == "dinov2" and place:
        return DINOv2Features(place), f"dinov2 {place}"
    if kind == "module" and ":" in place.strip(":"):
        return _imported(place), place
    raise ValueError(
        f"features must be bundled, inception:FILE (the standard weights: {INCEPTION}), or "
        f"dinov2:FOLDER-OR-HUB-ID, or module:PACKAGE.MODULE:NAME, got {name!r}"
    )


def _imported(place: str) -> nn.Module:
    """A module that somebody else's code makes."""
    package, _, name = place.rpartition(":")
    try:
        made = getattr(importlib.import_module(package), name)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {name!r} in {package!r}: {error}") from None
    if not isinstance(made, nn.Module):
        raise ValueError(f"{place} made a {type(made).__name__}, not a torch module")
    return made.eval()


class AutoencoderFeatures(nn.Module):
    """What the encoder of an autoencoder sees, before it is squeezed into latents.

    Mean and deviation over the image of each channel of its last hidden layer.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder = vae.encoder.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Features of images in [0, 1]."""
        seen: list[Tensor] = []
        keep = self.encoder.conv_out.register_forward_pre_hook(
            lambda _module, inputs: seen.append(inputs[0])
        )
        try:
            self.encoder(images * 2 - 1)
        finally:
            keep.remove()
        hidden = seen[0].flatten(2)
        return torch.cat([hidden.mean(dim=2), hidden.std(dim=2)], dim=1)


class InceptionFeatures(nn.Module):
    """A TorchScript network that takes bytes, as the files with FID's Inception do."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise ValueError(f"there is no file {path}; the standard weights: {INCEPTION}")
        try:
            load: Any = torch.jit.load
            with warnings.catch_warnings():  # deprecated, and the format of the standard file
                warnings.simplefilter("ignore", DeprecationWarning)
                self.network = load(path, map_location="cpu").eval()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{path} is no TorchScript file: {reason}") from error
        arguments = [argument.name for argument in self.network.forward.schema.arguments]
        self.options = {"return_features": True} if "return_features" in arguments else {}

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Features of images in [0, 1]."""
        features = self.network((images * 255).round().to(torch.uint8), **self.options)
        return features.flatten(1)
