"""Our modules with the weights of official checkpoints compute the official outputs.

tests/golden/README.md describes how these were made.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.models.noise_schedule import official_schedule
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.official import load_official
from latentslots.pipelines import LatentSlotDiffusionPipeline

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass
class Golden:
    pipe: LatentSlotDiffusionPipeline
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def parts(self) -> dict[str, nn.Module]:
        """By the official names."""
        return {
            "encoder": self.pipe.encoder,
            "slot_attention": self.pipe.slot_encoder,
            "denoiser": self.pipe.unet,
        }

    def check_loss_and_gradients(self, loss: Tensor) -> None:
        assert loss.item() == pytest.approx(self.facts["loss"], rel=1e-3)
        for part in self.parts().values():
            part.zero_grad()
        loss.backward()
        for name, part in self.parts().items():
            norms = [p.grad.norm() for p in part.parameters() if p.grad is not None]
            norm = torch.stack(norms).norm().item()
            assert norm == pytest.approx(self.facts["grad_norm"][name], rel=1e-3), name


@pytest.fixture(scope="module", params=["lsd_a", "lsd_b"])
def golden(request: pytest.FixtureRequest) -> Golden:
    folder = GOLDEN / request.param
    return Golden(
        pipe=load_official(folder / "checkpoint-7"),
        tensors=load_file(folder / "expected.safetensors"),
        facts=json.loads((folder / "expected.json").read_text()),
    )


def forward(golden: Golden) -> dict[str, Tensor]:
    """Compute every tensor, each from our own inputs."""
    pipe, inputs = golden.pipe, golden.tensors
    noisy_latents = official_schedule().add_noise(
        inputs["latents"], inputs["noise"], inputs["timesteps"]
    )
    features = pipe.encoder(inputs["images"])
    out = pipe.slot_encoder(features, noise=inputs.get("slot_noise"))
    conditioning = pipe.slot_encoder.project(out.slots)
    prediction = pipe.unet(noisy_latents, inputs["timesteps"], conditioning).sample
    return {
        "noisy_latents": noisy_latents,
        "features": features,
        "slots": out.slots,
        "attention": out.attention,
        "conditioning": conditioning,
        "prediction": prediction,
    }


def test_every_tensor(golden: Golden) -> None:
    expected = dict(golden.tensors)
    expected["attention"] = expected["attention"].sum(1).transpose(1, 2)
    for name, ours in forward(golden).items():
        torch.testing.assert_close(
            ours, expected[name], atol=1e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_loss_and_gradients(golden: Golden) -> None:
    prediction = forward(golden)["prediction"]
    golden.check_loss_and_gradients(F.mse_loss(prediction, golden.tensors["noise"]))


def test_loss_and_gradients_of_the_objective(golden: Golden) -> None:
    pipe, inputs = golden.pipe, golden.tensors
    objective = LatentSlotDiffusionObjective(
        encoder=pipe.encoder,
        slot_encoder=pipe.slot_encoder,
        unet=pipe.unet,
        noise_schedule=official_schedule(),
        vae=None,
        resolution=inputs["images"].shape[-1],
    ).train()
    batch = {name: inputs[name] for name in ("latents", "noise", "timesteps")}
    batch["pixel_values"] = inputs["images"]
    if "slot_noise" in inputs:
        batch["slot_noise"] = inputs["slot_noise"]
    loss, _ = objective(batch)
    golden.check_loss_and_gradients(loss)


def test_parameter_counts(golden: Golden) -> None:
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in golden.parts().items()
    }
    assert counts == golden.facts["parameters"]


def test_the_noise_schedule_is_the_official_one(golden: Golden) -> None:
    expected = golden.facts["scheduler"]
    for config in (official_schedule().config, golden.pipe.scheduler.config):
        assert {key: config[key] for key in expected} == expected
        assert config.prediction_type == golden.facts["prediction_type"]
