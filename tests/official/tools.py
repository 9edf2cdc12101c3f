"""Edit official checkpoints, to test what the importer makes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED = "diffusion_pytorch_model.bin"
ENCODER, SLOTS, UNET = "unetencoder", "multiheadstevesa", "unet2dconditionmodelwithpos"


def read_config(part: Path) -> dict[str, Any]:
    return json.loads((part / "config.json").read_text())


def edit_config(part: Path, **changes: Any) -> None:
    """Set keys of a config; `...` removes one."""
    config = {**read_config(part), **changes}
    config = {key: value for key, value in config.items() if value is not ...}
    (part / "config.json").write_text(json.dumps(config))


def edit_tensors(part: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    # Cloned: before safetensors 0.6, tensors lie in the file, which is written anew.
    tensors = {name: tensor.clone() for name, tensor in load_file(part / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, part / WEIGHTS)


def pickle_weights(part: Path, content: Any = None) -> None:
    torch.save(load_file(part / WEIGHTS) if content is None else content, part / PICKLED)
    (part / WEIGHTS).unlink()
