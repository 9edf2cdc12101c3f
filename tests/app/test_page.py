"""The editor's page in a real browser: Chromium, driven by Playwright."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from latentslots.workflows.server.guard import HEADER
from latentslots.workflows.session_store import content_id
from tests.app.conftest import encoded

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="Chromium is missing: apt-get install chromium"
)

ADDRESS = re.compile(r"http://\S+/")
STEPS = ["--num-inference-steps", "2"]
Point = tuple[float, float]


class Server:
    """The command `latentslots app` in a process of its own."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.process = self.start()

    def start(self, port: str = "0") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "latentslots", "app", *self.words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [*command, "--no-browser", "--port", port, *STEPS],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if (match := ADDRESS.search(line)) is not None:
                self.address = match[0]
                return self.process
        raise AssertionError(said)

    def stop(self, signum: int = signal.SIGINT) -> int:
        self.process.send_signal(signum)
        code = self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def give_things(address: str, picture: bytes) -> None:
    """Give a picture clear things: an untrained model finds none."""
    ids = np.zeros((32, 32), dtype=np.uint8)
    ids[5:13, 6:16] = 1
    ids[18:28, 3:12] = 2
    ids[16:25, 20:29] = 3
    path = f"api/pictures/{content_id(picture)}/slots"
    request = urllib.request.Request(address + path, encoded(ids), {HEADER: "1"}, method="POST")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(pictures: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, content in zip(("a", "b", "wide"), pictures, strict=False):
        (folder / f"{name}.png").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def server(
    framed_dir: Path, library_dir: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    session = tmp_path_factory.mktemp("app") / "session"
    words = [str(framed_dir), "--images", str(folder), "--concepts", str(library_dir)]
    running = Server(*words, "--session", str(session))
    for name in ("a", "b"):
        give_things(running.address, (folder / f"{name}.png").read_bytes())
    yield running
    if running.process.poll() is None:
        running.stop()


class Editor:
    """The page, and what a hand does in it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self._hear("error", str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        self.until("() => Boolean(window.editor?.stage.result)")

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def js(self, code: str) -> Any:
        return self.page.evaluate(code)

    def until(self, code: str, seconds: float = 60.0) -> None:
        """Wait until a function of JavaScript is true."""
        deadline = time.monotonic() + seconds
        while not self.js(code):
            assert time.monotonic() < deadline, (code, self.page.inner_text("#error"))
            time.sleep(0.02)

    @property
    def info(self) -> dict[str, Any]:
        value: dict[str, Any] = self.js("() => editor.info")
        return value

    def open(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()
        self.until(f"() => editor.info?.name === '{name}' && editor.stage.info === editor.info")

    def screen(self, x: float, y: float) -> Point:
        """The point of the screen that shows a point of the picture."""
        view = self.js(
            "() => ({...editor.stage.view, box: editor.stage.element.getBoundingClientRect()})"
        )
        return view["box"]["x"] + view["x"] + x * view["scale"], (
            view["box"]["y"] + view["y"] + y * view["scale"]
        )

    def inside(self, number: int) -> Point:
        """A pixel of a thing, in the middle of its pixels."""
        ids = np.array(self.js("() => [...editor.stage.map.ids]"))
        side = int(self.js("() => editor.stage.map.side"))
        left, top, right, _ = self.info["square"]
        rows, columns = (ids.reshape(side, side) == number).nonzero()
        i = int(np.hypot(rows - rows.mean(), columns - columns.mean()).argmin())
        unit = (right - left) / side
        return left + (columns[i] + 0.5) * unit, top + (rows[i] + 0.5) * unit

    def click(self, number: int, **options: Any) -> None:
        self.page.mouse.move(*self.screen(*self.inside(number)))
        keys = options.pop("keys", [])
        for key in keys:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self.screen(*self.inside(number)), **options)
        for key in keys:
            self.page.keyboard.up(key)

    def drag(self, start: Point, end: Point) -> None:
        self.page.mouse.move(*self.screen(*start))
        self.page.mouse.down()
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        for point in (middle, end):
            self.page.mouse.move(*self.screen(*point), steps=4)
        self.page.mouse.up()

    def position(self, number: int) -> None:
        self.until(f"() => editor.info.position === {number} && editor.stage.info === editor.info")

    def run(self) -> None:
        if not self.info["painted"]:  # a state that another test has painted is not painted again
            self.page.click("#run")
        self.until("() => editor.info.painted")

    def picture(self) -> np.ndarray:
        """What the server has as the picture now."""
        answer = self.page.request.get(
            f"{self.page.url.split('#')[0]}api/pictures/{self.info['id']}/image.png"
        )
        return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))

    def objects(self) -> list[int]:
        """The numbers of the things that own some pixels and are not the ground."""
        return [
            thing["number"]
            for thing in self.info["things"]
            if thing["box"] and not thing["is_background"]
        ]


@pytest.fixture
def editor(browser: Browser, server: Server) -> Iterator[Editor]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    one = Editor(page, server.address)
    one.open("a.png")
    while one.info["position"]:
        page.keyboard.press("Control+z")
        time.sleep(0.05)
    yield one
    assert one.complaints == []
    hosts = {url.split("/")[2] for url in one.requests if not url.startswith(("blob:", "data:"))}
    assert hosts == {server.address.split("/")[2]}
    context.close()


def test_the_thing_under_the_pointer_is_highlighted_without_a_request(editor: Editor) -> None:
    before = len(editor.requests)
    for number in editor.objects():
        editor.page.mouse.move(*editor.screen(*editor.inside(number)))
        assert editor.js("() => editor.stage.hovered") == number
    assert len(editor.requests) == before


def test_click_shift_click_and_alt_click_select(editor: Editor) -> None:
    one, two = editor.objects()[:2]
    selected = "() => [...editor.stage.selection]"
    editor.click(one)
    assert editor.js(selected) == [one]
    editor.click(two, keys=["Shift"])
    assert editor.js(selected) == [one, two]
    editor.click(one, keys=["Alt"])
    assert editor.js(selected) == [two]
    editor.click(two, button="right")
    assert editor.js(selected) == []
    editor.click(one)
    editor.page.keyboard.press("Escape")
    assert editor.js(selected) == []


def test_remove_run_undo_and_redo(editor: Editor) -> None:
    original = editor.picture()
    one = editor.objects()[0]
    editor.click(one)
    editor.page.click('[data-op="remove"]')
    editor.position(1)
    assert one not in editor.objects()
    editor.run()
    painted = editor.picture()
    assert (painted != original).any()
    editor.page.keyboard.press("Control+z")
    editor.position(0)
    np.testing.assert_array_equal(editor.picture(), original)
    expect(editor.page.locator("#undo")).to_be_disabled()
    editor.page.keyboard.press("Shift+Control+z")
    editor.position(1)
    np.testing.assert_array_equal(editor.picture(), painted)
    expect(editor.page.locator("#redo")).to_be_disabled()


def test_a_thing_is_dragged_to_the_pointer_and_scaled_by_a_corner(editor: Editor) -> None:
    one = editor.objects()[0]
    start = editor.inside(one)
    editor.drag(start, (start[0] + 4, start[1] - 3))
    editor.position(1)
    x, y = editor.info["state"]["moved"][str(one)]
    assert (x, y) == (pytest.approx(4, abs=0.2), pytest.approx(-3, abs=0.2))
    corner = editor.js("() => editor.stage.handles()[3]")
    stage = editor.js("() => editor.stage.element.getBoundingClientRect().toJSON()")
    editor.page.mouse.move(stage["x"] + corner["x"], stage["y"] + corner["y"])
    editor.page.mouse.down()
    editor.page.mouse.move(stage["x"] + corner["x"] + 30, stage["y"] + corner["y"] + 30, steps=5)
    editor.page.mouse.up()
    editor.position(2)
    assert editor.info["state"]["scaled"][str(one)] > 1
    (left, top, right, bottom), *_ = (thing["box"] for thing in editor.info["things"][1:])
    assert right - left > 10
    assert bottom - top > 8
    center = ((left + right) / 2, (top + bottom) / 2)
    assert center == (pytest.approx(11 + x, abs=1), pytest.approx(9 + y, abs=1))


def test_a_thing_is_exchanged_for_a_concept(editor: Editor) -> None:
    one = editor.objects()[0]
    editor.page.select_option("#palette-source", "library")
    editor.page.get_by_role("button", name="concept 1,").click()
    editor.click(one)
    editor.page.keyboard.press("x")
    editor.position(1)
    assert editor.info["state"]["exchanged"] == {str(one): "library:1"}
    editor.run()


def test_a_thing_of_another_picture_is_dragged_in(editor: Editor) -> None:
    editor.page.select_option("#palette-source", label="b.png")
    thing = editor.page.locator("#palette-things [data-source]").first
    expect(thing).to_have_attribute("aria-label", re.compile("of b.png"))
    place = editor.page.locator("#canvas").bounding_box()
    assert place is not None
    x, y = editor.screen(20, 9)
    target: Any = {"x": x - place["x"], "y": y - place["y"]}
    thing.drag_to(editor.page.locator("#canvas"), target_position=target)
    editor.position(1)
    (added,) = editor.info["state"]["added"]
    assert (added["x"], added["y"]) == (pytest.approx(20, abs=1), pytest.approx(9, abs=1))
    assert editor.js("() => document.activeElement.id") == "stage"
    editor.page.keyboard.press("Enter")
    editor.until("() => editor.info.painted")


def test_reloading_keeps_the_session(editor: Editor) -> None:
    editor.click(editor.objects()[0])
    editor.page.keyboard.press("Delete")
    editor.position(1)
    editor.run()
    before = editor.picture()
    editor.page.reload()
    editor.until("() => Boolean(window.editor?.stage.result)")
    assert editor.info["name"] == "a.png"
    assert editor.info["steps"][1:] == ["remove"]
    np.testing.assert_array_equal(editor.picture(), before)


def test_two_tabs_agree(editor: Editor) -> None:
    other = Editor(editor.page.context.new_page(), editor.page.url)
    other.until("() => editor.info?.name === 'a.png'")
    editor.click(editor.objects()[0])
    editor.page.keyboard.press("Delete")
    other.position(1)
    other.page.keyboard.press("Control+z")
    editor.position(0)
    assert other.complaints == []
    other.page.close()


def test_by_keyboard_alone(editor: Editor) -> None:
    page = editor.page
    page.locator("#stage").focus()
    page.keyboard.press(".")
    (number,) = editor.js("() => [...editor.stage.selection]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    editor.position(1)
    assert editor.info["state"]["moved"] == {str(number): [1, 10]}
    page.keyboard.press("Enter")
    editor.until("() => editor.info.painted")
    page.keyboard.press("h")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    reached = set()
    for _ in range(8):
        page.keyboard.press("F6")
        reached.add(
            editor.js("() => document.activeElement.id || document.activeElement.className")
        )
    assert {"stage", "palette-source", "undo", "pick"} <= reached


def test_tab_held_shows_the_original(editor: Editor) -> None:
    editor.page.locator("#stage").focus()
    editor.page.keyboard.down("Tab")
    assert editor.js("() => editor.stage.holding")
    time.sleep(0.4)
    editor.page.keyboard.up("Tab")
    assert not editor.js("() => editor.stage.holding")
    assert editor.js("() => document.activeElement.id") == "stage"
    editor.page.keyboard.press("Tab")  # a tap moves on
    assert editor.js("() => document.activeElement.id") != "stage"


def test_undo_during_a_stroke_and_a_running_job(editor: Editor) -> None:
    one = editor.objects()[0]
    editor.click(one)
    editor.page.keyboard.press("Delete")
    editor.position(1)
    editor.page.keyboard.press("r")  # another try, which nothing has painted yet
    editor.position(2)
    editor.page.click("#run")
    editor.page.keyboard.press("Control+z")
    editor.page.keyboard.press("Control+z")
    editor.position(0)
    editor.until("() => editor.jobs.size === 0")
    assert editor.info["position"] == 0
    start = editor.inside(editor.objects()[0])
    editor.page.mouse.move(*editor.screen(*start))
    editor.page.mouse.down()
    editor.page.mouse.move(*editor.screen(start[0] + 5, start[1]), steps=4)
    editor.page.keyboard.press("Shift+Control+z")
    editor.page.mouse.up()
    editor.page.keyboard.press("Shift+Control+z")
    editor.position(2)
    assert editor.info["steps"][1:] == ["remove", "sampling"]
    assert editor.info["painted"]


def test_another_picture_stays_when_painting_ends(editor: Editor) -> None:
    editor.click(editor.objects()[0])
    editor.page.keyboard.press("Delete")
    editor.page.keyboard.press("Enter")  # at once
    editor.open("b.png")
    editor.until("() => editor.jobs.size === 0")
    editor.js("() => editor.work")
    assert editor.info["name"] == "b.png"
    editor.open("a.png")
    assert editor.info["painted"]


def test_a_nudge_belongs_to_its_picture(editor: Editor) -> None:
    editor.page.locator("#stage").focus()
    editor.page.keyboard.press(".")
    editor.page.keyboard.press("ArrowRight")
    editor.page.keyboard.press("]")
    editor.until("() => editor.info.name === 'b.png'")
    assert editor.info["state"]["moved"] == {}
    editor.open("a.png")
    assert editor.info["steps"][-1] == "move"


def test_a_picture_is_taken_out_and_another_one_is_shown(editor: Editor) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    files: Any = [{"name": "gone.png", "mimeType": "image/png", "buffer": encoded(pixels)}]
    editor.page.set_input_files("#file-pictures", files)
    editor.until("() => editor.info?.name === 'gone.png' && editor.stage.info === editor.info")
    editor.page.get_by_role("button", name="Take gone.png out of the session").click()
    editor.until("() => editor.info && editor.info.name !== 'gone.png'")
    editor.open("b.png")
    editor.open("a.png")


def test_a_square_is_chosen_by_keys(editor: Editor) -> None:
    editor.open("wide.png")
    editor.page.locator("#stage").focus()
    for key in ("a", "-", "-", "Shift+ArrowLeft", "ArrowDown", "Enter"):
        editor.page.keyboard.press(key)
    editor.until("() => editor.info.steps.at(-1) === 'area'")
    assert editor.info["square"] == [6, 1, 66, 61]


def test_a_broken_upload_is_one_sentence(editor: Editor) -> None:
    count = editor.js("() => editor.session.pictures.length")
    files: Any = [
        {"name": "evil.svg", "mimeType": "image/svg+xml", "buffer": b"<svg onload='x()'/>"}
    ]
    editor.page.set_input_files("#file-pictures", files)
    expect(editor.page.locator("#error")).to_contain_text("Evil.svg cannot be decoded")
    assert editor.js("() => editor.session.pictures.length") == count
    editor.complaints.clear()  # the browser logs the refused request


def test_a_photograph_of_12_megapixels_keeps_its_size(editor: Editor) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    content = encoded(pixels, (4000, 3000), "JPEG")
    files: Any = [{"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": content}]
    editor.page.set_input_files("#file-pictures", files)
    editor.until("() => editor.info?.name === 'photo.jpg' && editor.stage.info === editor.info")
    editor.click(editor.objects()[0])
    editor.page.keyboard.press("Delete")
    editor.until("() => editor.info.steps.length === 2")
    editor.run()
    address = editor.page.url.split("#")[0]
    saved = editor.page.request.get(
        f"{address}api/pictures/{editor.info['id']}/saved/picture", timeout=60_000
    )
    with Image.open(io.BytesIO(saved.body())) as image, Image.open(io.BytesIO(content)) as before:
        assert image.size == (4000, 3000)
        changed = (np.asarray(image) != np.asarray(before)).any(axis=2)
    assert changed.any()
    assert not changed[:, :499].any()
    assert not changed[:, 3501:].any()


def test_a_slow_network_keeps_the_order(editor: Editor) -> None:
    delays = iter([0.5, 0.0, 0.3] * 20)

    def slow(route: Any) -> None:
        time.sleep(next(delays))
        route.continue_()

    editor.page.route("**/api/pictures/*/edit", slow)
    editor.page.route("**/api/pictures/*/go", slow)
    one, two = editor.objects()[:2]
    editor.js(f"() => {{ editor.edit({{operation: 'remove', things: [{one}]}}); }}")
    editor.js(f"() => {{ editor.edit({{operation: 'remove', things: [{two}]}}); }}")
    editor.js("() => { editor.go(-1); editor.go(-1); editor.go(1); }")
    editor.js("() => editor.work")  # all of them, in their order
    assert editor.info["position"] == 1
    assert len(editor.info["steps"]) == 3
    assert editor.info["state"]["removed"] == [one]


def test_it_is_usable_when_small_and_zoomed(editor: Editor) -> None:
    for width, height in ((1024, 700), (640, 480), (3840, 2160)):  # 640: 1280 at 200 %
        editor.page.set_viewport_size({"width": width, "height": height})
        editor.until(
            "() => Math.abs(editor.stage.canvas.width - editor.stage.element.clientWidth) <= 1"
        )
        assert editor.js("() => document.documentElement.scrollWidth <= innerWidth")
        assert editor.js("() => editor.stage.element.clientHeight >= 200")


def test_a_killed_server_comes_back(browser: Browser, server: Server, editor: Editor) -> None:
    editor.click(editor.objects()[0])
    editor.page.keyboard.press("Delete")
    editor.position(1)
    editor.run()
    before = editor.picture()
    port = server.address.rstrip("/").rpartition(":")[2]
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    editor.page.keyboard.press("Control+z")
    expect(editor.page.locator("#error")).to_contain_text("server")
    server.start(port)
    expect(editor.page.locator("#error")).to_be_hidden(timeout=30_000)
    editor.position(1)
    np.testing.assert_array_equal(editor.picture(), before)
    editor.page.keyboard.press("Control+z")
    editor.position(0)
    editor.complaints.clear()  # of the requests that failed meanwhile
