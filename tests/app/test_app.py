"""The command `latentslots app`: mistakes, ports, and an orderly end."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from latentslots.cli.main import main
from latentslots.workflows.jobs import BETWEEN, MAX_WAITING, Job, Jobs, Progress
from latentslots.workflows.open_session import open_session
from latentslots.workflows.server.run import free_socket


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["bundled", "--images", "EMPTY"], "there is no image in the folder"),
        (["bundled", "--images", "none.png"], "there is no file or folder none.png"),
        (["bundled", "--concepts", "EMPTY"], "holds no concept library"),
        (["bundled", "--session", "FULL"], "holds something other than a session"),
        (["bundled", "--port", "99999"], "--port must be from 0 to 65535, got 99999"),
        (["bundled", "--host", "256.0.0.1"], "there is no address --host 256.0.0.1"),
        (["bundled", "--num-inference-steps", "0"], "must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("all of it")
    names = {"EMPTY": str(tmp_path / "empty"), "FULL": str(tmp_path / "full")}
    words = [names.get(word, word) for word in words]
    if "--session" not in words:
        words += ["--session", str(tmp_path / "session")]
    if "--port" not in words:
        words += ["--port", "0"]
    assert main(["app", *words, "--no-browser"]) == 2
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert message in last
    assert "Traceback" not in error


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("latentslots.workflows.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["app", "--no-browser"]) == 2
    assert "pip install 'latentslots[app]'" in capsys.readouterr().err


def test_the_next_free_port_is_taken() -> None:
    with free_socket("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with free_socket("127.0.0.1", port) as other:
            assert port < other.getsockname()[1] <= port + 20


def test_an_interrupt_ends_it_and_lets_go_of_the_session(
    framed_dir: Path, pictures: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(pictures[0])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    words = [str(framed_dir), "--images", str(tmp_path), "--session", str(tmp_path / "session")]
    command = [sys.executable, "-m", "latentslots", "app", *words, "--no-browser"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        address = process.stdout.readline().split()[4]
        with urllib.request.urlopen(address) as answer:  # at once, while the model is loaded
            assert b"<title>latentslots" in answer.read()
        with urllib.request.urlopen(f"{address}api/session") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert f"Port {port} is taken" in errors
    assert "broken.png was left out: " in errors
    assert "Traceback" not in errors


def test_a_cache_that_cannot_be_written_is_said(
    framed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened = open_session(framed, "")
    assert "cannot be written" in opened.notices[0]
    assert len(opened.session.pictures) == 12
    opened.session.close()


class TestJobs:
    def test_they_run_one_at_a_time_in_their_order(self) -> None:
        jobs, order = Jobs(), []

        def work(name: str, progress: Progress) -> str:
            order.append(f"{name} begins")
            time.sleep(0.05)
            order.append(f"{name} ends")
            return name

        started = [jobs.submit("run", name, lambda p, n=name: work(n, p)) for name in "abc"]
        for job in started:
            assert job.finished.wait(30)
        assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]
        assert [job.result for job in started] == ["a", "b", "c"]
        jobs.close()

    def test_a_failed_one_says_why_and_the_next_one_runs(self) -> None:
        jobs = Jobs()

        def fail(progress: Progress) -> None:
            raise RuntimeError("the paint\nis dry")

        failed, done = jobs.submit("run", "", fail), jobs.submit("run", "", lambda progress: 7)
        assert done.finished.wait(30)
        assert (failed.state, failed.error) == ("failed", "the paint is dry")
        assert (done.state, done.result) == ("done", 7)
        jobs.close()

    def test_waiting_ones_are_canceled_and_limited(self) -> None:
        told: list[tuple[int, str, int]] = []

        def hear(job: Job) -> None:
            told.append((job.id, job.state, job.done))

        jobs = Jobs(hear)

        def slow(progress: Progress) -> None:
            for i in range(10_000):
                progress(i, 10_000)
                time.sleep(0.001)

        first = jobs.submit("run", "", slow)
        while first.state == "waiting":
            time.sleep(0.001)
        waiting = [jobs.submit("run", "", slow) for _ in range(MAX_WAITING)]
        with pytest.raises(ValueError, match="20 jobs wait already"):
            jobs.submit("run", "", slow)
        for job in waiting:
            jobs.cancel(job.id)
        time.sleep(3 * BETWEEN)
        jobs.cancel(first.id)
        assert waiting[-1].finished.wait(30)
        assert {job.state for job in [first, *waiting]} == {"canceled"}
        steps = [done for number, state, done in told if (number, state) == (first.id, "running")]
        assert steps == sorted(steps)
        assert 2 <= len(steps) < 20  # not every step is told
        jobs.close()
