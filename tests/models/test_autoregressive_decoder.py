"""The autoregressive decoder: equal to torch's layers, causal, and the same token by token."""

import pytest
import torch
from torch import Tensor, nn

from latentslots.models import AutoregressiveDecoder
from tests.tiny import tiny_autoregressive_decoder


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference(model: AutoregressiveDecoder, tokens: Tensor, slots: Tensor) -> Tensor:
    """The same network, of torch's layers."""
    dim, heads = model.config.hidden_dim, model.config.num_heads
    start = model.start.expand(len(tokens), -1, -1)
    hidden = torch.cat([start, model.token_in(tokens[:, :-1])], dim=1) + model.position_table
    mask = nn.Transformer.generate_square_subsequent_mask(hidden.shape[1])
    for block in model.blocks:
        layer = nn.TransformerDecoderLayer(
            dim, heads, 4 * dim, dropout=0.0, batch_first=True, norm_first=True
        )
        for theirs, ours in (
            (layer.self_attn, block.attention),
            (layer.multihead_attn, block.cross_attention),
        ):
            parts = (ours.to_query, ours.to_key, ours.to_value)
            theirs.in_proj_weight = nn.Parameter(torch.cat([part.weight for part in parts]))
            theirs.in_proj_bias = nn.Parameter(torch.cat([part.bias for part in parts]))
            theirs.out_proj.load_state_dict(ours.to_out.state_dict())
        for name in ("norm1", "norm2", "norm3", "linear1", "linear2"):
            getattr(layer, name).load_state_dict(getattr(block, name).state_dict())
        hidden = layer(hidden, model.slot_in(slots), tgt_mask=mask)
    return model.token_out(model.norm_out(hidden))


@torch.no_grad()
def test_agrees_with_the_transformer_of_torch() -> None:
    model, tokens, slots = tiny_autoregressive_decoder(), normal(2, 64, 8), normal(2, 3, 16)
    torch.testing.assert_close(
        model(tokens, slots), reference(model, tokens, slots), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_a_prediction_depends_on_the_tokens_before_it_alone() -> None:
    model, tokens, slots = tiny_autoregressive_decoder(), normal(1, 64, 8), normal(1, 3, 16)
    changed = tokens.clone()
    changed[:, 20] += 1
    before, after = model(tokens, slots), model(changed, slots)
    torch.testing.assert_close(after[:, :21], before[:, :21], atol=1e-6, rtol=0)
    assert not torch.allclose(after[:, 21], before[:, 21], atol=1e-5)
    assert not torch.allclose(after[:, 63], before[:, 63], atol=1e-6)


@torch.no_grad()
def test_steps_predict_the_same_as_teacher_forcing() -> None:
    model, tokens, slots = tiny_autoregressive_decoder(), normal(2, 64, 8), normal(2, 3, 16)
    exist = torch.tensor([[True, True, False], [True, True, True]])
    cache = model.begin(slots, slots_mask=exist)
    steps = [model.step(None if n == 0 else tokens[:, n - 1], cache) for n in range(64)]
    expected = model(tokens, slots, slots_mask=exist)
    torch.testing.assert_close(torch.stack(steps, dim=1), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="an image has 64 tokens; all of them exist already"):
        model.step(tokens[:, 0], cache)


@torch.no_grad()
def test_masked_slots_and_the_order_of_slots_have_no_effect() -> None:
    model, tokens, slots = tiny_autoregressive_decoder(), normal(2, 64, 8), normal(2, 3, 16)
    exist = torch.tensor([[True, True, False]]).expand(2, -1)
    masked = model(tokens, slots, slots_mask=exist)
    torch.testing.assert_close(masked, model(tokens, slots[:, :2]), atol=1e-4, rtol=1e-4)
    permuted = model(tokens, slots[:, [2, 0, 1]])
    torch.testing.assert_close(permuted, model(tokens, slots), atol=1e-4, rtol=1e-4)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must divide the width of the transformer, 16, got 3"):
        tiny_autoregressive_decoder(num_heads=3)
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        tiny_autoregressive_decoder(num_layers=0)
    with pytest.raises(ValueError, match="an image must have 64 tokens, got 9"):
        tiny_autoregressive_decoder()(normal(1, 9, 8), normal(1, 3, 16))
