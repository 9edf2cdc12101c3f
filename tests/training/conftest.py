from collections.abc import Iterator
from pathlib import Path

import pytest

from latentslots.config import TrainConfig
from latentslots.objectives import preview
from latentslots.recipes import recipe
from tests.tiny import write_squares
from tests.training.runs import run, tiny, with_changes


@pytest.fixture(scope="session", autouse=True)
def hasty_previews() -> Iterator[None]:
    """What is painted from random weights needs no 25 steps, which are half the time of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preview, "NUM_INFERENCE_STEPS", 3)
        yield


@pytest.fixture(scope="session")
def squares_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training images, which are three batches of four, and 4 to validate on."""
    return write_squares(tmp_path_factory.mktemp("runs") / "store", num_train=12, num_validation=4)


@pytest.fixture(scope="session")
def config(squares_store: Path, tiny_vae_dir: Path) -> TrainConfig:
    """Four steps of `lsd-smoke` that only train and save."""
    return with_changes(
        tiny(recipe("lsd-smoke")),
        {
            "method.vae": str(tiny_vae_dir),
            "data.path": str(squares_store),
            "data.validation_split": "none",
            "optim.lr_warmup_steps": 2,
            "optim.learning_rate": 1e-3,
            "max_train_steps": 4,
            "num_validation_images": 4,
            "checkpointing_steps": 2,
            "checkpoints_total_limit": 4,
            "validation_steps": 0,
            "preview_steps": 0,
        },
    )


@pytest.fixture(scope="session")
def finished(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `config`, saved after steps 2 and 4. Not to be changed: copy it."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    run(config, run_dir)
    return run_dir
