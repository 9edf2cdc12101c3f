"""Slot attention against a slow reference; initial slots; conditioning."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots.models import SlotAttention, SlotEncoder
from latentslots.pipelines.conditioning import guided_states
from tests.reference.slot_attention import slot_attention
from tests.tiny import NUM_SLOTS, SLOT_DIM, tiny_slot_encoder

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def perturbed(**changes: Any) -> SlotAttention:
    """A module whose norms and biases are not neutral, which would hide mistakes."""
    attention = SlotAttention(12, 16, mlp_dim=24, **changes)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return attention


def generators(*seeds: int) -> list[Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(2, 9, 12)


@pytest.fixture
def slots() -> Tensor:
    return torch.randn(2, 5, 16)


@pytest.fixture
def features() -> Tensor:
    return torch.randn(3, 16, 6, 8)


@pytest.mark.parametrize(
    ("num_heads", "num_iterations", "temperature"),
    [(1, 1, 1.0), (1, 3, 1.0), (2, 2, 0.25), (4, 3, 2.0)],
)
def test_agrees_with_loops_over_everything(
    inputs: Tensor, slots: Tensor, num_heads: int, num_iterations: int, temperature: float
) -> None:
    options = {
        "num_heads": num_heads,
        "num_iterations": num_iterations,
        "temperature": temperature,
        "eps": 0.01,
    }
    attention = perturbed(**options)
    out = attention(inputs, slots)
    expected = slot_attention(attention.state_dict(), inputs, slots, **options)
    torch.testing.assert_close((out.slots, out.attention), expected, **CLOSE)


@pytest.mark.parametrize("num_heads", [1, 4])
def test_is_equivariant_to_the_order_of_slots(
    inputs: Tensor, slots: Tensor, num_heads: int
) -> None:
    attention = perturbed(num_heads=num_heads)
    order = torch.tensor([3, 0, 4, 1, 2])
    before, after = attention(inputs, slots), attention(inputs, slots[:, order])
    torch.testing.assert_close(after.slots, before.slots[:, order], **CLOSE)
    torch.testing.assert_close(after.attention, before.attention[:, order], **CLOSE)


def test_slots_are_invariant_to_the_order_of_tokens(inputs: Tensor, slots: Tensor) -> None:
    attention = perturbed()
    order = torch.randperm(9)
    before, after = attention(inputs, slots), attention(inputs[:, order], slots)
    torch.testing.assert_close(after.slots, before.slots, **CLOSE)
    torch.testing.assert_close(after.attention, before.attention[:, :, order], **CLOSE)


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_sums_to_1_over_slots(
    inputs: Tensor, slots: Tensor, num_heads: int, dtype: torch.dtype
) -> None:
    out = perturbed(num_heads=num_heads).to(dtype)(inputs.to(dtype), slots.to(dtype))
    assert out.slots.dtype == dtype
    assert out.attention.min() > 0
    torch.testing.assert_close(out.attention.sum(dim=1), torch.ones(2, 9))


def test_a_slot_without_tokens_is_updated_by_the_plain_mean(inputs: Tensor) -> None:
    attention = perturbed(num_iterations=1)
    slots = torch.randn(2, 10, 16)  # for nine tokens: at least one slot gets none
    with torch.no_grad():
        attention.to_query.weight.mul_(1e4)  # attention is one-hot
        out = attention(inputs, slots)
        image, slot = (out.attention.amax(dim=2) == 0).nonzero()[0].tolist()
        mean = attention.to_value(attention.norm_inputs(inputs[image])).mean(dim=0)
        expected = attention.gru(mean[None], slots[image, slot][None])
        expected = expected + attention.mlp(attention.norm_mlp(expected))
    torch.testing.assert_close(out.slots[image, slot], expected[0], **CLOSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_iterations": 0}, "num_iterations must be at least 1, got 0"),
        ({"num_heads": 3}, "num_heads must divide slot_dim 16, got 3"),
        ({"num_heads": 0}, "num_heads must divide slot_dim 16, got 0"),
        ({"temperature": 0.0}, "temperature must be more than 0, got 0.0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlotAttention(12, 16, mlp_dim=24, **options)


class TestBiLevel:
    """BO-QSA: all iterations but the last are an initialization without gradients."""

    def test_changes_no_value(self, inputs: Tensor, slots: Tensor) -> None:
        plain, bi_level = perturbed(), perturbed(bi_level=True)
        bi_level.load_state_dict(plain.state_dict())
        torch.testing.assert_close(plain(inputs, slots).slots, bi_level(inputs, slots).slots)

    def test_gradients_are_those_of_the_last_iteration(self, inputs: Tensor, slots: Tensor) -> None:
        bi_level = perturbed(bi_level=True, num_iterations=3)
        first, last = perturbed(num_iterations=2), perturbed(num_iterations=1)
        for other in (first, last):
            other.load_state_dict(bi_level.state_dict())

        slots.requires_grad_()
        bi_level(inputs, slots).slots.square().sum().backward()
        with torch.no_grad():
            refined = first(inputs, slots).slots
        refined.requires_grad_()
        last(inputs, refined).slots.square().sum().backward()

        torch.testing.assert_close(slots.grad, refined.grad, **CLOSE)
        for ours, expected in zip(bi_level.parameters(), last.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad, **CLOSE)

    def test_without_it_gradients_pass_through_every_iteration(
        self, inputs: Tensor, slots: Tensor
    ) -> None:
        gradients = []
        plain, bi_level = perturbed(), perturbed(bi_level=True)
        bi_level.load_state_dict(plain.state_dict())
        for attention in (plain, bi_level):
            start = slots.clone().requires_grad_()
            attention(inputs, start).slots.square().sum().backward()
            gradients.append(start.grad)
        assert not torch.allclose(*gradients, rtol=0.01)


class TestInitialSlots:
    """Noise, learned vectors, and the number of slots."""

    def test_gaussian_slots_are_the_learned_mean_and_deviation_of_the_noise(self) -> None:
        encoder = tiny_slot_encoder()
        noise = torch.randn(2, 5, SLOT_DIM)
        expected = encoder.slot_mean + torch.exp(encoder.slot_log_std) * noise
        torch.testing.assert_close(encoder.initial_slots(2, noise=noise), expected)

    def test_an_image_draws_from_its_own_generator(self, features: Tensor) -> None:
        encoder = tiny_slot_encoder()
        together = encoder(features, generator=generators(3, 4, 5)).slots
        for image, seed in enumerate((3, 4, 5)):
            alone = encoder(features[image : image + 1], generator=generators(seed)[0]).slots
            torch.testing.assert_close(together[image : image + 1], alone, **CLOSE)
            listed = encoder(features[image : image + 1], generator=generators(seed)).slots
            torch.testing.assert_close(listed, alone)

    def test_one_generator_serves_images_in_turn(self) -> None:
        encoder = tiny_slot_encoder()
        source = generators(7)[0]
        singly = torch.cat([encoder.draw_noise(1, generator=source) for _ in range(3)])
        torch.testing.assert_close(encoder.draw_noise(3, generator=generators(7)[0]), singly)

    def test_a_generator_draws_the_noise_that_draw_noise_returns(self, features: Tensor) -> None:
        encoder = tiny_slot_encoder()
        noise = encoder.draw_noise(3, generator=generators(1)[0])
        torch.testing.assert_close(
            encoder(features, noise=noise).slots,
            encoder(features, generator=generators(1)[0]).slots,
        )

    @pytest.mark.parametrize("num_slots", [1, 2, 7])
    def test_the_number_of_slots_is_chosen_at_call_time(
        self, features: Tensor, num_slots: int
    ) -> None:
        out = tiny_slot_encoder()(features, num_slots=num_slots)
        assert out.slots.shape == (3, num_slots, SLOT_DIM)
        assert out.attention.shape == (3, num_slots, 48)
        torch.testing.assert_close(out.attention.sum(dim=1), torch.ones(3, 48))

    def test_the_number_of_slots_of_training_is_the_default(self, features: Tensor) -> None:
        assert tiny_slot_encoder()(features).slots.shape[1] == NUM_SLOTS

    def test_learned_slots_are_the_same_vectors_for_every_image(self, features: Tensor) -> None:
        encoder = tiny_slot_encoder(slot_init="learned")
        start = encoder.initial_slots(2, num_slots=3)
        torch.testing.assert_close(start, encoder.slot_mean[:, :3].expand(2, -1, -1))
        torch.testing.assert_close(encoder(features).slots, encoder(features).slots)

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize(
        ("slot_init", "arguments", "message"),
        [
            ("gaussian", {"num_slots": 0}, "num_slots must be at least 1, got 0"),
            (
                "gaussian",
                {"num_slots": 3, "noise": torch.zeros(3, 2, SLOT_DIM)},
                "noise is for 2 slots, but num_slots=3",
            ),
            (
                "gaussian",
                {"noise": torch.zeros(2, 4, SLOT_DIM)},
                r"noise must have shape \[3, K, 16\], got \[2, 4, 16\]",
            ),
            (
                "gaussian",
                {"generator": generators(1, 2)},
                "2 generators were given for 3 images",
            ),
            ("learned", {"noise": torch.zeros(3, 4, SLOT_DIM)}, "take no noise"),
            ("learned", {"num_slots": 5}, "at most 4, the number of learned slots, got 5"),
        ],
    )
    def test_contradictions_are_refused(
        self, features: Tensor, slot_init: str, arguments: dict[str, Any], message: str
    ) -> None:
        encoder = tiny_slot_encoder(slot_init=slot_init)
        with pytest.raises(ValueError, match=message):
            encoder(features, **arguments)

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_slots": 0}, "num_slots must be at least 1, got 0"),
            ({"slot_init": "uniform"}, "'gaussian' or 'learned', got 'uniform'"),
            ({"num_registers": -1}, "num_registers must be 0 or more, got -1"),
            ({"position": "polar"}, "position must be one of .*, got 'polar'"),
        ],
    )
    def test_wrong_options_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny_slot_encoder(**options)


def test_autocast_keeps_small_differences_of_slots(inputs: Tensor) -> None:
    attention = perturbed()
    start = torch.randn(2, 1, 16).repeat(1, 2, 1)
    start[:, 1] += 1e-4 * torch.randn(2, 16)

    def difference() -> Tensor:
        slots = attention(inputs, start).slots
        assert slots.dtype == torch.float32
        return slots[:, 1] - slots[:, 0]

    expected = difference()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = difference()
    assert (rounded - expected).norm() < 0.1 * expected.norm()


class TestCondition:
    """Vectors that the decoder attends to: slots, registers, and the unconditional branch."""

    @pytest.fixture
    def slots(self) -> Tensor:
        return torch.randn(2, 3, SLOT_DIM)

    @pytest.fixture
    def slots_mask(self) -> Tensor:
        return torch.tensor([[True, True, False], [True, False, False]])

    @pytest.fixture(params=[{"num_registers": 2}, {"null_condition": True}], ids=str)
    def encoder(self, request: pytest.FixtureRequest) -> Iterator[SlotEncoder]:
        encoder = tiny_slot_encoder(**request.param)
        if encoder.null is not None:
            torch.nn.init.normal_(encoder.null)
        return encoder

    def test_is_the_projection_of_the_slots(self, slots: Tensor, slots_mask: Tensor) -> None:
        encoder = tiny_slot_encoder()
        states, mask = encoder.condition(slots, slots_mask)
        torch.testing.assert_close(states, encoder.project(slots))
        assert mask is slots_mask
        assert encoder.condition(slots)[1] is None
        assert not encoder.can_drop_condition
        torch.testing.assert_close(encoder.condition(None)[0], torch.zeros(1, 1, 16))

    def test_registers_follow_the_slots_and_are_never_masked(
        self, slots: Tensor, slots_mask: Tensor
    ) -> None:
        encoder = tiny_slot_encoder(num_registers=2)
        states, mask = encoder.condition(slots, slots_mask)
        torch.testing.assert_close(states[:, :3], encoder.project(slots))
        torch.testing.assert_close(states[:, 3:], encoder.registers.expand(2, -1, -1))
        assert mask.tolist() == [[True, True, False, True, True], [True, False, False, True, True]]
        assert encoder.condition(slots)[1] is None
        torch.testing.assert_close(encoder.condition(None)[0], encoder.registers[None])

    @pytest.mark.parametrize("masked", [False, True])
    def test_the_condition_of_a_dropped_scene_is_the_unconditional_branch(
        self, encoder: SlotEncoder, slots: Tensor, slots_mask: Tensor, masked: bool
    ) -> None:
        slots_mask[0] = False  # even for a scene without slots
        slots_mask = slots_mask if masked else None
        dropped = torch.tensor([True, False])
        states, mask = encoder.condition(slots, slots_mask, dropped=dropped)
        visible = states[0] if mask is None else states[0][mask[0]]
        unconditional = encoder.condition(None)[0][0]
        torch.testing.assert_close(visible.unique(dim=0), unconditional.unique(dim=0))

        kept_states, kept_mask = encoder.condition(
            slots[1:], None if not masked else slots_mask[1:]
        )
        torch.testing.assert_close(states[1:], kept_states, **CLOSE)
        expected = torch.ones(states.shape[1], dtype=torch.bool)
        expected = expected if kept_mask is None else kept_mask[0]
        assert (expected if mask is None else mask[1]).tolist() == expected.tolist()

    def test_a_constant_unconditional_branch_is_cut_to_the_slots(self, slots: Tensor) -> None:
        encoder = tiny_slot_encoder(num_given_null=5)
        prompt = torch.randn(5, 16)
        encoder.set_constants(prompt)
        assert encoder.null is not None
        assert not encoder.null.requires_grad
        assert encoder.can_drop_condition
        states, _ = encoder.condition(slots, dropped=torch.tensor([True, False]))
        torch.testing.assert_close(states[0], prompt[:3])
        torch.testing.assert_close(states[1], encoder.project(slots)[1])
        torch.testing.assert_close(encoder.condition(None)[0], prompt[None])
        with pytest.raises(ValueError, match="has 5 vectors, too few for 6 slots"):
            encoder.condition(torch.randn(1, 6, SLOT_DIM), dropped=torch.tensor([True]))

    def test_a_padded_unconditional_branch_is_whole(self, slots: Tensor) -> None:
        """The decoder attends to all of the empty prompt, and to slots as without the padding."""
        encoder = tiny_slot_encoder(num_given_null=5, pad_null=True)
        prompt = torch.randn(5, 16)
        encoder.set_constants(prompt)
        exist = torch.tensor([[True, True, False], [True, False, True]])
        dropped = torch.tensor([True, False])
        states, mask = encoder.condition(slots, exist, dropped=dropped)
        assert mask is not None
        assert mask.tolist() == [[True] * 5, [True, False, True, False, False]]
        torch.testing.assert_close(states[0], prompt)

        def attended(states: Tensor, mask: Tensor) -> Tensor:
            query = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
            return F.scaled_dot_product_attention(query, states, states, attn_mask=mask[None])

        torch.testing.assert_close(
            attended(states[1], mask[1]), attended(encoder.project(slots)[1], exist[1])
        )
        condition, masks = guided_states(encoder, slots, exist, guidance_scale=2.0)
        assert masks is not None
        for row in range(2):
            torch.testing.assert_close(
                attended(condition[row], masks[row]),
                attended(encoder.project(slots)[row], exist[row]),
            )
            assert masks[2 + row].all()
            torch.testing.assert_close(condition[2 + row], prompt)
        with pytest.raises(ValueError, match="has 5 vectors, too few for 6 slots"):
            encoder.condition(torch.randn(1, 6, SLOT_DIM), dropped=torch.tensor([True]))
        with pytest.raises(ValueError, match="num_slots must be at most 2, the vectors of the"):
            tiny_slot_encoder(num_given_null=2)
        with pytest.raises(ValueError, match="pad_null needs the vectors of an unconditional"):
            tiny_slot_encoder(pad_null=True)

    def test_registers_that_are_constant(self, slots: Tensor, tmp_path: Path) -> None:
        encoder = tiny_slot_encoder(num_registers=5, given_registers=True)
        prompt = torch.randn(5, 16)
        encoder.set_constants(prompt)
        assert encoder.registers is not None
        assert not encoder.registers.requires_grad
        torch.testing.assert_close(encoder.condition(slots)[0][0, 3:], prompt)
        encoder.save_pretrained(tmp_path)
        again = SlotEncoder.from_pretrained(tmp_path)
        assert again.registers is not None
        assert torch.equal(again.registers, prompt)
        assert not again.registers.requires_grad
        with pytest.raises(ValueError, match=r"must have shape \[5, 16\], got \[4, 16\]"):
            encoder.set_constants(prompt[:4])
        for learned in ({}, {"num_registers": 5}, {"null_condition": True}):
            with pytest.raises(ValueError, match="learns its registers, or has none"):
                tiny_slot_encoder(**learned).set_constants(prompt)
        with pytest.raises(ValueError, match="num_given_null must be 0 or more, got -1"):
            tiny_slot_encoder(num_given_null=-1)

    def test_dropping_requires_an_unconditional_branch(self, slots: Tensor) -> None:
        with pytest.raises(ValueError, match="needs registers or null_condition=True"):
            tiny_slot_encoder().condition(slots, dropped=torch.tensor([True, False]))


def test_without_cross_attention_there_is_no_projection() -> None:
    encoder = tiny_slot_encoder(cross_attention_dim=0)
    assert not any(name.startswith(("norm_out", "linear_out")) for name in encoder.state_dict())
    with pytest.raises(ValueError, match="slots cannot be projected: cross_attention_dim is 0"):
        encoder.project(torch.zeros(1, 4, 16))
    for extra in ({"num_registers": 2}, {"null_condition": True}):
        with pytest.raises(ValueError, match="require cross-attention, but"):
            tiny_slot_encoder(cross_attention_dim=0, **extra)
    with pytest.raises(ValueError, match="cross_attention_dim must be 0 or more, got -1"):
        tiny_slot_encoder(cross_attention_dim=-1)
    projecting = tiny_slot_encoder()
    noise = torch.randn(2, 4, 16)
    encoder.load_state_dict({k: projecting.state_dict()[k] for k in encoder.state_dict()})
    features = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(
        encoder(features, noise=noise).slots, projecting(features, noise=noise).slots
    )
