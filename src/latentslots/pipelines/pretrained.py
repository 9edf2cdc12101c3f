"""Frozen parts that a saved pipeline references by id and hash, instead of containing them.

The folder of such a part holds its config, and `tuned.safetensors` if some of its parameters were
trained; `model_index.json` names the source of all other weights.
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
    """The source of a pretrained part.

    Attributes:
        kind: The class of the part.
        name: A local folder, or a hub id.
        subfolder: Folder of an autoencoder inside `name`; empty if that is `name` itself.
        sha256: Hash of the pretrained weights.
    """

    kind: str
    name: str
    subfolder: str = ""
    sha256: str = ""

    @classmethod
    def of(cls, part: ModelMixin, name: str, *, subfolder: str = "") -> "Pretrained":
        """Describe the source of a part that was just loaded, with an absolute path if local."""
        digest = weights_fingerprint(_pretrained_weights(part))
        name = str(Path(name).resolve()) if Path(name).is_dir() else name
        return cls(kind=type(part).__name__, name=name, subfolder=subfolder, sha256=digest)

    def write(self, part: ModelMixin, folder: Path) -> None:
        """Write what the source does not contain: the config, and parameters that were trained."""
        folder.mkdir(parents=True, exist_ok=True)
        part.save_config(folder)
        (folder / TUNED_FILE).unlink(missing_ok=True)
        tuned = {k: p.detach().contiguous() for k, p in _tuned(part).items()}
        if tuned:
            save_file(tuned, folder / TUNED_FILE)

    @classmethod
    def read(cls, source: Any, where: Path) -> "Pretrained":
        """Read a source from `model_index.json`.

        Raises:
            ValueError: If its keys or its kind are unknown.
        """
        keys = {"kind", "name", "subfolder", "sha256"}
        if not isinstance(source, dict) or set(source) != keys or source["kind"] not in _LOADERS:
            raise ValueError(
                f"{where}: a pretrained part must have the keys {', '.join(sorted(keys))}, and its "
                f"kind must be one of {', '.join(_LOADERS)}; got {source}"
            )
        return cls(**source)

    def load(self, folder: Path) -> ModelMixin:
        """Load a part from its source, and the parameters that `write` saved in `folder`.

        Raises:
            ValueError: If the source cannot be loaded or holds other weights now, or if the
                parameters that were trained are missing or do not fit.
        """
        try:
            part = _LOADERS[self.kind](self, folder)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the model in {folder.parent} was saved without its {folder.name}, which comes "
                f"from {self.name!r}: {error}; if it has moved, change its name in "
                f"{folder.parent / 'model_index.json'}"
            ) from None
        digest = weights_fingerprint(_pretrained_weights(part))
        if digest != self.sha256:
            raise ValueError(
                f"{self.name!r} holds another {folder.name} than the model in {folder.parent} was "
                f"trained with (its hash is {digest[:12]}, not {self.sha256[:12]})"
            )
        self._tune(part, folder / TUNED_FILE)
        return part

    @staticmethod
    def _tune(part: Any, file: Path) -> None:
        """Load the parameters that were trained."""
        parameters = _tuned(part)
        if not parameters:
            return
        saved = load_file(file) if file.is_file() else {}
        shapes = [{k: tuple(v.shape) for k, v in each.items()} for each in (parameters, saved)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{file} is missing, or does not hold the {len(parameters)} tensors that were tuned"
            )
        for name, parameter in parameters.items():
            parameter.data.copy_(saved[name])

    def to_dict(self) -> dict[str, str]:
        """Convert to the form in `model_index.json`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PretrainedParts:
    """The pretrained parts of Stable-LSD.

    Attributes:
        encoder: The image backbone.
        unet: The denoiser.
        vae: The autoencoder.
        noise_schedule: The noise schedule that the denoiser was trained with.
        empty_prompt: Embedding of the empty prompt, `[S, X]`.
        sources: Sources of the parts, by component name.
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
    """Load the pretrained parts of Stable-LSD.

    Args:
        stable_diffusion: A local folder, or a hub id.
        dinov2: A local folder, or a hub id.
        image_size: See `DINOv2Encoder`.
        num_layers: See `DINOv2Encoder`.
        tuned: See `StableDiffusionUNet`.
        lora_rank: See `StableDiffusionUNet`.
        vae: See `load_vae`; empty for that of the Stable Diffusion.

    Raises:
        ValueError: If a part cannot be loaded, or is of another kind.
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
    """Parameters of a part that were trained, by name."""
    return part.tuned_parameters() if isinstance(part, StableDiffusionUNet) else {}


def _pretrained_weights(part: ModelMixin) -> dict[str, Tensor]:
    """The weights that a part was loaded with, without the tensors and names that LoRA adds."""
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
