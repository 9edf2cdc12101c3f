"""A training run: its method, what it learns from, and how."""

from dataclasses import dataclass, field
from typing import Literal

from latentslots.config.methods import (
    AutoencoderConfig,
    DinosaurConfig,
    LSDConfig,
    SlateConfig,
    SlotAttentionConfig,
    StableLSDConfig,
)

MixedPrecision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a run learns from."""

    path: str = "data/scenes"
    """A data set made or imported by `latentslots data`, or a plain folder of images."""
    train_split: str = "train"
    """Split to learn from."""
    validation_split: str = "validation"
    """Split to validate on."""
    glob: str = ""
    """Pattern of a plain folder's images, such as `**/*.jpg`; empty for every image."""
    validation_fraction: float = 0.1
    """Share of a plain folder that is kept for validation."""
    group_by: Literal["file", "parent"] = "file"
    """What a plain folder is split by: files, or the folders (videos) that hold them."""
    resolution: int = 256
    """Pixels per side: the shortest side is resized to this, the rest cropped."""
    random_flip: bool = False
    """Mirror half of the images."""
    num_workers: int = 2
    """Processes that load images."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be read: stop, or go on without it and count."""
    cache_latents: bool = True
    """Encode the images once, before training, and read the latents from disk."""
    cache_features: bool = False
    """Do so with the features of a frozen image backbone, too: 1.6 MB for each image of 32 x 32
    features of 768 channels."""
    features: str = ""
    """Folder of the features; empty for one beside the data set's shards, or in the run folder."""
    latents: str = ""
    """Folder of the latents; empty for one beside the data set's shards, or in the run folder."""
    streaming: bool = False
    """Read the training images of a store shard after shard, wherever it lies, instead of a
    memory-mapped copy on this machine; without cached latents."""
    shuffle_buffer: int = 1000
    """Rows of a streamed data set that a worker shuffles together."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    encoder_lr_scale: float = 1.0
    """Factor on the learning rate of the image backbone."""
    decoder_lr_scale: float = 1.0
    """Factor on the learning rate of what paints from slots: the denoiser, or a baseline's
    decoder."""
    lr_scheduler: Literal["constant", "cosine", "linear_decay"] = "constant"
    """After the warm-up: constant, cosine to zero, or constant and then linear to zero."""
    lr_warmup_steps: int = 0
    """Steps in which the learning rate rises from zero."""
    lr_decay_fraction: float = 0.3
    """Last share of the run in which `linear_decay` falls to zero."""
    adam_beta1: float = 0.9
    """Decay of the mean of gradients."""
    adam_beta2: float = 0.999
    """Decay of the mean of squared gradients."""
    adam_weight_decay: float = 1e-2
    """Weight decay; not on norms, biases and the slots' start."""
    adam_epsilon: float = 1e-8
    """Added to the root of the mean square."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 for never."""
    ema_decay: float = 0.0
    """Decay of the average of weights that is validated and saved; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    method: (
        LSDConfig
        | StableLSDConfig
        | SlotAttentionConfig
        | SlateConfig
        | DinosaurConfig
        | AutoencoderConfig
    )
    """The model and its objective."""
    data: DataConfig = field(default_factory=DataConfig)
    """What it learns from."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How it learns."""
    init_from: str = ""
    """Start from the weights of a trained model: `bundled`, a run or pipeline folder, a hub id."""
    max_train_steps: int = 200_000
    """Optimizer steps."""
    max_train_minutes: float = 0.0
    """Finish after so many minutes, whatever the step; 0 for no limit."""
    train_batch_size: int = 32
    """Images per process and micro-batch."""
    gradient_accumulation_steps: int = 1
    """Micro-batches per optimizer step."""
    mixed_precision: MixedPrecision = "no"
    """Autocast type of the forward pass."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, less memory."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    channels_last: bool = True
    """Keep images as rows of pixels with their channels together, which convolutions like."""
    seed: int = 0
    """Seed of weights, order, noise and timesteps."""
    checkpointing_steps: int = 5_000
    """Steps between checkpoints; 0 for one at the end alone."""
    checkpoints_total_limit: int = 2
    """Checkpoints kept, at least one; the oldest goes when a newer one is safe."""
    validation_steps: int = 5_000
    """Steps between validations; 0 for one at the end alone."""
    num_validation_images: int = 256
    """Images of the fixed subset that is validated on."""
    preview_steps: int = 5_000
    """Steps between previews, PNGs of masks, reconstructions and samples."""
    report_to: Literal["none", "tensorboard", "wandb", "all"] = "none"
    """Trackers beside `metrics.jsonl`."""
