"""Networks whose features compare sets of images, loaded by name.

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
    """Load a module that maps images `[B, 3, H, W]` in [0, 1] to features `[B, F]`, and its name.

    Args:
        name: `bundled`: the bundled autoencoder, which needs no download; its distance is not FID.
            `inception:FILE`: a TorchScript file with the Inception of FID, such as NVIDIA's
            inception-2015-12-05.pt. `dinov2:FOLDER` or `dinov2:HUB-ID`: the class token of a
            DINOv2. `module:PACKAGE.MODULE:NAME`: the module that a class or function of another
            package creates.

    Raises:
        ValueError: If there is no such network.
    """
    kind, _, source = name.partition(":")
    if name == "bundled":
        return AutoencoderFeatures(load_vae("bundled")), "bundled-autoencoder"
    if kind == "inception" and source:
        return InceptionFeatures(Path(source)), "inception"
    if kind == "dinov2" and source:
        return DINOv2Features(source), f"dinov2 {source}"
    if kind == "module" and ":" in source.strip(":"):
        return _imported(source), source
    raise ValueError(
        f"features must be bundled, inception:FILE (the standard weights: {INCEPTION}), or "
        f"dinov2:FOLDER-OR-HUB-ID, or module:PACKAGE.MODULE:NAME, got {name!r}"
    )


def _imported(source: str) -> nn.Module:
    """Return the module that a class or function of another package creates."""
    package, _, name = source.rpartition(":")
    try:
        module = getattr(importlib.import_module(package), name)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {name!r} in {package!r}: {error}") from None
    if not isinstance(module, nn.Module):
        raise ValueError(f"{source} returned a {type(module).__name__}, not a torch module")
    return module.eval()


class AutoencoderFeatures(nn.Module):
    """Features of the encoder of an autoencoder, from the layer before the latents.

    Mean and deviation over the image of each channel of this layer.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder = vae.encoder.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Compute the features of images in [0, 1]."""
        recorded: list[Tensor] = []
        hook = self.encoder.conv_out.register_forward_pre_hook(
            lambda _module, inputs: recorded.append(inputs[0])
        )
        try:
            self.encoder(images * 2 - 1)
        finally:
            hook.remove()
        hidden = recorded[0].flatten(2)
        return torch.cat([hidden.mean(dim=2), hidden.std(dim=2)], dim=1)


class InceptionFeatures(nn.Module):
    """A TorchScript network that takes uint8 images, such as the Inception of FID."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise ValueError(f"there is no file {path}; the standard weights: {INCEPTION}")
        try:
            load: Any = torch.jit.load
            with warnings.catch_warnings():  # deprecated, but the format of the standard file
                warnings.simplefilter("ignore", DeprecationWarning)
                self.network = load(path, map_location="cpu").eval()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{path} is not a TorchScript file: {reason}") from error
        arguments = [argument.name for argument in self.network.forward.schema.arguments]
        self.options = {"return_features": True} if "return_features" in arguments else {}

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Compute the features of images in [0, 1]."""
        features = self.network((images * 255).round().to(torch.uint8), **self.options)
        return features.flatten(1)
