"""A small classifier of objects in images, which judges what a model paints.

It is trained on crops of real objects with labels, and then reads the same attribute off the
objects in painted images. So it measures whether an attribute reaches the image, where a probe
measures whether it is in the slot.

Dimensions: B images, M objects, S side of a crop in pixels.
"""

import copy

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

CROP_SIZE = 32
MARGIN = 1.4
"""Side of a crop, as a multiple of the longer side of the object's box."""
SMALLEST_SIDE = 8.0
"""Side of the smallest crop, in pixels of the image."""
NUM_EPOCHS, BATCH_SIZE, LEARNING_RATE, VALIDATION_SHARE = 15, 64, 2e-3, 0.15


def crop_objects(
    images: Float[Tensor, "B 3 H W"], boxes: Float[Tensor, "M 4"], owners: Int[Tensor, " M"]
) -> Float[Tensor, "M 3 S S"]:
    """Crop squares around boxes, resized to 32 x 32 pixels; pixels beyond the image are black.

    Args:
        images: Images in [-1, 1].
        boxes: Top, left, bottom and right of every object, in pixels.
        owners: Index of the image of every object.
    """
    height, width = images.shape[2:]
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = ((boxes[:, 2:] - boxes[:, :2]).amax(dim=1) * MARGIN).clamp(min=SMALLEST_SIDE)
    theta = torch.zeros(len(boxes), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side / width, side / height
    theta[:, 0, 2] = center[:, 1] / width * 2 - 1
    theta[:, 1, 2] = center[:, 0] / height * 2 - 1
    grid = F.affine_grid(theta, [len(boxes), 3, CROP_SIZE, CROP_SIZE], align_corners=False)
    crops = F.grid_sample((images[owners] + 1) / 2, grid, align_corners=False)
    return crops * 2 - 1


class CropClassifier(nn.Module):
    """Four convolutions and a linear layer, from crops to the logits of classes."""

    def __init__(self, num_classes: int, *, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for factor, stride in ((1, 1), (2, 2), (4, 2), (4, 2)):
            out = width * factor
            layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.GroupNorm(8, out), nn.ReLU()]
            channels = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels * 2, num_classes))

    def forward(self, crops: Float[Tensor, "M 3 S S"]) -> Float[Tensor, "M C"]:
        """Compute the logits of the classes."""
        features = self.features(crops).flatten(2)
        return self.head(torch.cat([features.mean(dim=2), features.amax(dim=2)], dim=1))

    @torch.no_grad()
    def predict(self, crops: Float[Tensor, "M 3 S S"]) -> Int[Tensor, " M"]:
        """Return the likeliest class of every crop."""
        self.eval()
        parts = [self(part).argmax(dim=1) for part in torch.split(crops, 256)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def train_crop_classifier(
    crops: Float[Tensor, "M 3 S S"],
    labels: Int[Tensor, " M"],
    owners: Int[Tensor, " M"],
    *,
    num_classes: int,
    seed: int = 0,
) -> CropClassifier:
    """Train a classifier; the epoch with the best accuracy on held-out images is kept.

    Crops are mirrored, shifted by up to two pixels and changed in brightness at random.

    Args:
        crops: Crops of objects (`crop_objects`).
        labels: Their classes.
        owners: Index of the image of every object; images are held out as a whole.
        num_classes: Number of classes.
        seed: Seed of the initial weights and of all draws.

    Raises:
        ValueError: If there are objects of fewer than two images.
    """
    images = torch.unique(owners)
    if len(images) < 2:
        raise ValueError(f"the classifier needs objects of two images or more, got {len(images)}")
    draws = Generator().manual_seed(seed)
    held_out = images[torch.randperm(len(images), generator=draws)]
    held_out = held_out[: max(1, round(len(images) * VALIDATION_SHARE))]
    is_held_out = torch.isin(owners, held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = CropClassifier(num_classes)
        _fit(classifier, crops, labels, is_held_out, draws)
    return classifier


def _fit(
    classifier: CropClassifier,
    crops: Tensor,
    labels: Tensor,
    is_held_out: Tensor,
    draws: Generator,
) -> None:
    training = (~is_held_out).nonzero()[:, 0]
    steps = NUM_EPOCHS * -(-len(training) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    best, best_state = -1.0, {}
    for _ in range(NUM_EPOCHS):
        classifier.train()
        order = training[torch.randperm(len(training), generator=draws)]
        for part in torch.split(order, BATCH_SIZE):
            logits = classifier(_augment(crops[part], draws))
            loss = F.cross_entropy(logits, labels[part], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        predicted = classifier.predict(crops[is_held_out])
        accuracy = (predicted == labels[is_held_out]).float().mean().item()
        if accuracy >= best:
            best, best_state = accuracy, copy.deepcopy(classifier.state_dict())
    classifier.load_state_dict(best_state)
    classifier.eval()


def _augment(crops: Tensor, draws: Generator) -> Tensor:
    mirrored = torch.rand(len(crops), 1, 1, 1, generator=draws) < 0.5
    crops = torch.where(mirrored, crops.flip(3), crops)
    down, right = torch.randint(-2, 3, (2,), generator=draws).tolist()
    crops = crops.roll((down, right), dims=(2, 3))
    return crops * (0.85 + 0.3 * torch.rand(len(crops), 1, 1, 1, generator=draws))
