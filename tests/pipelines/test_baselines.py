"""SLATE and DINOSAUR as pipelines: folders, masks, and painting by SLATE, token by token."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots.cli.main import main
from latentslots.data import load_dataset
from latentslots.evaluation import evaluate
from latentslots.pipelines import SlotPipeline, load_pipeline
from tests.tiny import tiny_dinosaur, tiny_slate

METHODS: dict[str, Any] = {
    "slate": tiny_slate,
    "dinosaur": tiny_dinosaur,
    "dinosaur-transformer": lambda: tiny_dinosaur(autoregressive=True),
}


def images(number: int = 3) -> Tensor:
    return torch.rand(number, 3, 32, 32, generator=Generator().manual_seed(0)) * 2 - 1


def draws(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(params=METHODS)
def pipe(request: pytest.FixtureRequest) -> SlotPipeline:
    return METHODS[request.param]().to_pipeline()


def test_a_folder_loads_as_its_class(pipe: SlotPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    other = load_pipeline(tmp_path)
    assert type(other) is type(pipe)
    one, two = (p.encode_pixel_values(images(), generator=draws(0, 1, 2)) for p in (pipe, other))
    assert torch.equal(one.slots, two.slots)
    assert torch.equal(one.masks, two.masks)
    torch.testing.assert_close(one.masks.sum(dim=1), torch.ones_like(one.masks[:, 0]))
    index = json.loads((tmp_path / "model_index.json").read_text())
    homes = {name: tuple(home) for name, home in index.items() if isinstance(home, list)}
    expected = {
        "encoder": ("unet_encoder", "UNetEncoder"),
        "dvae": ("discrete_vae", "DiscreteVAE"),
        "decoder": ("autoregressive_decoder", "AutoregressiveDecoder"),
    }
    if type(pipe).__name__ == "DinosaurPipeline":
        expected = {"encoder": ("dinov2_encoder", "DINOv2Encoder")}
    for name, (module, cls) in expected.items():
        assert homes[name] == (f"latentslots.models.{module}", cls)


def test_an_image_does_not_depend_on_its_batch(pipe: SlotPipeline) -> None:
    together = pipe.encode_pixel_values(images(), generator=draws(0, 1, 2))
    alone = pipe.encode_pixel_values(images()[1:2], generator=draws(1))
    torch.testing.assert_close(alone.slots[0], together.slots[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.masks[0], together.masks[1], atol=1e-4, rtol=1e-4)


def test_it_is_evaluated_like_any_other(pipe: SlotPipeline, scenes_store: Path) -> None:
    report = evaluate(
        pipe, load_dataset(scenes_store, split="validation"), num_images=4, progress=False
    )
    assert -1 <= report.fg_ari <= 1
    assert report.scoring_resolution == 32


class TestSlate:
    def test_paints_the_most_likely_token_given_the_tokens_before_it(self) -> None:
        pipe, slots = tiny_slate().to_pipeline(), torch.randn(2, 4, 16)
        exist = torch.tensor([[True, True, True, False], [True] * 4])
        (painted,) = pipe(slots, slots_mask=exist, output_type="pt", return_dict=False)
        words = torch.zeros(2, 64, 8)
        with torch.no_grad():
            for place in range(64):
                said = pipe.decoder(words, slots, slots_mask=exist)
                words[:, place] = F.one_hot(said[:, place].argmax(dim=1), 8).float()
            pixels = pipe.dvae.decode(words.transpose(1, 2).unflatten(2, (8, 8)))
        torch.testing.assert_close(painted, (pixels.clamp(-1, 1) + 1) / 2, atol=1e-5, rtol=1e-4)

    def test_what_cannot_be_painted_is_refused(self) -> None:
        pipe = tiny_slate().to_pipeline()
        with pytest.raises(ValueError, match=r"shape \[B, K, 16\], got \[1, 4, 9\]"):
            pipe(torch.zeros(1, 4, 9))
        with pytest.raises(ValueError, match="must be pil, np or pt, got 'latent'"):
            pipe(torch.zeros(1, 4, 16), output_type="latent")

    def test_the_temperature_falls_along_a_cosine(self) -> None:
        objective = tiny_slate(temperature_steps=100)
        seen = []
        for step in (0, 50, 100, 200):
            objective.begin_step(step)
            seen.append(objective.temperature)
        assert seen == pytest.approx([1, 0.55, 0.1, 0.1])
        with pytest.raises(ValueError, match="temperature_steps must be at least 1, got 0"):
            tiny_slate(temperature_steps=0)

    def test_the_cross_entropy_of_tokens_has_no_gradient_in_the_autoencoder(self) -> None:
        objective = tiny_slate().train()
        torch.manual_seed(1)
        loss, logs = objective({"pixel_values": images()})
        torch.testing.assert_close(loss.detach(), logs["mse"] + logs["cross_entropy"])
        loss.backward()
        both = objective.dvae.encoder[0].weight.grad.clone()
        torch.manual_seed(1)
        logits = objective.dvae.encode(images())
        words = F.gumbel_softmax(logits, tau=1.0, dim=1)
        alone = F.mse_loss(objective.dvae.decode(words), images())
        (expected,) = torch.autograd.grad(alone, objective.dvae.encoder[0].weight)
        torch.testing.assert_close(both, expected)

    def test_the_cross_entropy_of_uniform_predictions_is_the_log_of_the_vocabulary(self) -> None:
        objective = tiny_slate().eval()
        torch.nn.init.zeros_(objective.decoder.token_out.weight)
        _, logs = objective({"pixel_values": images()})
        assert logs["cross_entropy"].item() == pytest.approx(torch.tensor(8.0).log().item())


class TestDinosaur:
    @pytest.mark.parametrize("autoregressive", [False, True])
    def test_the_loss_is_the_squared_error_of_features(self, autoregressive: bool) -> None:
        objective, noise = tiny_dinosaur(autoregressive=autoregressive), torch.randn(3, 4, 16)
        loss, _ = objective({"pixel_values": images(), "slot_noise": noise})
        features = objective.encoder(images())
        slots = objective.slot_encoder(features, noise=noise).slots
        if autoregressive:
            said = objective.decoder(features.flatten(2).transpose(1, 2), slots)
            said = said.transpose(1, 2).reshape(features.shape)
        else:
            said = objective.decoder(slots, height=4, width=4).features
        torch.testing.assert_close(loss, (said - features).square().mean())

    def test_masks_are_those_of_the_mlp_or_the_attention(self) -> None:
        pipe = tiny_dinosaur().to_pipeline()
        scene = pipe.encode_pixel_values(images(), generator=draws(0, 1, 2))
        assert pipe.mask_source == "decoder"
        expected = pipe.decoder(scene.slots, height=4, width=4).masks
        assert torch.equal(scene.masks, expected)
        pipe.use_attention_masks()
        attended = pipe.encode_pixel_values(images(), generator=draws(0, 1, 2))
        assert pipe.mask_source == "attention"
        assert not torch.allclose(attended.masks, expected)
        assert tiny_dinosaur(autoregressive=True).to_pipeline().mask_source == "attention"

    def test_painting_is_refused_by_name(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pipe = tiny_dinosaur().to_pipeline()
        assert not pipe.paints
        with pytest.raises(ValueError, match=r"DINOSAUR cannot paint: .* not pixels"):
            pipe(torch.zeros(1, 4, 16))
        pipe.save_pretrained(tmp_path)
        (tmp_path / "x.png").write_bytes(b"")
        command = [
            "reconstruct",
            str(tmp_path),
            str(tmp_path / "x.png"),
            "--output-dir",
            str(tmp_path / "out"),
        ]
        assert main(command) == 2
        assert "DinosaurPipeline" in capsys.readouterr().err
