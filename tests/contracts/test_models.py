"""The contract of every model: saving, strict configs, gradients, batches, bfloat16, sizes."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModelMixin
from diffusers.utils import logging as diffusers_logging
from torch import Tensor

from latentslots.fingerprint import model_fingerprint
from latentslots.models import (
    AutoregressiveDecoder,
    BroadcastDecoder,
    DiscreteVAE,
    FeatureDecoder,
    PatchDecoder,
    ResidualEncoder,
    SlotEncoder,
    SlotUNet,
    UNetEncoder,
)
from latentslots.models.dinov2_encoder import DINOv2Encoder
from tests.tiny import (
    VIT,
    tiny_autoregressive_decoder,
    tiny_broadcast_decoder,
    tiny_discrete_vae,
    tiny_encoder,
    tiny_feature_decoder,
    tiny_patch_decoder,
    tiny_residual_encoder,
    tiny_slot_encoder,
    tiny_unet,
    tiny_vit_encoder,
)


@dataclass
class Case:
    """One way to build a model; `inputs(batch, height, width)` returns its arguments.

    The size is that of images, features or latents, whichever the model reads.
    """

    name: str
    cls: type[ModelMixin]
    build: Callable[..., Any]
    inputs: Callable[..., dict[str, Any]]
    output: Callable[[Any], Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ((16, 16), (8, 8), (12, 20))

    def model(self) -> Any:
        return self.build(**self.config)

    def run(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        return self.output(model(**inputs))


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def images(batch: int, height: int, width: int) -> dict[str, Any]:
    return {"pixel_values": normal(batch, 3, height, width).clamp(-1, 1)}


def features(batch: int, height: int, width: int) -> dict[str, Any]:
    return {"features": normal(batch, 16, height, width), "noise": normal(batch, 4, 16)}


def features_alone(batch: int, height: int, width: int) -> dict[str, Any]:
    return {"features": normal(batch, 16, height, width)}


def noisy(batch: int, height: int, width: int) -> dict[str, Any]:
    return {
        "sample": normal(batch, 4, height, width),
        "timestep": torch.arange(batch) * 400 + 10,
        "encoder_hidden_states": normal(batch, 3, 16),
    }


def scenes(batch: int, height: int, width: int) -> dict[str, Any]:
    return {"slots": normal(batch, 4, 16), "height": height, "width": width}


def tokens(batch: int, height: int, width: int) -> dict[str, Any]:
    return {"tokens": normal(batch, 64, 8), "slots": normal(batch, 3, 16)}


def sample(out: Any) -> Tensor:
    return out.sample


def slots(out: Any) -> Tensor:
    return out.slots


CASES = [
    Case("unet-encoder", UNetEncoder, tiny_encoder, images, lambda out: out),
    Case(
        "unet-encoder-stride-1",
        UNetEncoder,
        tiny_encoder,
        images,
        lambda out: out,
        {"downscale_factor": 1, "block_out_channels": (8, 8, 16)},
    ),
    Case(
        "unet-encoder-stem",
        UNetEncoder,
        tiny_encoder,
        images,
        lambda out: out,
        {"stem_channels": 6},
    ),
    Case("residual-encoder", ResidualEncoder, tiny_residual_encoder, images, lambda out: out),
    Case(
        "residual-encoder-stride-1",
        ResidualEncoder,
        tiny_residual_encoder,
        images,
        lambda out: out,
        {"downscale_factor": 1, "dilations": (3,)},
    ),
    Case("slot-encoder", SlotEncoder, tiny_slot_encoder, features, slots),
    Case(
        "slot-encoder-learned",
        SlotEncoder,
        tiny_slot_encoder,
        features_alone,
        slots,
        {"slot_init": "learned", "bi_level": True, "num_heads": 4, "position": "sinusoidal"},
    ),
    Case(
        "slot-encoder-table",
        SlotEncoder,
        tiny_slot_encoder,
        features,
        slots,
        {"position": "learned", "num_registers": 2},
    ),
    Case(
        "slot-encoder-plain",
        SlotEncoder,
        tiny_slot_encoder,
        features,
        slots,
        {"position": "none", "null_condition": True},
    ),
    *(
        Case(f"slot-unet-{kind}", SlotUNet, tiny_unet, noisy, sample, {"position": kind})
        for kind in ("cartesian", "sinusoidal", "learned", "none")
    ),
    *(
        Case(
            f"broadcast-decoder-{kind}",
            BroadcastDecoder,
            tiny_broadcast_decoder,
            scenes,
            lambda out: out.mixture(),
            {"position": kind},
        )
        for kind in ("cartesian", "sinusoidal", "learned")
    ),
    *(
        Case(
            f"patch-decoder-{kind}",
            PatchDecoder,
            tiny_patch_decoder,
            scenes,
            lambda out: out.mixture(),
            {"position": kind},
        )
        for kind in ("cartesian", "sinusoidal", "learned")
    ),
    Case(
        "autoregressive-decoder",
        AutoregressiveDecoder,
        tiny_autoregressive_decoder,
        tokens,
        lambda out: out,
    ),
    Case(
        "feature-decoder",
        FeatureDecoder,
        tiny_feature_decoder,
        scenes,
        lambda out: out.features,
    ),
    Case(
        "discrete-vae",
        DiscreteVAE,
        tiny_discrete_vae,
        images,
        lambda out: out,
        sizes=((16, 16), (8, 8), (12, 20)),
    ),
    *(
        Case(
            f"vit-{kind}",
            DINOv2Encoder,
            tiny_vit_encoder,
            images,
            lambda out: out,
            {"architecture": {**VIT, "model_type": kind, **extra}, "image_size": 48},
        )
        for kind, extra in (
            ("dinov2", {}),
            ("dinov2_with_registers", {"num_register_tokens": 3}),
            ("dinov3_vit", {"num_register_tokens": 3, "intermediate_size": 16}),
        )
    ),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_a_saved_and_loaded_model_computes_the_same(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    model, inputs = case.model(), case.inputs(2, 16, 16)
    model.save_pretrained(tmp_path)
    diffusers_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            loaded = case.cls.from_pretrained(tmp_path)
    finally:
        diffusers_logging.disable_propagation()
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(
            case.run(loaded, inputs), case.run(model, inputs), atol=1e-5, rtol=1e-5
        )


def test_the_config_round_trips(case: Case, tmp_path: Path) -> None:
    model = case.model()
    model.save_config(tmp_path / "a")
    rebuilt = case.cls.from_config(case.cls.load_config(tmp_path / "a"))
    rebuilt.save_config(tmp_path / "b")
    first, second = (json.loads((tmp_path / x / "config.json").read_text()) for x in "ab")
    assert first == second
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in rebuilt.state_dict().items()} == shapes
    for key, value in case.config.items():
        assert rebuilt.config[key] == (list(value) if isinstance(value, tuple) else value)


def test_an_unknown_config_key_is_an_error(case: Case, tmp_path: Path) -> None:
    case.model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_slotz": 3}))
    with pytest.raises(ValueError, match=f"{case.cls.__name__} has no.* key num_slotz; it has "):
        case.cls.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_slotz"):
        case.cls.from_config({**config, "num_slotz": 3})


def test_gradients_reach_every_parameter(case: Case) -> None:
    model = case.model().train()
    inputs = case.inputs(2, 16, 16)
    if isinstance(model, SlotEncoder):
        scenes = model(**inputs).slots
        dropped = torch.tensor([False, True]) if model.can_drop_condition else None
        states, mask = model.condition(scenes, dropped=dropped)
        states = states if mask is None else states[mask]
        (states * torch.randn_like(states)).sum().backward()
    else:
        out = case.run(model, inputs)
        if case.cls is DINOv2Encoder:
            assert not out.requires_grad  # frozen
            return
        (out * torch.randn_like(out)).sum().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_an_image_does_not_depend_on_its_batch(case: Case) -> None:
    model, inputs = case.model(), case.inputs(3, 16, 16)
    with torch.no_grad():
        together = case.run(model, inputs)
        for image in range(3):
            alone = {
                name: value[image : image + 1] if isinstance(value, Tensor) else value
                for name, value in inputs.items()
            }
            torch.testing.assert_close(
                case.run(model, alone), together[image : image + 1], atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_near_float32(case: Case, autocast: bool) -> None:
    model, inputs = case.model(), case.inputs(2, 16, 16)
    with torch.no_grad():
        expected = case.run(model, inputs)
        if autocast:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = case.run(model, inputs)
        else:
            half = case.run(
                model.to(torch.bfloat16),
                {
                    k: v.bfloat16() if isinstance(v, Tensor) and v.is_floating_point() else v
                    for k, v in inputs.items()
                },
            )
            paints = case.cls in (
                PatchDecoder,
                BroadcastDecoder,
                FeatureDecoder,
            )  # mixtures, in full precision
            assert half.dtype == (torch.float32 if paints else torch.bfloat16)
    error = (half.float() - expected).square().mean().sqrt() / expected.std()
    assert error < 0.05


def test_other_sizes_and_images_that_are_not_square(case: Case) -> None:
    model = case.model()
    with torch.no_grad():
        for height, width in case.sizes:
            out = case.run(model, case.inputs(1, height, width))
            assert out.isfinite().all()
            if case.cls in (UNetEncoder, ResidualEncoder):
                factor = model.config.downscale_factor
                assert out.shape == (1, 16, height // factor, width // factor)
            if case.cls is SlotUNet:
                assert out.shape == (1, 4, height, width)
            if case.cls is PatchDecoder:
                assert out.shape == (1, height * width, 3)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.cls in (SlotEncoder, SlotUNet) and c.config.get("position") != "none"],
    ids=lambda case: case.name,
)
def test_rows_and_columns_are_distinguished(case: Case) -> None:
    model, wide = case.model(), case.inputs(1, 8, 16)
    tall = {k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in wide.items()}
    with torch.no_grad():
        out, other = case.run(model, wide), case.run(model, tall)
    other = other.transpose(2, 3) if other.ndim == 4 else other
    assert out.shape == other.shape
    assert not torch.allclose(out, other, atol=1e-4)


def test_the_encoder_refuses_wrong_sizes() -> None:
    encoder = tiny_encoder(downscale_factor=4, block_out_channels=(8, 8, 16))
    assert encoder.size_multiple == 16
    with pytest.raises(ValueError, match="multiples of 16 pixels, got 32x40"):
        encoder(torch.zeros(1, 3, 32, 40))
    with pytest.raises(ValueError, match="downscale_factor must be at least 1, got 0"):
        tiny_encoder(downscale_factor=0)
    with pytest.raises(ValueError, match="last of block_out_channels, 16, got 24"):
        tiny_encoder(attention_head_dim=24)
    with pytest.raises(ValueError, match="stem_channels must be at least 1, got 0"):
        tiny_encoder(stem_channels=0)


def test_the_stem_is_as_wide_as_the_first_level_by_default() -> None:
    encoder, same = tiny_encoder(), tiny_encoder(stem_channels=8)
    torch.testing.assert_close(encoder.state_dict(), same.state_dict(), atol=0, rtol=0)
    assert tiny_encoder(stem_channels=6).stem.weight.shape[0] == 6


def test_an_encoder_saved_before_the_stem_had_a_width_is_still_the_same_model(
    tmp_path: Path,
) -> None:
    encoder = tiny_encoder()
    encoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["stem_channels"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = UNetEncoder.from_pretrained(tmp_path)
    assert model_fingerprint(loaded) == model_fingerprint(encoder)
    assert model_fingerprint(tiny_encoder(stem_channels=6)) != model_fingerprint(encoder)


def test_features_of_the_encoder_depend_on_the_whole_image() -> None:
    pixels = torch.zeros(1, 3, 32, 32, requires_grad=True)
    tiny_encoder()(pixels)[0, :, 0, 0].sum().backward()
    assert pixels.grad[0, :, -1, -1].any()


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_the_residual_encoder_divides_the_image_evenly(factor: int) -> None:
    encoder = tiny_residual_encoder(downscale_factor=factor)
    assert encoder(torch.zeros(1, 3, 48, 24)).shape == (1, 16, 48 // factor, 24 // factor)


def test_features_of_the_residual_encoder_depend_on_their_neighborhood_alone() -> None:
    """Without its normalizations, through which every pixel has a small effect everywhere."""
    encoder = tiny_residual_encoder(downscale_factor=1, dilations=(1, 3))
    for part in (*encoder.blocks, encoder):
        for name in ("norm1", "norm2", "norm_out"):
            if hasattr(part, name):
                setattr(part, name, torch.nn.Identity())
    pixels = torch.zeros(1, 3, 48, 48, requires_grad=True)
    encoder(pixels)[0, :, 24, 24].sum().backward()
    rows = pixels.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    reach = 2 * 1 + 2 * 3  # two convolutions per block; a stem of stride 1 covers its own pixel
    assert (rows.min().item(), rows.max().item()) == (24 - reach, 24 + reach)


def test_the_residual_encoder_refuses_wrong_sizes() -> None:
    with pytest.raises(ValueError, match="multiples of 2 pixels, got 32x33"):
        tiny_residual_encoder()(torch.zeros(1, 3, 32, 33))
    with pytest.raises(ValueError, match="downscale_factor must be at least 1, got 0"):
        tiny_residual_encoder(downscale_factor=0)
    with pytest.raises(ValueError, match=r"numbers above 0, got \(1, 0\)"):
        tiny_residual_encoder(dilations=(1, 0))
    with pytest.raises(ValueError, match=r"numbers above 0, got \(\)"):
        tiny_residual_encoder(dilations=())
    with pytest.raises(ValueError, match="norm_num_groups must divide the channels, 8, got 3"):
        tiny_residual_encoder(norm_num_groups=3)


def test_gradient_checkpointing_reaches_the_encoder() -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = tiny_encoder().train()
        if checkpointing:
            encoder.enable_gradient_checkpointing()
            assert encoder.is_gradient_checkpointing
        encoder(normal(1, 3, 16, 16)).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])
