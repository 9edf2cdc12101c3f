"""A training run: its method, data and optimizer."""

from dataclasses import dataclass, field
from typing import Literal

from latentslots.config.methods import MethodConfig
from latentslots.config.ranges import Count, CountOrNone, Share, ShareBelowOne, Weight

MixedPrecision = Literal["no", "fp16", "bf16", "auto"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data of a run."""

    path: str = "data/scenes"
    """A data set made or imported by `latentslots data`, or a plain folder of images."""
    train_split: str = "train"
    """Split to train on."""
    validation_split: str = "validation"
    """Split to validate on."""
    glob: str = ""
    """Pattern of a plain folder's images, such as `**/*.jpg`; empty for every image."""
    validation_fraction: Share = 0.1
    """Share of a plain folder that is held out for validation."""
    group_by: Literal["file", "parent"] = "file"
    """Unit by which a plain folder is split: files, or the folders (videos) that contain them."""
    resolution: Count = 256
    """Pixels per side: the shortest side is resized to this, the rest cropped."""
    random_flip: bool = False
    """Mirror half of the images."""
    num_workers: CountOrNone = 2
    """Processes that load images."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """Whether an image that cannot be read is an error, or is skipped and counted."""
    cache_latents: bool = True
    """Encode the images once, before training, and read the latents from disk."""
    cache_features: bool = False
    """Cache the features of a frozen image backbone, too: 1.6 MB per image of 32 x 32 features of
    768 channels."""
    features: str = ""
    """Folder of the features; empty for one beside the data set's shards, or in the run folder."""
    latents: str = ""
    """Folder of the latents; empty for one beside the data set's shards, or in the run folder."""
    streaming: bool = False
    """Read the training images of a local or remote store shard after shard, instead of a
    memory-mapped copy on this machine; without cached latents."""
    shuffle_buffer: Count = 1000
    """Rows of a streamed data set that a worker shuffles together."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule."""

    learning_rate: Weight = 1e-4
    """Peak learning rate."""
    encoder_lr_scale: Weight = 1.0
    """Factor on the learning rate of the image backbone."""
    decoder_lr_scale: Weight = 1.0
    """Factor on the learning rate of the decoder: the denoiser, or a baseline's decoder."""
    lr_scheduler: Literal["constant", "cosine", "linear_decay"] = "constant"
    """After the warm-up: constant, cosine to zero, or constant and then linear to zero."""
    lr_warmup_steps: CountOrNone = 0
    """Steps in which the learning rate increases from zero."""
    lr_decay_fraction: Share = 0.3
    """Last share of the run, in which `linear_decay` decreases to zero."""
    adam_beta1: ShareBelowOne = 0.9
    """Decay of the first moment."""
    adam_beta2: ShareBelowOne = 0.999
    """Decay of the second moment."""
    adam_weight_decay: Weight = 1e-2
    """Weight decay; not on norms, biases and initial slots."""
    adam_epsilon: Weight = 1e-8
    """Added to the denominator of the update."""
    max_grad_norm: Weight = 1.0
    """Norm to which gradients are clipped; 0 for no clipping."""
    clip_parts: bool = False
    """Clip the gradient of every trained part (encoder, slots, denoiser, patch decoder) by itself
    and log its norm, instead of clipping all together: then the part with the largest loss does not
    decide about the step of the others."""
    ema_decay: ShareBelowOne = 0.0
    """Decay of the exponential moving average of weights (EMA), which is validated and saved; 0 for
    none."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    method: MethodConfig
    """The model and its objective."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer."""
    init_from: str = ""
    """Start from the weights of a trained model: `bundled`, a run or pipeline folder, a hub id."""
    max_train_steps: Count = 200_000
    """Optimizer steps."""
    max_train_minutes: Weight = 0.0
    """Minutes after which the run ends, at whatever step; 0 for no limit."""
    train_batch_size: Count = 32
    """Images per process and micro-batch."""
    gradient_accumulation_steps: Count = 1
    """Micro-batches per optimizer step."""
    mixed_precision: MixedPrecision = "no"
    """Autocast type of the forward pass; `auto` chooses bf16 if a trial at the start shows that it
    is faster than fp32, which is not so on every CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, with less memory."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    channels_last: bool = True
    """Store images with their channels last, which makes convolutions faster."""
    seed: CountOrNone = 0
    """Seed of weights, order, noise and timesteps."""
    checkpointing_steps: CountOrNone = 5_000
    """Steps between checkpoints; 0 for one at the end alone."""
    checkpoints_total_limit: Count = 2
    """Number of checkpoints to keep; the oldest is removed once a newer one is complete."""
    validation_steps: CountOrNone = 5_000
    """Steps between validations; 0 for one at the end alone."""
    num_validation_images: Count = 256
    """Images of the fixed validation subset."""
    preview_steps: CountOrNone = 5_000
    """Steps between previews, figures of masks, reconstructions and samples; 0 for one at the end
    alone."""
    report_to: Literal["none", "tensorboard", "wandb", "all"] = "none"
    """Trackers beside `metrics.jsonl`."""
