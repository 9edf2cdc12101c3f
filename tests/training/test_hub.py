"""Uploading to a small hub for tests, and refusing early what cannot work."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from latentslots.training.hub import check_repo, push_to_hub
from tests.tiny import tiny_autoencoder


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as an upload of small files needs. Keeps what it is sent."""

    repos: list[str]
    commits: list[list[dict]]

    def _answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer({"id": "me/model", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        base = f"http://{self.headers['Host']}"
        if self.path.endswith("/repos/create"):
            self.repos.append(json.loads(body)["name"])
            self._answer({"url": f"{base}/me/model"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            self._answer({"files": modes})
        elif "/commit/" in self.path:
            self.commits.append([json.loads(line) for line in body.splitlines()])
            self._answer(
                {"commitUrl": f"{base}/me/model/commit/1", "commitOid": "1" * 40, "hookOutput": ""}
            )
        else:
            self._answer({})

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    Hub.repos, Hub.commits = [], []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_pipeline_is_uploaded(hub: HTTPServer, finished: Path) -> None:
    address = push_to_hub(finished, "me/model", endpoint=f"http://127.0.0.1:{hub.server_port}")
    assert address.endswith("/me/model")
    assert Hub.repos == ["model"]
    (commit,) = Hub.commits
    sent = {line["value"]["path"] for line in commit if line["key"] == "file"}
    pipeline = finished / "pipeline"
    assert sent == {str(p.relative_to(pipeline)) for p in pipeline.rglob("*") if p.is_file()}
    assert "unet/diffusion_pytorch_model.safetensors" in sent


def test_an_autoencoder_is_uploaded(hub: HTTPServer, tmp_path: Path) -> None:
    tiny_autoencoder().save_pretrained(tmp_path / "pipeline" / "vae")
    push_to_hub(tmp_path, "me/vae", endpoint=f"http://127.0.0.1:{hub.server_port}")
    (commit,) = Hub.commits
    sent = {line["value"]["path"] for line in commit if line["key"] == "file"}
    assert sent == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_a_hub_that_cannot_be_reached_loses_no_model(hub: HTTPServer, finished: Path) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ValueError, match="could not be uploaded to me/model") as raised:
        push_to_hub(finished, "me/model", endpoint=f"http://127.0.0.1:{hub.server_port}")
    assert f"the model is in {finished / 'pipeline'}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["model", "me/model/x", "me/", "/model", "me/my model", ""])
def test_an_invalid_repository_name_is_refused(hub: HTTPServer, name: str) -> None:
    with pytest.raises(ValueError, match="takes USER/NAME, got"):
        check_repo(name)


def test_a_valid_repository_name_is_accepted(hub: HTTPServer) -> None:
    check_repo("some-body/Model_1.0")


def test_without_a_login_the_message_explains_how_to_log_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="needs a login: run `hf auth login`"):
        check_repo("me/model")
