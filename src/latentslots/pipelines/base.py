"""Base class of slot pipelines: models in folders, which infer slots and masks from images.

Dimensions: B batch, K slots, D slot channels, h w token grid, H W pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float, Int
from PIL import Image
from torch import Generator, Tensor, nn

from latentslots.data.transforms import ResizeCenterCrop, to_pixel_values
from latentslots.files import apply_umask, check_format
from latentslots.fingerprint import model_fingerprint
from latentslots.pipelines.folder import PIPELINE_FILE, pipeline_folder
from latentslots.pipelines.inference import InferenceSettings
from latentslots.pipelines.merging import merge_slots
from latentslots.pipelines.pretrained import Pretrained
from latentslots.pipelines.slot_output import SlotOutput

ImageInput = Image.Image | np.ndarray | Tensor | list[Image.Image] | list[np.ndarray] | list[Tensor]
FORMAT = 2
"""Format of a pipeline's folder; format 1, of release 0.1, has no number."""
FORMAT_KEY = "_latentslots_format"
"""Key of it in `model_index.json`; what diffusers does not take for a part starts with `_`."""
PipelineT = TypeVar("PipelineT", bound="SlotPipeline")


class SlotPipeline(DiffusionPipeline):
    """A model that finds slots in images, stored as a folder.

    Subclasses register an `encoder` and a `slot_encoder` as modules, and a `resolution` and an
    `inference` (`InferenceSettings`) in their config, by `register_inference`.

    Attributes:
        paints: Whether the pipeline paints images from slots when it is called.
        samples: Whether it samples images from noise (`generator`, `num_inference_steps`), or
            computes them deterministically.
    """

    paints: ClassVar[bool] = True
    samples: ClassVar[bool] = False

    encoder: Any
    slot_encoder: Any
    _optional_components: list[str] = []  # noqa: RUF012  (diffusers' own declaration)

    @property
    def resolution(self) -> int:
        """Pixels per side of the images that the model was trained on."""
        return self.config.resolution

    @property
    def inference(self) -> InferenceSettings:
        """How slots are inferred."""
        return InferenceSettings(**self.config.inference)

    @property
    def num_slots(self) -> int:
        """How many slots `encode` infers, before any are merged."""
        return self.inference.num_slots or self.slot_encoder.config.num_slots

    def register_inference(
        self, resolution: int, inference: InferenceSettings | dict[str, Any] | None
    ) -> None:
        """Record in the config how slots are inferred; subclasses call it in their `__init__`.

        Args:
            resolution: Pixels per side of the training images.
            inference: The settings, or a dictionary of them, as a saved pipeline has it.
        """
        if not isinstance(inference, InferenceSettings):
            inference = InferenceSettings(**(inference or {}))
        inference.check(self.slot_encoder, self.components.get("patch_decoder"))
        settings = {"resolution": resolution, "inference": asdict(inference)}
        self.register_to_config(**{FORMAT_KEY: FORMAT}, **settings)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read `model_index.json`; files of release 0.1, which have no format, are converted.

        Raises:
            ValueError: If a newer release wrote it.
        """
        config = super().load_config(*args, **kwargs)
        index = config[0] if isinstance(config, tuple) else config
        check_format(index.pop(FORMAT_KEY, None), FORMAT, "the pipeline")
        if "num_inference_slots" in index:
            index["inference"] = {
                "num_slots": index.pop("num_inference_slots"),
                "merge_overlap": index.pop("merge_overlap", 0.0),
            }
        return config

    @classmethod
    def from_pretrained(
        cls: type[PipelineT], pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> PipelineT:
        """Load a pipeline folder, a run folder, the bundled model, or a pipeline's hub repository.

        Args:
            pretrained_model_name_or_path: The folder, `bundled` (the model `lsd-scenes-64`), or the
                hub id.
            **kwargs: Arguments of diffusers, such as `dtype`, `variant` and `local_files_only`.
                Those for the hub apply to the pipeline's repository; pretrained parts that it
                references are fetched according to the environment (`HF_HUB_OFFLINE`, `HF_TOKEN`).

        Raises:
            ValueError: If there is no such folder or repository, a folder contains neither a
                pipeline nor a run that saved one, or the bundled model is missing or damaged.
        """
        folder = pipeline_folder(pretrained_model_name_or_path, kwargs)
        index = json.loads((folder / PIPELINE_FILE).read_text(encoding="utf-8"))
        dtypes = kwargs.get("dtype", kwargs.get("torch_dtype"))
        dtypes = dtypes if isinstance(dtypes, dict) else {"default": dtypes}
        named = {
            name: Pretrained.read(source, folder / PIPELINE_FILE)
            for name, source in (index.get("pretrained") or {}).items()
            if name not in kwargs  # a part that is passed replaces the referenced one
        }
        for name, source in named.items():
            part, dtype = source.load(folder / name), dtypes.get(name, dtypes.get("default"))
            # `nn.Module.to`, because the `to` of diffusers emits a needless warning.
            kwargs[name] = nn.Module.to(part, dtype) if dtype is not None else part
        if index.get("pretrained"):
            kwargs["pretrained"] = named
        return super().from_pretrained(folder, **kwargs)

    def register_pretrained(self, pretrained: dict[str, Any] | None) -> None:
        """Record the sources of pretrained parts, which saved pipelines reference; for subclasses.

        Args:
            pretrained: The sources, by the parts' names.
        """
        sources = {
            name: source if isinstance(source, Pretrained) else Pretrained(**source)
            for name, source in (pretrained or {}).items()
        }
        self._pretrained = {name: (s, getattr(self, name)) for name, s in sources.items()}
        if sources:
            self.register_to_config(pretrained={name: s.to_dict() for name, s in sources.items()})

    def save_pretrained(
        self, save_directory: str | Path, *, include_pretrained: bool = False, **kwargs: Any
    ) -> None:
        """Write a pipeline folder, with the permissions that the umask leaves.

        Args:
            save_directory: The folder.
            include_pretrained: Copy the frozen pretrained parts, too; otherwise the folder
                references them by id and hash. A part that was replaced since is always copied; one
                whose frozen weights were changed in place is copied only if this is set.
            **kwargs: Arguments of diffusers.
        """
        if "pretrained" in self.config:
            self._save_with_references(
                Path(save_directory), include_pretrained=include_pretrained, **kwargs
            )
        else:
            super().save_pretrained(save_directory, **kwargs)
        for file in Path(save_directory).rglob("*.safetensors"):
            apply_umask(file)

    def _save_with_references(
        self, folder: Path, *, include_pretrained: bool, **kwargs: Any
    ) -> None:
        """Write a pipeline folder in which some parts are referenced instead of copied."""
        named = {} if include_pretrained else self._referenced_parts()
        config, optional = dict(self.config), self._optional_components
        self.register_to_config(
            pretrained={name: source.to_dict() for name, (source, _) in named.items()},
            **dict.fromkeys(named, (None, None)),
        )
        self._optional_components = [*optional, *named]
        try:
            for name, (source, part) in named.items():  # first: what follows may upload the folder
                source.write(part, folder / name)
            super().save_pretrained(folder, **kwargs)
        finally:
            self._optional_components = optional
            self.register_to_config(**{name: config[name] for name in ("pretrained", *named)})

    def _referenced_parts(self) -> dict[str, tuple[Pretrained, Any]]:
        """Return the referenced parts with their sources, except those that were replaced."""
        known = getattr(self, "_pretrained", {})
        return {k: (s, part) for k, (s, part) in known.items() if getattr(self, k) is part}

    def check_painting(
        self, slots: Tensor, output_type: str, allowed: Sequence[str] = ("pil", "np", "pt")
    ) -> None:
        """Check slots and output type before an image is painted.

        Args:
            slots: The slots to paint, `[B, K, D]`.
            output_type: The requested type of the images.
            allowed: The types that there are.

        Raises:
            ValueError: If the slots have another shape, or the output type is unknown.
        """
        slot_dim = self.slot_encoder.config.slot_dim
        if slots.ndim != 3 or slots.shape[2] != slot_dim:
            raise ValueError(f"slots must have shape [B, K, {slot_dim}], got {list(slots.shape)}")
        if output_type not in allowed:
            names = ", ".join(allowed[:-1])
            raise ValueError(f"output_type must be {names} or {allowed[-1]}, got {output_type!r}")

    def set_inference(
        self,
        *,
        num_slots: int | None = None,
        merge_overlap: float | None = None,
        merge_error: float | None = None,
    ) -> None:
        """Change how slots are inferred, also by the pipeline once saved; `None` keeps a value.

        Args:
            num_slots: See `InferenceSettings`.
            merge_overlap: See `InferenceSettings`; if it is not 0, `merge_error` becomes 0.
            merge_error: See `InferenceSettings`; if it is not 0, `merge_overlap` becomes 0.

        Raises:
            ValueError: If a value is out of its range, slots start from learned vectors and another
                number is requested, or the model decodes no sprites and `merge_error` is not 0.
        """
        if merge_overlap and merge_error is None:
            merge_error = 0.0
        elif merge_error and merge_overlap is None:
            merge_overlap = 0.0
        changes: dict[str, Any] = {
            "num_slots": num_slots,
            "merge_overlap": merge_overlap,
            "merge_error": merge_error,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        self.register_inference(self.resolution, replace(self.inference, **changes))

    def fingerprint(self) -> str:
        """Hash the weights that slots depend on: slots of another model have other meanings."""
        parts = [self.encoder, self.slot_encoder]
        return "-".join(model_fingerprint(part)[:16] for part in parts)

    def preprocess(self, images: ImageInput) -> Float[Tensor, "B 3 H W"]:
        """Pixel values in [-1, 1], ready for the encoder.

        PIL images and uint8 arrays are resized (shortest side to the trained resolution) and
        cropped in the center; float arrays `[H, W, 3]` and tensors `[3, H, W]` or `[B, 3, H, W]`
        must lie in [0, 1] and keep their size.
        """
        if isinstance(images, Tensor):
            batch = images if images.ndim == 4 else images[None]
        else:
            one = not isinstance(images, list) and np.asarray(images).ndim < 4
            several: Any = [images] if one else images
            if len(several) == 0:
                raise ValueError("there is no image to encode")
            batch = torch.stack([self._pixels(image) for image in several])
        if batch.ndim != 4 or batch.shape[1] != 3:
            raise ValueError(f"images must have shape [B, 3, H, W], got {list(batch.shape)}")
        if not batch.is_floating_point() or not (batch.min() >= 0 and batch.max() <= 1):
            raise ValueError(
                "images as tensors must be floating point in [0, 1], got "
                f"{batch.dtype} in [{batch.min().item():g}, {batch.max().item():g}]"
            )
        return batch * 2 - 1

    def _pixels(self, image: Any) -> Float[Tensor, "3 H W"]:
        """One image in [0, 1]."""
        if isinstance(image, Tensor):
            return image
        if isinstance(image, np.ndarray) and image.dtype != np.uint8:
            if image.ndim != 3:
                raise ValueError(f"an array must have shape [H, W, 3], got {list(image.shape)}")
            return torch.from_numpy(image).float().permute(2, 0, 1)
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            raise TypeError(f"an image must be PIL, an array or a tensor, got {type(image)}")
        image, _ = ResizeCenterCrop(self.resolution)(image, None)
        return (to_pixel_values(image) + 1) / 2

    @torch.no_grad()
    def encode(
        self,
        images: ImageInput,
        *,
        generator: Generator | list[Generator] | None = None,
        num_slots: int | None = None,
        slot_noise: Float[Tensor, "B K D"] | None = None,
    ) -> SlotOutput:
        """Infer the slots of images.

        Args:
            images: See `preprocess`.
            generator: Source of the initial slots: one, or a list with one per image. Another draw
                yields the slots in another order.
            num_slots: How many slots to infer; by default according to `inference`.
            slot_noise: The noise of the initial slots, instead of a draw.
        """
        pixel_values = self.preprocess(images)
        return self.encode_pixel_values(
            pixel_values, generator=generator, num_slots=num_slots, slot_noise=slot_noise
        )

    @torch.no_grad()
    def encode_pixel_values(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        *,
        generator: Generator | list[Generator] | None = None,
        num_slots: int | None = None,
        slot_noise: Float[Tensor, "B K D"] | None = None,
    ) -> SlotOutput:
        """Infer the slots of pixel values in [-1, 1], without preprocessing."""
        if num_slots is None and slot_noise is None:
            num_slots = self.num_slots
        pixel_values = pixel_values.to(self.device, self.encoder.dtype)
        features = self.encoder(pixel_values)
        out = self.slot_encoder(
            features,
            pixel_values=pixel_values,
            noise=slot_noise,
            generator=generator,
            num_slots=num_slots,
        )
        attention = out.attention.unflatten(2, features.shape[-2:])
        return self._scene(out.slots, attention, features, pixel_values)

    def _scene(
        self,
        slots: Float[Tensor, "B K D"],
        attention: Float[Tensor, "B K h w"],
        features: Float[Tensor, "B C h w"],
        pixel_values: Float[Tensor, "B 3 H W"],
    ) -> SlotOutput:
        """Compute the masks of slots, and merge slots as `inference` says."""
        masks = self.masks_of(slots, attention, pixel_values)
        max_overlap = self.inference.merge_overlap
        frames = self.has_frames
        if not max_overlap:
            return SlotOutput(slots=slots, masks=masks, has_frames=frames)
        slots, masks, exist = merge_slots(slots, masks, max_overlap=max_overlap, has_frames=frames)
        slots_mask = None if exist.all() else exist
        return SlotOutput(slots=slots, masks=masks, slots_mask=slots_mask, has_frames=frames)

    @property
    def has_frames(self) -> bool:
        """Whether slots have frames, so that they can be moved."""
        return bool(self.slot_encoder.has_frames)

    @property
    def mask_source(self) -> str:
        """The source of masks, such as `attention`."""
        return "attention"

    def use_attention_masks(self) -> None:
        """Use the slots' attention as masks from now on, even if the model predicts other masks."""

    def masks_of(
        self,
        slots: Float[Tensor, "B K D"],
        attention: Float[Tensor, "B K h w"],
        pixel_values: Float[Tensor, "B 3 H W"],
    ) -> Float[Tensor, "B K _ _"]:
        """Compute the masks of slots in the images they were inferred from; here, the attention."""
        return attention

    def segment(
        self,
        images: ImageInput,
        size: int | tuple[int, int] | None = None,
        *,
        generator: Generator | list[Generator] | None = None,
    ) -> Int[Tensor, "B H W"]:
        """Segment images by their slots, at `size` or at the size that was encoded."""
        pixel_values = self.preprocess(images)
        scene = self.encode_pixel_values(pixel_values, generator=generator)
        height, width = pixel_values.shape[-2:]
        return scene.segmentation(size or (height, width))
