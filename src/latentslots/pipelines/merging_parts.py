"""Merge slots that are parts of one object: one slot instead of two paints the image as well.

Slots that share an object out do not overlap, so that their masks do not reveal it
(`merging.merge_slots`). But the union of their regions, encoded as one slot, is painted as well as
they are; that of two objects is not, as a slot has the size of one object's picture. So the number
of slots follows from the image, as in description lengths: a slot must be worth its error.

Dimensions: B batch, K slots, L largest number of slots that a scene keeps, P pairs, D slot
channels, F feature channels, N cells of the grid that is painted, h w token grid, H W pixels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from latentslots.device import in_double
from latentslots.models import SlotEncoder, SpriteDecoder
from latentslots.models.frames import split_frames, touching

LARGEST_GRID = 32
"""Rows and columns of the grid on which errors are compared, at most."""
LARGEST_LOG_ODDS = 25.0
"""Of two slots in a cell: the sums of a softmax can be corrected in fp64."""


@dataclass
class _Layers:
    """Slots with their regions and what each paints: colors, and logits of its mask."""

    shares: Float[Tensor, "K h w"]
    slots: Float[Tensor, "K D"]
    colors: Float[Tensor, "K N 3"]
    logits: Float[Tensor, "K N"]

    def __getitem__(self, index: list[int]) -> "_Layers":
        """Select some."""
        return _Layers(*(part[index] for part in vars(self).values()))

    def __add__(self, other: "_Layers") -> "_Layers":
        """Append others."""
        parts = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Layers(*(torch.cat(pair) for pair in parts))


def compared_pixels(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 _ _"]:
    """Reduce images to the grid on which what slots paint is compared with them."""
    height, width = (min(side, LARGEST_GRID) for side in images.shape[2:])
    return F.interpolate(images.float(), (height, width), mode="area")


@torch.no_grad()
def merge_parts(
    slots: Float[Tensor, "B K D"],
    attention: Float[Tensor, "B K h w"],
    features: Float[Tensor, "B F h w"],
    pixel_values: Float[Tensor, "B 3 H W"],
    *,
    slot_encoder: SlotEncoder,
    decoder: SpriteDecoder,
    max_error: float,
) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
    """Merge the slots of each scene, pair by pair, while the image is painted almost as well.

    In every round, of all pairs that touch, the one is merged that costs least: its slot is encoded
    from the sum of both regions. It takes the index of the first of the two, and later slots move
    up.

    Args:
        slots: The scenes.
        attention: The slots' regions.
        features: The feature maps of the images.
        pixel_values: The images in [-1, 1].
        slot_encoder: Encodes regions as slots.
        decoder: Paints slots.
        max_error: By how much a merge may raise the mean squared error of the painted image, in
            units of the square of the decoder's `color_scale`.

    Returns:
        Slots, padded with zeros, and a mask of the slots that exist.
    """
    limit = max_error * decoder.config.color_scale**2
    merged, exist = [], []
    for index in range(len(slots)):
        painter = _Painter(features[[index]], pixel_values[[index]], slot_encoder, decoder)
        scene = _merge_scene(slots[index], attention[index], painter, limit)
        merged.append(scene.slots)
        exist.append(scene.slots.new_ones(len(scene.slots), dtype=torch.bool))
    return pad_sequence(merged, batch_first=True), pad_sequence(exist, batch_first=True)


class _Painter:
    """Paints the slots of one image, at the size at which errors are compared."""

    def __init__(
        self,
        features: Float[Tensor, "1 F h w"],
        image: Float[Tensor, "1 3 H W"],
        slot_encoder: SlotEncoder,
        decoder: SpriteDecoder,
    ) -> None:
        self.features, self.image = features, image
        self.slot_encoder, self.decoder = slot_encoder, decoder
        coarse = compared_pixels(image)
        self.size = (coarse.shape[2], coarse.shape[3])
        self.target: Float[Tensor, "N 3"] = coarse[0].flatten(1).T

    def layers(self, slots: Float[Tensor, "K D"], shares: Float[Tensor, "K h w"]) -> _Layers:
        """Paint slots."""
        height, width = self.size
        colors, logits = self.decoder.layers(slots[None], height=height, width=width)
        return _Layers(shares, slots, colors[0], logits[0])

    def regions(self, shares: Float[Tensor, "P h w"]) -> _Layers:
        """Encode regions, and paint them."""
        slots = self.slot_encoder.encode_masks(self.features, shares[None], pixel_values=self.image)
        return self.layers(slots[0], shares)


def _merge_scene(
    slots: Float[Tensor, "K D"], shares: Float[Tensor, "K h w"], painter: _Painter, limit: float
) -> _Layers:
    """Merge the slots of one scene, while a merge adds at most `limit` to the squared error."""
    layers = painter.layers(slots, shares)
    pairs = _touching(slots, torch.combinations(torch.arange(len(slots), device=slots.device)))
    unions = painter.regions(shares[pairs].sum(dim=1))
    while len(pairs):
        costs = _errors(layers, pairs, unions, painter.target) - _error(layers, painter.target)
        cheapest = int(costs.argmin())
        if costs[cheapest] > limit:
            break
        first, second = pairs[cheapest].tolist()
        union = unions[[cheapest]]
        stay = [i for i, pair in enumerate(pairs.tolist()) if not {first, second} & {*pair}]
        others = [i for i in range(len(layers.slots)) if i not in (first, second)]
        layers = layers[others[:first]] + union + layers[others[first:]]
        # Pairs with the merged slot are encoded anew, those with the second disappear.
        with_first = [sorted((first, i)) for i in range(len(layers.slots)) if i != first]
        anew = _touching(layers.slots, pairs.new_tensor(with_first).view(-1, 2))
        pairs = torch.cat([pairs[stay] - (pairs[stay] > second).long(), anew])
        unions = unions[stay] + painter.regions(layers.shares[anew].sum(dim=1))
    return layers


def _touching(slots: Float[Tensor, "K D"], pairs: Int[Tensor, "P 2"]) -> Int[Tensor, "Q 2"]:
    """Select the pairs of slots that are close enough to be parts of one object."""
    near = touching(split_frames(slots[None])[1])[0]
    return pairs[near[pairs[:, 0], pairs[:, 1]]]


def _error(layers: _Layers, target: Float[Tensor, "N 3"]) -> Float[Tensor, ""]:
    """Compute the mean squared error of a painted scene."""
    masks = layers.logits.softmax(dim=0)
    return ((masks[..., None] * layers.colors).sum(dim=0) - target).square().mean()


def _errors(
    layers: _Layers,
    pairs: Int[Tensor, "P 2"],
    unions: _Layers,
    target: Float[Tensor, "N 3"],
) -> Float[Tensor, " P"]:
    """Compute the mean squared error of the scene for each pair, with the union in its place.

    Only the sums of the softmax over slots change: its terms are subtracted and added, in fp64,
    instead of computing it for every pair.
    """
    largest = layers.logits.amax(dim=0)

    def weighted(some: _Layers) -> Float[Tensor, "K N 4"]:
        weights = in_double(some.logits - largest)
        weights = weights.clamp(-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS).exp()
        return weights[..., None] * F.pad(some.colors, (0, 1), value=1.0).to(weights)

    terms = weighted(layers)
    sums = terms.sum(dim=0) - terms[pairs].sum(dim=1) + weighted(unions)
    painted = sums[..., :3] / sums[..., 3:]
    return (painted - target.to(painted)).square().mean(dim=(1, 2)).to(target)
