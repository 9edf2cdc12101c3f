import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from latentslots.cli.main import COMMANDS, main
from latentslots.config import TrainConfig
from latentslots.config.io import from_dict, load_config
from latentslots.recipes import RECIPES, recipe
from tests import tiny


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: latentslots" in capsys.readouterr().out


def test_an_unknown_command_is_named_with_those_that_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fly"]) == 2
    error = capsys.readouterr().err
    assert "there is no command 'fly', only demo" in error
    assert error.count("\n") == 1


def test_help_is_quick_because_it_imports_no_torch() -> None:
    code = (
        "import sys; from latentslots.cli.main import main; main(['--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_help_of_every_command_imports_no_torch() -> None:
    modules = ", ".join(module for module, _ in COMMANDS.values())
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    # This one prints its help and returns; tyro prints the others' and exits.
    if name == "train":
        assert main([name, "--help"]) == 0
    else:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
    assert f"latentslots {name}" in capsys.readouterr().out


def test_a_user_error_is_one_sentence_and_a_traceback_only_with_debug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = ["recipes", "lsd-movi-x"]
    assert main(wrong) == 2
    error = capsys.readouterr().err
    assert error.startswith("latentslots recipes: there is no recipe 'lsd-movi-x', only ")
    assert error.endswith("did you mean lsd-movi-e?\n")
    assert error.count("\n") == 1
    assert main(["--debug", *wrong]) == 2
    assert "Traceback" in capsys.readouterr().err


def command_that_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> str:
    def run(arguments: list[str]) -> None:
        raise error

    module = types.ModuleType("raising")
    monkeypatch.setattr(module, "run", run, raising=False)
    monkeypatch.setitem(sys.modules, "raising", module)
    monkeypatch.setitem(COMMANDS, "raise", ("raising", "fail"))
    return "raise"


@pytest.mark.parametrize(
    "words",
    [
        "compare a b",
        "concepts fit bundled --data a --output-dir b",
        "data import folder a b",
        "data merge a --out b",
        "demo",
        "edit bundled a --remove 1 --output-dir b",
        "evaluate bundled --data a",
        "evaluate-edits bundled --data a",
        "generate bundled --concepts a --output-dir b",
        "reconstruct bundled a --output-dir b",
        "segment bundled a --output-dir b",
        "train lsd-scenes-64 --output-dir a",
    ],
)
@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_out_of_range_is_refused(
    words: str,
    seed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--seed", seed]) == 2
    error = capfd.readouterr().err
    assert error.endswith(f": seed must be from 0 to 4294967295, got {seed}\n")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_out_of_memory_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError) as too_much:
        torch.empty(2**60)
    assert main([command_that_raises(too_much.value, monkeypatch)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("latentslots raise: out of memory; use a smaller batch (")
    assert error.count("\n") == 1


def test_an_internal_error_is_not_reported_as_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    name = command_that_raises(RuntimeError("a and b must have the same size"), monkeypatch)
    with pytest.raises(RuntimeError, match="must have the same size"):
        main([name])


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "latentslots", "recipes"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=True,
    )
    assert all(f"{name}: " in done.stdout for name in RECIPES)


def test_commands_print_no_noise_of_libraries_but_their_warnings(
    tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    Image.fromarray(tiny.squares(1)[0][0]).save(tmp_path / "image.png")
    words = ["segment", str(tiny_pipeline_dir), str(tmp_path / "image.png"), "--output-dir"]
    code = (
        "import logging\n"
        "from latentslots.cli.main import main\n"
        "import diffusers.loaders.ip_adapter\n"  # imports what transformers warns of
        f"assert main({[*words, str(tmp_path / 'out')]}) == 0\n"
        "for name in ('transformers.utils.import_utils', 'diffusers.pipelines'):\n"
        "    logging.getLogger(name).warning('a warning of %s', name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "torchvision" not in done.stderr
    assert "Loading pipeline components" not in done.stderr
    assert "1/1" in done.stderr, "our own progress bar"
    assert "a warning of transformers.utils.import_utils" in done.stderr
    assert "a warning of diffusers.pipelines" in done.stderr


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_printed_recipe_can_be_trained_again(
    name: str, tmp_path: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", name]) == 0
    file = tmp_path / "config.json"
    file.write_text(capsys.readouterr().out)
    assert load_config(file) == recipe(name)


def test_a_typo_in_a_config_names_the_nearest_key() -> None:
    with pytest.raises(ValueError, match=r"unknown config key 'optim.learning_rat'.*learning_rate"):
        from_dict({"method": {"kind": "lsd"}, "optim": {"learning_rat": 1e-3}}, TrainConfig)
