"""Frozen parts that a saved pipeline names, by id and hash, instead of copying them.

In the place of a part's weights lie its config and, where some of it learned, `tuned.safetensors`;
`model_index.json` says where the rest comes from.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, ModelMixin
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentslots.fingerprint import weights_fingerprint
from latentslots.models.autoencoder import load_vae
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.models.stable_diffusion import (
    StableDiffusionUNet,
    Tuned,
    empty_prompt,
    load_noise_schedule,
    load_part,
)

TUNED_FILE = "tuned.safetensors"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Where a part comes from.

    Attributes:
        kind: Its class.
        name: A local folder, or a hub id.
        subfolder: Of an autoencoder: its folder in there; empty where it is `name` itself.
        sha256: Hash of its weights as they came.
    """

    kind: str
    name: str
    subfolder: str = ""
    sha256: str = ""

    @classmethod
    def of(cls, part: ModelMixin, name: str, *, subfolder: str = "") -> "Pretrained":
        """Where a part that was just loaded comes from; a local folder by its whole path."""
        digest = weights_fingerprint(_given_weights(part))
        name = str(Path(name).resolve()) if Path(name).is_dir() else name
        return cls(kind=type(part).__name__, name=name, subfolder=subfolder, sha256=digest)

    def write(self, part: ModelMixin, folder: Path) -> None:
        """Leave in a folder what cannot be had from where it comes from."""
        folder.mkdir(parents=True, exist_ok=True)
        part.save_config(folder)
        (folder / TUNED_FILE).unlink(missing_ok=True)
        tuned = {k: p.detach().contiguous() for k, p in _tuned(part).items()}
        if tuned:
            save_file(tuned, folder / TUNED_FILE)

    @classmethod
    def read(cls, source: Any, where: Path) -> "Pretrained":
        """From `model_index.json`.

        Raises:
            ValueError: If it says something unknown.
        """
        known = {"kind", "name", "subfolder", "sha256"}
        if not isinstance(source, dict) or set(source) != known or source["kind"] not in _LOADERS:
            raise ValueError(
                f"{where}: a pretrained part has {', '.join(sorted(known))}, and is one of "
                f"{', '.join(_LOADERS)}; got {source}"
            )
        return cls(**source)

    def load(self, folder: Path) -> ModelMixin:
        """The part that `write` left there.

        Raises:
            ValueError: If it cannot be had any more, or is another one than it was, or what was
                tuned of it is missing or does not fit.
        """
        try:
            part = _LOADERS[self.kind](self, folder)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the model in {folder.parent} was saved without its {folder.name}, which comes "
                f"from {self.name!r}: {error}; if it lies elsewhere now, say where in "
                f"{folder.parent / 'model_index.json'}"
            ) from None
        found = weights_fingerprint(_given_weights(part))
        if found != self.sha256:
            raise ValueError(
                f"{self.name!r} holds another {folder.name} than the model in {folder.parent} was "
                f"made with (its hash is {found[:12]}, not {self.sha256[:12]})"
            )
        self._tune(part, folder / TUNED_FILE)
        return part

    @staticmethod
    def _tune(part: Any, file: Path) -> None:
        """Put what was tuned in its place."""
        wanted = _tuned(part)
        if not wanted:
            return
        found = load_file(file) if file.is_file() else {}
        shapes = [{k: tuple(v.shape) for k, v in each.items()} for each in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{file} is missing, or does not hold the {len(wanted)} tensors that were tuned"
            )
        for name, parameter in wanted.items():
            parameter.data.copy_(found[name])

    def to_dict(self) -> dict[str, str]:
        """As it stands in `model_index.json`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PretrainedParts:
    """What Stable-LSD is built around.

    Attributes:
        encoder: The image backbone.
        unet: The denoiser.
        vae: The autoencoder.
        noise_schedule: The one that the denoiser was trained with.
        empty_prompt: What its text encoder says of no words, `[S, X]`.
        sources: Where parts come from, by their names.
    """

    encoder: DINOv2Encoder
    unet: StableDiffusionUNet
    vae: AutoencoderKL
    noise_schedule: Any
    empty_prompt: Float[Tensor, "S X"]
    sources: dict[str, Pretrained] = field(default_factory=dict)


def load_pretrained_parts(
    stable_diffusion: str,
    dinov2: str,
    *,
    image_size: int = 448,
    num_layers: int = 1,
    tuned: Tuned = "nothing",
    lora_rank: int = 0,
    vae: str = "",
) -> PretrainedParts:
    """Load what Stable-LSD is built around.

    Args:
        stable_diffusion: A local folder, or a hub id.
        dinov2: Likewise.
        image_size: As for `DINOv2Encoder`.
        num_layers: As for `DINOv2Encoder`.
        tuned: As for `StableDiffusionUNet`.
        lora_rank: As for `StableDiffusionUNet`.
        vae: As for `load_vae`; empty for that of the Stable Diffusion.

    Raises:
        ValueError: If a part cannot be had, or is of another kind.
    """
    encoder = DINOv2Encoder.from_vit(dinov2, image_size=image_size, num_layers=num_layers)
    unet = StableDiffusionUNet.from_stable_diffusion(
        stable_diffusion, tuned=tuned, lora_rank=lora_rank
    )
    if vae:
        autoencoder, source = load_vae(vae), vae
    else:
        autoencoder = load_part(AutoencoderKL.from_pretrained, stable_diffusion, "vae")
        source = stable_diffusion
    return PretrainedParts(
        encoder=encoder,
        unet=unet,
        vae=autoencoder,
        noise_schedule=load_noise_schedule(stable_diffusion),
        empty_prompt=empty_prompt(stable_diffusion),
        sources={
            "encoder": Pretrained.of(encoder, dinov2),
            "unet": Pretrained.of(unet, stable_diffusion),
            "vae": Pretrained.of(autoencoder, source, subfolder="" if vae else "vae"),
        },
    )


def _tuned(part: ModelMixin) -> dict[str, Any]:
    """What learned of a part, by name."""
    return part.tuned_parameters() if isinstance(part, StableDiffusionUNet) else {}


def _given_weights(part: ModelMixin) -> dict[str, Tensor]:
    """The weights that a part came with; LoRA adds some, and renames others."""
    state = part.state_dict()
    return {k.replace(".base_layer.", "."): v for k, v in state.items() if ".lora_" not in k}


def _load_unet(source: Pretrained, folder: Path) -> ModelMixin:
    config = StableDiffusionUNet.load_config(folder)
    return StableDiffusionUNet.from_stable_diffusion(
        source.name, tuned=config["tuned"], lora_rank=config["lora_rank"]
    )


def _load_vit(source: Pretrained, folder: Path) -> ModelMixin:
    config = DINOv2Encoder.load_config(folder)
    return DINOv2Encoder.from_vit(
        source.name, image_size=config["image_size"], num_layers=config["num_layers"]
    )


def _load_autoencoder(source: Pretrained, folder: Path) -> ModelMixin:
    if source.subfolder:
        return load_part(AutoencoderKL.from_pretrained, source.name, source.subfolder)
    return load_vae(source.name)


_LOADERS: dict[str, Callable[[Pretrained, Path], Any]] = {
    "StableDiffusionUNet": _load_unet,
    "DINOv2Encoder": _load_vit,
    "AutoencoderKL": _load_autoencoder,
}
