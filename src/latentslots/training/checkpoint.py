"""The state of a run on disk: `state/step_0001000/`, complete or absent.

Tensors are safetensors files, everything else is one JSON file: nothing in it is code. Unlike
Accelerate's `save_state`, which pickles, a checkpoint is written beside the older ones, synced and
renamed. It contains the position in the data and the random state of every process, and one CPU
process resumes it bit for bit.
"""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentslots.files import FormatError, check_format, read_json, replace_folder, write_json

STEP_DIGITS = 7
FORMAT = 1
"""Format of a checkpoint's folder."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read, or used for this run."""


@dataclass
class Snapshot:
    """Everything that is required to resume a run as if it had not stopped."""

    tensors: dict[str, dict[str, Tensor]]
    """By file: `model`, `optimizer`, `ema`, and `random_<process>`."""
    values: dict[str, Any]
    """Numbers, such as the step and the position of the sampler."""


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten the optimizer's moments and step counts."""
    return {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the moments and step counts; hyper-parameters stay those of the config."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # Fused AdamW iterates over memory: moments must have the layout of their parameter,
            # which may be channels last.
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def random_tensors() -> dict[str, Tensor]:
    """Collect the state of every random generator of this process."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, _ = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.append(keys, [position, has_gauss]).astype(np.int64)),
        "numpy_gauss": torch.tensor(gauss, dtype=torch.float64),
        "python": torch.tensor([version, *words], dtype=torch.int64),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    return tensors


def load_random_tensors(tensors: dict[str, Tensor]) -> None:
    """Restore the state of every random generator."""
    torch.set_rng_state(tensors["torch"])
    *words, position, has_gauss = tensors["numpy"].tolist()
    keys = np.array(words, dtype=np.uint32)
    gauss = tensors["numpy_gauss"].item()
    np.random.set_state(("MT19937", keys, position, has_gauss, gauss))
    version, *words = tensors["python"].tolist()
    random.setstate((version, tuple(words), None))
    if torch.cuda.is_available() and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])
    if torch.backends.mps.is_available() and "mps" in tensors:
        torch.mps.set_rng_state(tensors["mps"])


def list_checkpoints(state_dir: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first."""
    return sorted(state_dir.glob(f"step_{'[0-9]' * STEP_DIGITS}"))


def write_tensors(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Write one file of tensors."""
    tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
    save_file(tensors, folder / f"{name}.safetensors")


def begin(state_dir: Path, step: int) -> Path:
    """Create an empty folder beside the checkpoints, to be filled and then `commit`ted."""
    partial = state_dir / f".partial_{step:0{STEP_DIGITS}d}"
    remove(*state_dir.glob(".partial_*"))  # left by a killed run
    partial.mkdir(parents=True)
    return partial


def commit(partial: Path, values: dict[str, Any], *, keep: int) -> Path:
    """Make a filled folder the newest checkpoint, then remove the oldest beyond `keep`."""
    write_json(partial / "state.json", {"format": FORMAT, **values})
    state_dir = partial.parent
    final = state_dir / partial.name.replace(".partial_", "step_")
    replace_folder(partial, final)
    for old in list_checkpoints(state_dir)[:-keep]:
        shutil.rmtree(old)
    return final


def discard(partial: Path, error: Exception) -> CheckpointError:
    """Remove a folder that could not be filled; returns an error with the newest checkpoint."""
    shutil.rmtree(partial, ignore_errors=True)
    complete = list_checkpoints(partial.parent)
    left = f"the newest complete one is {complete[-1]}" if complete else "there is no older one"
    return CheckpointError(f"cannot write a checkpoint to {partial.parent}: {error}; {left}")


def remove(*folders: Path) -> None:
    """Remove folders, where they exist."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


WRITE_ERRORS = (OSError, SafetensorError)


def load(checkpoint: Path, process_index: int, num_processes: int) -> Snapshot:
    """Read a checkpoint, with the random states of one process.

    Raises:
        CheckpointError: If a file is missing or damaged, or if another number of processes wrote
            it, for which batches and random states would not continue.
    """
    try:
        values = read_json(checkpoint / "state.json")
        check_format(values.pop("format", None), FORMAT, f"the checkpoint {checkpoint}")
        tensors = {name: load_file(checkpoint / f"{name}.safetensors") for name in values["files"]}
        if values["num_processes"] != num_processes:
            raise CheckpointError(
                f"the checkpoint {checkpoint} was written by {values['num_processes']} processes, "
                f"and can be resumed by as many, not by {num_processes}"
            )
        own = f"random_{process_index:04d}"
        tensors["random"] = load_file(checkpoint / f"{own}.safetensors")
    except CheckpointError:
        raise
    except FormatError as error:
        raise CheckpointError(str(error)) from None
    except (
        OSError,
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise CheckpointError(f"the checkpoint {checkpoint} is damaged: {error}") from None
    return Snapshot(tensors=tensors, values=values)
