"""Kill training, importing, caching, fitting concepts and editing at random moments.

    python benchmarks/kills.py --kills 100

Each job is started again after every kill, until it has been killed so many times, and then runs to
its end: its files must be those of a job that was never killed. Between kills nothing may be half
written: the newest checkpoint and the model load, and results are whole or absent. Models and data
are tiny, so that the moments fall into all phases.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import tiny
from tests.training.runs import tiny as tiny_config
from tests.training.runs import with_changes

from latentslots.concepts import ConceptLibrary
from latentslots.config.sampling import Sampling
from latentslots.data import cache_latents, load_dataset
from latentslots.data.importers import image_folder
from latentslots.models.autoencoder import load_vae
from latentslots.pipelines import load_pipeline
from latentslots.recipes import recipe
from latentslots.training import checkpoint, train
from latentslots.workflows.edit import EditArguments, edit_files


@dataclass(frozen=True)
class Job:
    """What is killed.

    Attributes:
        run: Does it, or the rest of it, in a folder.
        check: Raises an error if the folder holds anything half written.
        results: The files that have to be the same in the end, given their path.
    """

    run: Callable[[Path], Any]
    check: Callable[[Path], None]
    results: Callable[[str], bool] = lambda _: True


def make_inputs(inputs: Path) -> None:
    """Write the images and the autoencoder."""
    tiny.write_squares(inputs / "store", num_train=12, num_validation=4)
    tiny.tiny_autoencoder().save_pretrained(inputs / "vae")
    (inputs / "photos").mkdir()
    for number, pixels in enumerate(tiny.squares(24)[0]):
        Image.fromarray(pixels).save(inputs / "photos" / f"{number:02d}.png")


def jobs(inputs: Path) -> dict[str, Job]:
    """Return the jobs by their names.

    This process reads no Parquet: threads of Arrow, once started, are missing in its forks.
    """
    torch.manual_seed(0)
    inputs_job = Job(make_inputs, lambda _: None)
    assert os.waitpid(fork(inputs_job, inputs), 0)[1] == 0
    store, photos = inputs / "store", inputs / "photos"
    pipe = tiny.tiny_lsd().to_pipeline()
    pipe.set_progress_bar_config(disable=True)
    files = sorted(photos.iterdir())
    vae = load_vae(str(inputs / "vae"))
    config = with_changes(
        tiny_config(recipe("lsd-smoke")),
        {
            "method.vae": str(inputs / "vae"),
            "data.path": str(store),
            "data.validation_split": "none",
            "data.num_workers": 0,
            "max_train_steps": 12,
            "checkpointing_steps": 2,
            "preview_steps": 0,
            "validation_steps": 0,
        },
    )
    image_folder._BLOCK = 4
    edit, sampling = EditArguments(remove=["1"]), Sampling(num_inference_steps=1)

    def training(out: Path) -> None:
        train(config, out, resume=(out / "train_config.json").is_file(), progress=False)

    def trained(out: Path) -> None:
        for one in checkpoint.list_checkpoints(out / "state"):
            checkpoint.load(one, 0, 1)
        if (out / "pipeline").exists():
            load_pipeline(out / "pipeline")

    def edited(out: Path) -> None:
        for folder in (one for one in out.iterdir() if not one.name.startswith(".")):
            with Image.open(folder / "edited.png") as image:
                image.load()
            assert len([*folder.iterdir()]) == 4

    def fitted(out: Path) -> None:
        if (out / "concepts").exists():
            ConceptLibrary.load(out / "concepts")

    def cache(out: Path) -> None:
        images = load_dataset(store, split="train")
        how = {"resolution": 32, "num_workers": 0, "batch_size": 1, "progress": False}
        cache_latents(images, vae, out / "latents", **how)

    def fit(out: Path) -> None:
        images = load_dataset(store, split="train")
        library = ConceptLibrary.fit(pipe, images, num_concepts=2, progress=False)
        library.save(out / "concepts")

    return {
        "training": Job(training, trained, lambda name: name.endswith((".safetensors", ".json"))),
        "importing": Job(
            lambda out: image_folder.import_folder(photos, out / "store", workers=1),
            lambda out: None,
        ),
        "caching": Job(
            cache,
            lambda out: None,
            lambda name: name.endswith((".npy", ".json")),
        ),
        "fitting concepts": Job(fit, fitted),
        "editing": Job(
            lambda out: edit_files(pipe, files, out, edit, sampling, progress=False), edited
        ),
    }  # fmt: skip


def content(folder: Path, job: Job) -> dict[str, bytes]:
    """The files that are compared, without hidden ones."""
    return {
        name: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and job.results(name := path.relative_to(folder).as_posix())
        and not any(part.startswith(".") for part in Path(name).parts)
        and "environment" not in name
    }


def fork(job: Job, out: Path) -> int:
    """Run a job in another process, which has all modules already; returns its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        # The lock that tqdm shares among processes stays locked if one is killed that holds it.
        tqdm.set_lock(RLock())
        torch.manual_seed(0)
        np.random.seed(0)
        job.run(out)
        code = 0
    finally:
        os._exit(code)


def kill_often(job: Job, root: Path, kills: int, rng: random.Random) -> int:
    """Kill a job so many times, and complete it; returns how often it was started anew.

    Raises:
        AssertionError: If something is lost, half written, or different in the end.
    """
    whole = root / "whole"
    whole.mkdir(parents=True)
    started = time.monotonic()
    assert os.waitpid(fork(job, whole), 0)[1] == 0, "it fails without being killed"
    seconds = time.monotonic() - started
    expected = content(whole, job)
    out, number, finished = root / "out", 0, 0
    out.mkdir()
    while number < kills:
        process = fork(job, out)
        time.sleep(rng.uniform(0, 1.1 * seconds / (1 + number % 4)))
        os.kill(process, signal.SIGKILL)
        killed = os.waitpid(process, 0)[1] == signal.SIGKILL
        number += killed
        job.check(out)
        if not killed:  # it was complete before
            finished += 1
            assert content(out, job) == expected, "it ended with other files"
            shutil.rmtree(out)
            out.mkdir()
    assert os.waitpid(fork(job, out), 0)[1] == 0, "it cannot go on"
    found = content(out, job)
    changed = sorted({k for k in expected | found if expected.get(k) != found.get(k)})
    assert not changed, f"it ended with other files: {changed[:3]}"
    return finished + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills of every job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of jobs; by default all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, job in jobs(Path(folder)).items():
            if options.only and name not in options.only:
                continue
            rng = random.Random(f"{name} {options.seed}")
            completed = kill_often(job, Path(folder, name), options.kills, rng)
            print(
                f"{name}: {options.kills} kills, completed {completed} times, none lost", flush=True
            )


if __name__ == "__main__":
    main()
