"""Memory of a training step of Stable-LSD, computed from shapes (docs/photographs.md).

python benchmarks/memory.py

The full-size models are built with torch's fake tensors, which have shapes but no data. Counted are
weights, gradients, AdamW's two moments, and every tensor that autograd saves for the backward pass;
not counted are the workspaces of kernels and the fragmentation of the allocator.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from latentslots.build.stable_lsd import build_between
from latentslots.config import StableLSDConfig, TrainConfig
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.models.stable_diffusion import StableDiffusionUNet
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.objectives.auxiliary import ContrastLoss
from latentslots.objectives.auxiliary.contrast import FrozenView
from latentslots.pipelines.pretrained import PretrainedParts
from latentslots.recipes import recipe
from objects import DOCS, put_table

UNET = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
"""Stable Diffusion 2.1, where it differs from diffusers' defaults."""
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
DINOV2 = {"model_type": "dinov2", "patch_size": 14, "image_size": 518}
"""DINOv2-B, where it differs from transformers' defaults."""
NUM_TOKENS, TEXT_WIDTH = 77, 1024
RECIPES = ("stable-lsd-coco", "stable-lsd-coco-plus", "stable-lsd-voc", "stable-lsd-movi-e")
GPUS = (16, 24, 40, 80)


def full_size_parts(method: StableLSDConfig) -> PretrainedParts:
    """The pretrained parts of a recipe, with random weights."""
    return PretrainedParts(
        encoder=DINOv2Encoder(
            architecture=DINOV2,
            image_size=method.encoder.image_size,
            num_layers=method.encoder.num_layers,
        ).eval(),
        unet=StableDiffusionUNet(
            architecture=UNET, tuned=method.unet.tuned, lora_rank=method.unet.lora_rank
        ).eval(),
        vae=AutoencoderKL(**VAE).eval(),
        noise_schedule=DDPMScheduler(prediction_type="v_prediction"),
        empty_prompt=torch.empty(NUM_TOKENS, TEXT_WIDTH),
    )


def full_size(config: TrainConfig) -> LatentSlotDiffusionObjective:
    """The objective of a recipe at full size, on the meta device."""
    assert isinstance(config.method, StableLSDConfig)
    with torch.device("meta"):
        parts = full_size_parts(config.method)
        return build_between(config.method, config.data.resolution, parts)


def with_fake_tensors(objective: LatentSlotDiffusionObjective) -> LatentSlotDiffusionObjective:
    """Replace the tensors of an objective by tensors on the CPU, inside `FakeTensorMode`."""
    objective.noise_schedule.alphas_cumprod = torch.empty(1000)
    return objective._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step: a constant, and those of each image."""

    always: int
    per_image: int

    def images(self, gigabytes: int) -> int:
        """The largest batch that fits, with a tenth of the memory left free."""
        return max(0, int((0.9 * gigabytes * 2**30 - self.always) // self.per_image))


class SavedTensors:
    """Tensors that autograd saves for the backward pass; each storage counts once.

    Args:
        weights: Weights of the model, which do not count.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.weights = {weight.untyped_storage()._cdata for weight in weights}
        self.tensors: dict[int, Tensor] = {}
        self.largest_part = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "SavedTensors":
        """Tensors of the frozen view of the denoiser count, too."""
        return self

    @property
    def num_bytes(self) -> int:
        """Bytes of all saved tensors, and of the largest checkpointed part when recomputed."""
        return self.largest_part + sum(
            tensor.untyped_storage().nbytes() for tensor in self.tensors.values()
        )

    def add(self, tensor: Tensor) -> Tensor:
        """Count a saved tensor."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.tensors[storage._cdata] = tensor  # a reference, so that no storage reuses its id
        return tensor

    def during(self, call: Callable[[], Any]) -> Any:
        """Call a function, and count the tensors that autograd saves meanwhile."""
        with torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor):
            return call()

    def checkpoint(self, part: nn.Module, *args: Any) -> Any:
        """A gradient checkpoint: inputs are saved, and the rest for one part at a time."""
        inside = SavedTensors(())
        inside.weights = self.weights
        out = inside.during(lambda: part(*args))
        self.largest_part = max(self.largest_part, inside.num_bytes)
        for tensor in args:
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out


def memory(config: TrainConfig, *, checkpointing: bool) -> Memory:
    """Memory of a step with cached latents and features, under half-precision autocast."""
    objective = full_size(config)
    with FakeTensorMode():
        objective = with_fake_tensors(objective)
        two, four = (
            saved_by_a_step(config, objective, n, checkpointing=checkpointing) for n in (2, 4)
        )
        trained = sum(p.numel() for p in objective.trained_parameters())
        weights = sum(p.numel() for p in objective.parameters())
    per_image = (four - two) // 2
    # The part that does not grow with images is autocast's copies of weights.
    return Memory(4 * weights + (4 + 8) * trained + two - 2 * per_image, per_image)


def renew_frozen_views(objective: LatentSlotDiffusionObjective) -> None:
    """Discard frozen views, whose weights are other tensors with the same storages."""
    for added in objective.auxiliary:
        if isinstance(added, ContrastLoss):
            added.frozen_view = FrozenView()


def saved_by_a_step(
    config: TrainConfig,
    objective: LatentSlotDiffusionObjective,
    num_images: int,
    *,
    checkpointing: bool,
) -> int:
    """Bytes that autograd saves in the forward pass of a batch."""
    saved = SavedTensors(objective.parameters())
    renew_frozen_views(objective)
    if checkpointing:
        objective.unet.enable_gradient_checkpointing(saved.checkpoint)
    objective.train().begin_step(config.max_train_steps)
    size, grid = config.data.resolution // 8, objective.encoder.grid_size
    method = config.method
    batch = {
        "pixel_values": torch.empty(num_images, 3, 1, 1),
        "latents": torch.empty(num_images, 4, size, size),
        "features": torch.empty(num_images, objective.encoder.out_channels, grid, grid),
        "slot_noise": torch.empty(num_images, method.num_slots, method.slot_dim),
    }
    with torch.autocast("cpu", torch.bfloat16):
        saved.during(lambda: objective(batch))
    return saved.num_bytes


def rows() -> list[list[str]]:
    table = []
    for name in RECIPES:
        for checkpointing in (False, True):
            one = memory(recipe(name), checkpointing=checkpointing)
            fits = [str(one.images(size)) for size in GPUS]
            gigabytes = [f"{part / 2**30:.2f}" for part in (one.always, one.per_image)]
            table.append([f"`{name}`", "yes" if checkpointing else "no", *gigabytes, *fits])
    return table


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    fits = [f"images in {size} GB" for size in GPUS]
    head = ["recipe", "checkpoints", "GiB always", "GiB per image", *fits]
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows())]
    lines.insert(1, "|---" * len(head) + "|")
    text = "\n".join(lines)
    print(text)
    put_table(text, DOCS / "photographs.md")


if __name__ == "__main__":
    main()
