"""`latentslots train` on the command line."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.cli.train import parse
from latentslots.config import LSDConfig
from latentslots.config.io import load_config
from latentslots.recipes import RECIPES, recipe
from tests.tiny import squares, write_squares
from tests.training.runs import ROOT, assert_same_run, num_rows, rows, step_name, wait_for


@pytest.fixture(scope="module")
def knobs(tmp_path_factory: pytest.TempPathFactory, tiny_vae_dir: Path) -> list[str]:
    """Flags that make `lsd-smoke` run in a second."""
    store = write_squares(tmp_path_factory.mktemp("cli") / "store", num_train=8, num_validation=4)
    flags = {
        "--data.path": store,
        "--method.vae": tiny_vae_dir,
        "--method.encoder.channels": 8,
        "--method.unet.block-out-channels": 8,
        "--max-train-steps": 2,
        "--num-validation-images": 2,
    }
    words = [str(word) for flag in flags.items() for word in flag]
    return [*words, "--method.unet.attention-levels", "True"]


def test_a_whole_run_of_a_recipe(
    knobs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress goes to stderr; stdout is the run folder, for a script to use."""
    run_dir = tmp_path / "run"
    assert main(["train", "lsd-smoke", *knobs, "--output-dir", str(run_dir)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{run_dir}\n"
    assert "2/2" in err
    assert "loss=" in err
    assert re.search(r"step 2: .*validation/fg_ari 0?-?\d*\.\d{3}", err)
    assert (run_dir / "pipeline" / "model_index.json").is_file()
    assert (run_dir / "previews" / "step_0000002.png").is_file()


def test_its_config_replays_and_resumes(
    knobs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    assert main(["train", "lsd-smoke", *knobs, "--output-dir", str(first)]) == 0
    config_file = str(first / "train_config.json")
    assert main(["train", f"--config={config_file}", "--output-dir", str(again)]) == 0
    assert_same_run(again, first, step=2)
    more = ["--resume", "--max-train-steps", "3"]
    assert main(["train", "--config", config_file, *more]) == 0
    assert [row["step"] for row in rows(first) if "loss" in row] == [1, 2, 3]
    assert load_config(config_file).max_train_steps == 3
    capsys.readouterr()


def test_a_folder_of_photos(
    knobs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, image in enumerate(squares(8)[0]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    folder = ["--data.path", str(tmp_path), "--data.glob", "**/*.png"]
    options = [*knobs, *folder, "--data.validation-fraction", "0.25"]
    assert main(["train", "lsd-smoke", *options, "--output-dir", str(tmp_path / "run")]) == 0
    assert "validation/loss" in rows(tmp_path / "run")[-1]
    capsys.readouterr()


def test_flags_override_the_recipe() -> None:
    flags = ["--method.num-slots", "7", "--optim.learning_rate", "0.5", "--method.unet.position"]
    options, config = parse(recipe("lsd-smoke"), "out", [*flags, "none", "--data.random-flip"])
    assert isinstance(config.method, LSDConfig)
    assert (config.method.num_slots, config.optim.learning_rate) == (7, 0.5)
    assert (config.method.unet.position, config.data.random_flip) == ("none", True)
    assert (options.output_dir, options.resume, options.push_to_hub) == ("out", False, "")


@pytest.mark.parametrize("name", RECIPES)
def test_without_flags_it_is_the_recipe(name: str) -> None:
    options, config = parse(recipe(name), f"runs/{name}", [])
    assert config == recipe(name)
    assert options.output_dir == f"runs/{name}"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_the_recipes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == (0 if arguments else 2)
    out = capsys.readouterr().out
    assert all(name in out for name in RECIPES)


def test_the_help_of_a_recipe_shows_its_knobs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "lsd-smoke", "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "--method.condition-dropout" in out
    assert "Share of images that are denoised without their slots" in " ".join(out.split())
    assert "kl-weight" not in out


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr with which the program refuses."""
    assert main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("latentslots train: ")
    return err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lsd-smok"], "there is no recipe 'lsd-smok', .*; did you mean lsd-smoke?"),
        (["--resume"], "the first argument must be a recipe or --config FILE, got '--resume'"),
        (["--config"], "--config needs the path of a JSON file"),
        (["--config", "none.json"], "there is no config file none.json"),
        (["--configs", "none.json"], "the first argument must be a recipe or --config FILE"),
        (["lsd-smoke", "--data.path", "/none"], "there is no data set at /none"),
        (["lsd-smoke", "--push-to-hub", "me"], "--push-to-hub takes USER/NAME, got 'me'"),
        (["lsd-smoke", "--method.vae", "/none"], "cannot load the VAE '/none'"),
        (["lsd-smoke", "--resume", "--output-dir", "/none"], "/none contains no run to resume"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(said, refused(arguments, capsys))
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_is_named_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"method": {"kind": "lsd", "num_slot": 4}}')
    said = refused(["--config", str(file), "--output-dir", str(tmp_path / "run")], capsys)
    assert "unknown config key 'method.num_slot'; the nearest known one is 'num_slots'" in said


def test_a_config_file_requires_an_output_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"method": {"kind": "lsd"}}')
    assert "--output-dir is required" in refused(["--config", str(file)], capsys)


def test_an_existing_run_is_not_changed(
    knobs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train_config.json").write_text("{}")
    arguments = ["lsd-smoke", *knobs, "--output-dir", str(tmp_path)]
    assert "already contains a run: add --resume" in refused(arguments, capsys)


def test_an_unknown_flag_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "lsd-smoke", "--method.num-slot", "4"])
    assert left.value.code == 2
    assert "--method.num-slots" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_under_a_launcher(knobs: list[str], tmp_path: Path) -> None:
    """One folder, one line per step, one last line; SIGTERM to the launcher saves and leaves."""
    run_dir = tmp_path / "run"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command = [*launch, "--num_processes", "2", "--main_process_port", "0", "-m", "latentslots"]
    long = ["--max-train-steps", "100000", "--data.num-workers", "1", "--train-batch-size", "2"]
    process = subprocess.Popen(
        [*command, "train", "lsd-smoke", *knobs, *long, "--output-dir", str(run_dir)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: num_rows(run_dir) >= 3, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    steps = [row["step"] for row in rows(run_dir) if "loss" in row]
    assert steps == list(range(1, len(steps) + 1))
    assert said.count(f"stopped by SIGTERM at step {len(steps)}, state saved") == 1
    (state,) = [
        path for path in (run_dir / "state").iterdir() if path.name == step_name(len(steps))
    ]
    assert len(list(state.glob("random_*.safetensors"))) == 2
