"""The editor over HTTP."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from latentslots.pipelines import DinosaurPipeline, LatentSlotDiffusionPipeline
from latentslots.workflows.server import guard
from latentslots.workflows.server.app import EditorApp, build_app
from latentslots.workflows.server.guard import HEADER, Guard
from latentslots.workflows.session import Session
from latentslots.workflows.session_store import content_id
from tests import tiny
from tests.app.conftest import encoded

HOST = "127.0.0.1:7860"
CHANGES = {HEADER: "1"}


@pytest.fixture
def editor(session: Session) -> Iterator[EditorApp]:
    app = EditorApp(session, model="MODEL", notices=["Welcome."])
    yield app
    app.jobs.close()


def client_of(app: EditorApp, token: str = "") -> TestClient:
    guarded = Guard(build_app(app), hosts=[HOST], token=token)
    return TestClient(guarded, base_url=f"http://{HOST}", headers=CHANGES, follow_redirects=False)


@pytest.fixture
def client(editor: EditorApp) -> TestClient:
    return client_of(editor)


@pytest.fixture
def picture(client: TestClient, pictures: list[bytes]) -> str:
    answer = client.post("/api/pictures?name=a.png", content=pictures[0])
    assert answer.status_code == 200
    identity = answer.json()["id"]
    edit(client, identity, operation="sampling", num_inference_steps=2)
    return str(identity)


def edit(client: TestClient, picture: str, /, **body: Any) -> Any:
    answer = client.post(f"/api/pictures/{picture}/edit", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def finish(client: TestClient, answer: Any) -> None:
    assert answer.status_code == 200, answer.text
    deadline = time.monotonic() + 60
    while client.get("/api/session").json()["jobs"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


class TestEditing:
    def test_a_round_trip(self, client: TestClient, picture: str, session: Session) -> None:
        path = f"/api/pictures/{picture}"
        before = client.get(f"{path}/image.png").content
        info = edit(client, picture, operation="remove", things=[1])
        assert [thing["number"] for thing in info["things"]] == [0, 2, 3]
        assert not info["painted"]
        assert info["shown"] == 1
        finish(client, client.post(f"{path}/run"))
        info = client.get(path).json()
        assert info["painted"]
        assert info["shown"] == 2
        after = client.get(f"{path}/image.png").content
        assert (opened(after) != opened(before)).any()
        info = client.post(f"{path}/go", json={"position": 1}).json()
        assert info["steps"] == ["open", "num_inference_steps", "remove"]
        assert client.get(f"{path}/image.png").content == before
        client.post(f"{path}/go", json={"position": 2})
        assert client.get(f"{path}/image.png").content == after

    def test_the_map_has_the_numbers_of_the_things(self, client: TestClient, picture: str) -> None:
        source = {"picture": picture, "thing": 2}
        info = edit(client, picture, operation="add", source=source, x=16, y=16)
        ids = opened(client.get(f"/api/pictures/{picture}/map.png").content)
        assert ids.dtype == np.uint8
        for thing in info["things"]:
            assert round(float((ids == thing["number"]).mean()), 4) == thing["share"]
        first = opened(client.get(f"/api/pictures/{picture}/map.png?position=0").content)
        assert {*np.unique(first)} <= {0, 1, 2, 3}

    def test_every_operation(self, client: TestClient, picture: str, pictures: list[bytes]) -> None:
        other = client.post("/api/pictures?name=b.png", content=pictures[1]).json()["id"]
        bodies: list[dict[str, Any]] = [
            {"operation": "move", "things": [0], "x": 3.5, "y": -2},
            {"operation": "scale", "things": [0], "factor": 1.2},
            {"operation": "exchange", "things": [1], "source": {"picture": other, "thing": 0}},
            {"operation": "exchange", "things": [2], "source": {"concept": 1, "rank": 1}},
            {"operation": "mix", "things": [3], "source": {"concept": 0}, "weight": 0.3},
            {"operation": "add", "source": {"picture": other, "thing": 1}, "x": 8, "y": 9},
            {"operation": "background", "picture": other},
            {"operation": "sampling", "guidance_scale": 1.5, "resample": 3, "invert": True},
            {"operation": "remove", "things": [4]},
        ]
        for body in bodies:
            state = edit(client, picture, **body)["state"]
        assert state["moved"] == {"0": [3.5, -2.0]}
        assert state["scaled"] == {"0": 1.2}
        assert state["exchanged"] == {"1": f"{other}:0", "2": "library:1.1"}
        assert state["mixed"] == {"3": ["library:0", 0.3]}
        assert state["added"] == []
        assert (state["background"], state["resample"], state["invert"]) == (other, 3, True)
        words = client.get(f"/api/pictures/{picture}/command").json()["command"]
        assert words.startswith("latentslots edit MODEL ")
        assert "--mix 3=" in words
        assert edit(client, picture, operation="reset")["state"]["moved"] == {}
        area = edit(client, picture, operation="area", area=[0, 0, 16, 16])
        assert area["square"] == [0, 0, 16, 16]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"operation": []}, "there is no operation []"),
            ({"operation": "move", "things": [1], "x": 10**400, "y": 0}, "x must be a number"),
            (
                {"operation": "exchange", "things": [1, 2], "source": {"concept": 0}},
                "one thing at a time can be exchanged or mixed, got 2",
            ),
            ({"operation": "explode"}, "there is no operation 'explode', only remove, move"),
            ({"operation": "remove"}, "things must be a list of numbers, got None"),
            ({"operation": "remove", "things": ["1"]}, "a thing must be a number, got '1'"),
            ({"operation": "remove", "things": [1.5]}, "a thing must be a whole number, got 1.5"),
            ({"operation": "move", "things": [1], "x": None, "y": 1}, "x must be a number"),
            ({"operation": "move", "things": [77], "x": 1, "y": 1}, "there is no thing 77"),
            ({"operation": "scale", "things": [1], "factor": -1}, "0.05 to 20 times their size"),
            ({"operation": "exchange", "things": [1]}, "source must name a thing"),
            ({"operation": "background", "picture": "x"}, "there is no picture 'x'"),
            ({"operation": "sampling", "num_inference_steps": 0}, "must be from 1 to 1000, got 0"),
            ({"operation": "area", "area": [0, 0, 9]}, "an area has four edges"),
            ({"operation": "area", "area": [0, 0, 9, 7]}, "an area must be a square"),
        ],
    )
    def test_mistakes_are_one_sentence(
        self, client: TestClient, picture: str, body: Any, message: str
    ) -> None:
        answer = client.post(f"/api/pictures/{picture}/edit", json=body)
        assert answer.status_code == 400
        assert message in answer.json()["error"]
        assert len(client.get(f"/api/pictures/{picture}").json()["steps"]) == 2

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
    def test_no_json(self, client: TestClient, picture: str, content: bytes) -> None:
        answer = client.post(f"/api/pictures/{picture}/edit", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"]

    def test_a_preview_is_no_state(self, client: TestClient, picture: str) -> None:
        edit(client, picture, operation="remove", things=[1])
        finish(client, client.post(f"/api/pictures/{picture}/run", json={"preview": True}))
        assert not client.get(f"/api/pictures/{picture}").json()["painted"]

    def test_jobs_are_reported_and_canceled(
        self, editor: EditorApp, client: TestClient, picture: str
    ) -> None:
        told: list[Any] = []
        editor.jobs.notify = lambda job: told.append(job.to_dict())
        edit(client, picture, operation="sampling", num_inference_steps=1_000)
        edit(client, picture, operation="remove", things=[1])
        job = client.post(f"/api/pictures/{picture}/run").json()
        client.post(f"/api/jobs/{job['id']}/cancel")
        finish(client, client.get("/api/session"))
        assert told[-1]["state"] == "canceled"
        assert not client.get(f"/api/pictures/{picture}").json()["painted"]

    def test_all_pictures_lose_what_is_like_a_thing(
        self, client: TestClient, picture: str, pictures: list[bytes], session: Session
    ) -> None:
        other = client.post("/api/pictures?name=b.png", content=pictures[2]).json()["id"]
        body = {"operation": "remove_like", "source": {"picture": picture, "thing": 2}}
        finish(client, client.post("/api/batch", json=body))
        for one in (picture, other):
            info = client.get(f"/api/pictures/{one}").json()
            assert info["painted"]
            assert len(info["things"]) == 3
        assert client.get(f"/api/pictures/{picture}").json()["state"]["removed"] == [2]
        written = sorted((session.store.folder / "batches" / "001").iterdir())
        assert [path.stem.split("_")[1] for path in written] == [picture, other]
        with Image.open(written[1]) as image:
            assert image.size == (97, 64)

    def test_a_new_scene_of_chosen_concepts(self, client: TestClient, picture: str) -> None:
        finish(client, client.post("/api/recompose", json={"concepts": [2], "seed": 5}))
        names = [one["name"] for one in client.get("/api/session").json()["pictures"]]
        assert names == ["a.png", "composed 5 of 2.png"]
        answer = client.post("/api/recompose", json={"concepts": [7]})
        assert answer.json()["error"].startswith("there is no concept 7")

    def test_another_try_is_a_state_of_its_own(self, client: TestClient, picture: str) -> None:
        for seed in (1, 2, 3):
            info = edit(client, picture, operation="sampling", resample=seed)
        assert info["steps"] == ["open", "num_inference_steps", *["sampling"] * 3]

    def test_edits_go_on_while_a_picture_is_painted(
        self, client: TestClient, picture: str, pictures: list[bytes], session: Session
    ) -> None:
        """No thread waits for another that waits for it."""
        other = client.post("/api/pictures?name=b.png", content=pictures[1]).json()["id"]
        edit(client, picture, operation="background", picture=other)
        edit(client, picture, operation="sampling", num_inference_steps=1_000)
        job = client.post(f"/api/pictures/{picture}/run").json()
        with ThreadPoolExecutor(8) as threads:
            reads = [
                threads.submit(client.get, f"/api/pictures/{one}") for one in (picture, other) * 8
            ]
            edits = [
                threads.submit(edit, client, other, operation="move", things=[i % 4], x=1, y=0)
                for i in range(12)
            ]
            assert all(read.result(timeout=60).status_code == 200 for read in reads)
            for one in edits:
                one.result(timeout=60)
        assert len(client.get(f"/api/pictures/{other}").json()["steps"]) == 13
        client.post(f"/api/jobs/{job['id']}/cancel")

    def test_a_picture_that_another_one_uses_stays(
        self, client: TestClient, picture: str, pictures: list[bytes]
    ) -> None:
        other = client.post("/api/pictures?name=b.png", content=pictures[1]).json()["id"]
        edit(client, picture, operation="background", picture=other)
        answer = client.delete(f"/api/pictures/{other}")
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("a.png has something of b.png")
        assert client.delete(f"/api/pictures/{picture}").status_code == 200
        assert client.delete(f"/api/pictures/{other}").status_code == 200
        assert client.get("/api/session").json()["pictures"] == []


class TestFiles:
    def test_results_belong_to_the_slots_that_they_were_painted_from(
        self, client: TestClient, picture: str, session: Session
    ) -> None:
        edit(client, picture, operation="remove", things=[1])
        before = client.get(f"/api/pictures/{picture}").json()["version"]
        finish(client, client.post(f"/api/pictures/{picture}/run"))
        ids = np.arange(1024, dtype=np.uint8).reshape(32, 32) // 64 % 4
        client.post(f"/api/pictures/{picture}/slots", content=encoded(ids))
        edit(client, picture, operation="sampling", num_inference_steps=2)
        info = edit(client, picture, operation="remove", things=[1])
        assert not info["painted"]
        assert info["version"] != before
        client.delete(f"/api/pictures/{picture}")
        assert not list((session.store.folder / "pictures").iterdir())

    def test_things_come_from_the_slots_and_the_square_that_are_shown(
        self, client: TestClient, picture: str, pictures: list[bytes], session: Session
    ) -> None:
        ids = np.zeros((32, 32), dtype=np.uint8)
        ids[4:12, 6:20] = 1
        other = client.post("/api/pictures?name=b.png", content=pictures[1]).json()["id"]
        client.post(f"/api/pictures/{other}/slots", content=encoded(ids))
        source = {"picture": other, "thing": 1}
        edit(client, picture, operation="exchange", things=[2], source=source)
        given = session.editor(session.picture(other), None).scene.slots
        _, change = session.edit_of(picture)
        assert torch.equal(change.after.slots[0, 2, :-4], given[0, 1, :-4])
        edit(client, picture, operation="area", area=[0, 0, 20, 20])
        source = {"picture": picture, "thing": 1}
        edit(client, picture, operation="exchange", things=[0], source=source)
        own = session.editor(session.picture(picture), (0, 0, 20, 20)).scene.slots
        _, change = session.edit_of(picture)
        assert torch.equal(change.after.slots[0, 0, :-4], own[0, 1, :-4])

    def test_a_result_is_no_path(self, client: TestClient, picture: str, tmp_path: Path) -> None:
        (tmp_path / "secret.safetensors").write_bytes(b"secret")
        for key in ("../../secret", "../../../etc/passwd", "x"):
            answer = client.get(f"/api/pictures/{picture}/image.png", params={"key": key})
            assert answer.json() == {"error": f"there is no result {key!r}"}
        answer = client.post(
            f"/api/pictures/{picture}/edit",
            json={"operation": "add", "source": {"concept": 0}, "x": 99, "y": 3},
        )
        assert answer.json()["error"].startswith("pixel 99,3 lies outside of a.png")

    def test_photographs_stand_upright(self, client: TestClient) -> None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
        exif = Image.Exif()
        exif[274] = 6  # rotated by a quarter
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", exif=exif)
        one = client.post("/api/pictures?name=phone.jpg", content=buffer.getvalue()).json()["id"]
        info = client.get(f"/api/pictures/{one}").json()
        assert (info["width"], info["height"]) == (40, 60)
        for name in ("image", "original", "thumbnail"):
            assert opened(client.get(f"/api/pictures/{one}/{name}.png").content).shape[:2] == (
                60,
                40,
            )

    def test_a_session_is_saved_and_opened_elsewhere(
        self,
        client: TestClient,
        picture: str,
        framed: LatentSlotDiffusionPipeline,
        session: Session,
        tmp_path: Path,
    ) -> None:
        edit(client, picture, operation="remove", things=[1])
        finish(client, client.post(f"/api/pictures/{picture}/run"))
        image = client.get(f"/api/pictures/{picture}/image.png").content
        packed = client.get("/api/session.zip").content
        again = Session(framed, tmp_path / "again", library=session.library_folder)
        app = EditorApp(again, model="MODEL", notices=[])
        elsewhere = client_of(app)
        added = elsewhere.post("/api/session", content=packed).json()["added"]
        assert [one["id"] for one in added] == [picture]
        info = elsewhere.get(f"/api/pictures/{picture}").json()
        assert info["painted"]
        assert info["steps"] == ["open", "num_inference_steps", "remove"]
        assert elsewhere.get(f"/api/pictures/{picture}/image.png").content == image
        app.jobs.close()
        again.close()

    def test_what_can_be_saved(self, client: TestClient, picture: str) -> None:
        path = f"/api/pictures/{picture}/saved"
        assert opened(client.get(f"{path}/picture").content).shape == (32, 32, 3)
        masks = opened(client.get(f"{path}/masks").content)
        assert {*np.unique(masks)} <= {0, 1, 2, 3}
        cutouts = zipfile.ZipFile(io.BytesIO(client.get(f"{path}/cutouts").content))
        assert cutouts.namelist() == [f"thing_0{i}.png" for i in range(4)]
        assert client.get(f"{path}/secrets").status_code == 400

    def test_slots_and_id_maps_are_used(self, client: TestClient, picture: str) -> None:
        path = f"/api/pictures/{picture}"
        slots = client.get(f"{path}/saved/slots").content
        edit(client, picture, operation="remove", things=[1])
        info = client.post(f"{path}/slots", content=slots).json()
        assert info["steps"] == ["slots"]
        assert len(info["things"]) == 4
        ids = np.zeros((32, 32), dtype=np.uint8)
        ids[4:12, 6:20] = 1
        ids[20:30, 2:9] = 7
        info = client.post(f"{path}/slots", content=encoded(ids)).json()
        assert [thing["box"] for thing in info["things"][1:]] == [[6, 4, 20, 12], [2, 20, 9, 30]]
        edit(client, picture, operation="move", things=[1], x=4, y=0)
        for content, message in (
            (b"nothing", "the file holds no slots"),
            (encoded(ids[:8]), "one id in each of the 32 x 32 pixels of its picture, got an image"),
        ):
            answer = client.post(f"{path}/slots", content=content)
            assert answer.status_code == 400
            assert message in answer.json()["error"]

    @pytest.mark.parametrize("content", [b"nothing", b"PK\x05\x06" + bytes(18)])
    def test_no_session(self, client: TestClient, content: bytes) -> None:
        answer = client.post("/api/session", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("the file is no session")

    @pytest.mark.parametrize(
        "change",
        [
            {"pipeline": "another"},
            {"steps": [], "position": 5},
            {"steps": 7},
            {"name": None},
            {"slots": "../../x"},
            "no picture",
            "twice",
            "deep",
        ],
    )
    def test_a_session_that_is_damaged_adds_nothing(
        self, client: TestClient, picture: str, pictures: list[bytes], session: Session, change: Any
    ) -> None:
        index = json.loads((session.store.folder / "session.json").read_text())
        fresh = pictures[1]
        one = {**index["pictures"][0], "id": content_id(fresh)}
        if "pipeline" in change:
            index["made_by"] = {**index["made_by"], **change}
        elif isinstance(change, dict):
            one |= change
        index["pictures"] = [one, one] if change == "twice" else [one]
        if change == "no picture":
            bad = b"no picture at all"
            index["pictures"].append({**one, "id": content_id(bad)})
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            text = "[" * 100_000 if change == "deep" else json.dumps(index)
            archive.writestr("session.json", text)
            archive.writestr(f"pictures/{content_id(fresh)}.png", fresh)
            if change == "no picture":
                archive.writestr(f"pictures/{content_id(bad)}.png", bad)
        before = client.get("/api/session").json()["pictures"]
        answer = client.post("/api/session", content=buffer.getvalue())
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("the file is no session that can be opened")
        assert client.get("/api/session").json()["pictures"] == before

    def test_a_session_writes_nothing_outside_of_its_folder(
        self, client: TestClient, picture: str, session: Session
    ) -> None:
        index = json.loads((session.store.folder / "session.json").read_text())
        for name, value in (("id", "../evil"), ("ending", "/../../evil")):
            changed = json.loads(json.dumps(index))
            changed["pictures"][0][name] = value
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                archive.writestr("session.json", json.dumps(changed))
                one = changed["pictures"][0]
                archive.writestr(f"pictures/{one['id']}{one['ending']}", b"evil")
                archive.writestr("results/../../evil.safetensors", b"evil")
            answer = client.post("/api/session", content=buffer.getvalue())
            assert answer.status_code == 400
            assert "there is no picture" in answer.json()["error"]
        assert not list(session.store.folder.parent.rglob("*evil*"))

    @pytest.mark.parametrize(
        "content",
        [
            b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
            b"<!doctype html><script>alert(1)</script>",
            b"",
            b"\x89PNG\r\n\x1a\n broken",
        ],
    )
    def test_no_picture(self, client: TestClient, content: bytes) -> None:
        answer = client.post("/api/pictures?name=../../x.png", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("x.png ")
        assert client.get("/api/session").json()["pictures"] == []

    def test_a_picture_of_too_many_pixels(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch, pictures: list[bytes]
    ) -> None:
        monkeypatch.setattr("latentslots.workflows.session_store.MAX_PIXELS", 1_000)
        answer = client.post("/api/pictures?name=x.png", content=pictures[0])
        assert answer.json()["error"] == "x.png has 32 x 32 pixels, more than 0.001 megapixels"


class TestGuard:
    def test_other_hosts_and_origins_are_refused(self, client: TestClient) -> None:
        for headers, status in (
            ({"host": "evil.example:7860"}, 421),  # DNS rebinding
            ({"host": "127.0.0.1:80"}, 421),
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "null"}, 403),
            ({"sec-fetch-site": "cross-site"}, 403),
            ({"origin": f"http://{HOST}"}, 200),
        ):
            answer = client.get("/api/session", headers=headers)
            assert answer.status_code == status, headers

    def test_changes_need_the_header(self, editor: EditorApp, pictures: list[bytes]) -> None:
        client = client_of(editor)
        del client.headers[HEADER]
        answer = client.post("/api/pictures?name=a.png", content=pictures[0])
        assert answer.status_code == 403
        assert client.get("/api/session").json()["pictures"] == []

    def test_a_token_is_asked_for(self, editor: EditorApp) -> None:
        client = client_of(editor, token="secret")
        client.headers["host"] = "192.0.2.7:7860"  # by whatever name others reach it
        assert client.get("/").status_code == 401
        assert client.get("/api/session").status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        answer = client.get("/?token=secret")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/"
        assert client.get("/api/session").status_code == 200  # by the cookie

    def test_a_request_may_not_be_too_large(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch, pictures: list[bytes]
    ) -> None:
        monkeypatch.setattr(guard, "MAX_BYTES", 100)
        assert client.post("/api/pictures?name=a.png", content=pictures[0]).status_code == 413

        def chunks() -> Iterator[bytes]:  # whose length is not announced
            for start in range(0, len(pictures[0]), 50):
                yield pictures[0][start : start + 50]

        assert client.post("/api/pictures?name=a.png", content=chunks()).status_code == 413
        assert client.get("/api/session").json()["pictures"] == []

    def test_every_answer_has_the_security_headers(self, client: TestClient) -> None:
        for path in ("/", "/main.js", "/api/session", "/nothing", "/api/pictures/none"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize(
        "path", ["/../pyproject.toml", "/%2e%2e/%2e%2e/x.js", "/app.py", "/assets", "/index.htm"]
    )
    def test_files_of_the_page_only(self, client: TestClient, path: str) -> None:
        assert client.get(path).status_code in (404, 405)


class TestModels:
    def test_a_model_that_cannot_paint_still_finds_things(
        self, tmp_path: Path, pictures: list[bytes]
    ) -> None:
        folder = tmp_path / "dinosaur"
        tiny.tiny_dinosaur().save_pipeline(folder)
        session = Session(DinosaurPipeline.from_pretrained(folder), tmp_path / "session")
        app = EditorApp(session, model="MODEL", notices=[])
        client = client_of(app)
        identity = client.post("/api/pictures?name=a.png", content=pictures[0]).json()["id"]
        assert client.get(f"/api/pictures/{identity}").json()["things"]
        assert client.get(f"/api/pictures/{identity}/saved/masks").status_code == 200
        assert not client.get("/api/session").json()["can_edit"]
        answer = client.post(f"/api/pictures/{identity}/run")
        assert "cannot paint" in answer.json()["error"]
        app.jobs.close()
        session.close()
