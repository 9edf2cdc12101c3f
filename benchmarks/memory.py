"""What memory a training step of Stable-LSD takes, from shapes alone (docs/photographs.md).

python benchmarks/memory.py

The true sizes are built of torch's fake tensors, which know shapes and hold nothing: weights,
gradients and AdamW's two moments are counted, and every tensor that autograd keeps for the backward
pass. Not counted: what kernels need while they run, and what an allocator wastes.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from latentslots.objectives.auxiliary.alignment import FixedTwin
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from latentslots.build.stable_lsd import build_between
from latentslots.config import StableLSDConfig, TrainConfig
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.models.stable_diffusion import StableDiffusionUNet
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.pipelines.pretrained import PretrainedParts
from latentslots.recipes import recipe
from objects import DOCS, put_table

UNET = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
"""Stable Diffusion 2.1; what is not said is diffusers' default."""
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
DINOV2 = {"model_type": "dinov2", "patch_size": 14, "image_size": 518}
"""DINOv2-B; what is not said is transformers' default."""
NUM_TOKENS, TEXT_WIDTH = 77, 1024
RECIPES = ("stable-lsd-coco", "stable-lsd-coco-plus", "stable-lsd-voc", "stable-lsd-movi-e")
GPUS = (16, 24, 40, 80)


def true_parts(method: StableLSDConfig) -> PretrainedParts:
    """What the recipes load, by shape."""
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


def true_size(config: TrainConfig) -> LatentSlotDiffusionObjective:
    """A recipe's objective at its true size, on the meta device."""
    assert isinstance(config.method, StableLSDConfig)
    with torch.device("meta"):
        parts = true_parts(config.method)
        return build_between(config.method, config.data.resolution, parts)


def without_numbers(objective: LatentSlotDiffusionObjective) -> LatentSlotDiffusionObjective:
    """Its tensors as those that a CPU would have; to be called in fake tensors' mode."""
    objective.noise_schedule.alphas_cumprod = torch.empty(1000)
    return objective._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step: those that are always there, and those of each image."""

    always: int
    per_image: int

    def images(self, gigabytes: int) -> int:
        """How many images fit at once, with a tenth of the memory left free."""
        return max(0, int((0.9 * gigabytes * 2**30 - self.always) // self.per_image))


class Kept:
    """Tensors that autograd keeps for the backward pass; each storage counts once.

    Args:
        weights: What is there anyway, and does not count.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.weights = {weight.untyped_storage()._cdata for weight in weights}
        self.tensors: dict[int, Tensor] = {}
        self.largest_part = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Kept":
        """The denoiser's twin, which slots are contrasted with, is counted here, too."""
        return self

    @property
    def num_bytes(self) -> int:
        """All of them, and those of the largest part that is computed again."""
        return self.largest_part + sum(
            tensor.untyped_storage().nbytes() for tensor in self.tensors.values()
        )

    def add(self, tensor: Tensor) -> Tensor:
        """Keep a tensor."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.tensors[storage._cdata] = tensor  # held, so that no other gets its number
        return tensor

    def during(self, call: Callable[[], Any]) -> Any:
        """Call something, and keep what it keeps."""
        with torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor):
            return call()

    def checkpoint(self, part: nn.Module, *args: Any) -> Any:
        """A gradient checkpoint: what goes in is kept, and the rest for one part at a time."""
        inside = Kept(())
        inside.weights = self.weights
        out = inside.during(lambda: part(*args))
        self.largest_part = max(self.largest_part, inside.num_bytes)
        for tensor in args:
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out


def memory(config: TrainConfig, *, checkpointing: bool) -> Memory:
    """Of a step with latents and features cached, in half precision under autocast."""
    objective = true_size(config)
    with FakeTensorMode():
        objective = without_numbers(objective).train()
        two, four = (kept_by_a_step(config, objective, n, checkpointing) for n in (2, 4))
        trained = sum(p.numel() for p in objective.trained_parameters())
        weights = sum(p.numel() for p in objective.parameters())
    per_image = (four - two) // 2
    # What does not grow with images is autocast's copies of weights.
    return Memory(4 * weights + (4 + 8) * trained + two - 2 * per_image, per_image)


def kept_by_a_step(
    config: TrainConfig,
    objective: LatentSlotDiffusionObjective,
    num_images: int,
    checkpointing: bool,
) -> int:
    """Bytes that a batch leaves for the backward pass."""
    kept = Kept(objective.parameters())
    objective.fixed_unet = FixedTwin()  # whose weights are the same, but other tensors
    if checkpointing:
        objective.unet.enable_gradient_checkpointing(kept.checkpoint)
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
        kept.during(lambda: objective(batch))
    return kept.num_bytes


def rows() -> list[list[str]]:
    found = []
    for name in RECIPES:
        for checkpointing in (False, True):
            one = memory(recipe(name), checkpointing=checkpointing)
            fits = [str(one.images(size)) for size in GPUS]
            gigabytes = [f"{part / 2**30:.2f}" for part in (one.always, one.per_image)]
            found.append([f"`{name}`", "yes" if checkpointing else "no", *gigabytes, *fits])
    return found


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
