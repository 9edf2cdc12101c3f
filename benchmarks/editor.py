"""How fast the editor is, driven in Chromium; the table in docs/benchmarks.md, and pictures of it.

    python benchmarks/editor.py [--model bundled] [--screenshots docs/images]

Starts `latentslots app` with a fresh session of 100 pictures, and measures: until the page comes,
and until it shows a picture; in the page, from the pointer's move to the drawn highlight, from Run
to the finished picture, a preview, and the slots of a picture that is chosen for the first time;
then the server's memory, and its processor time while nothing happens. Alone on the machine.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

import latentslots as ls

NUM_PICTURES = 100
NUM_TIMED = 9
IDLE_SECONDS = 10.0
PREVIEW_STEPS = 6

HIGHLIGHT = """async () => {
  const { stage } = editor;
  const box = stage.element.getBoundingClientRect();
  const seconds = [];
  for (let i = 0; i < 200; i++) {
    const x = box.x + stage.view.x + Math.random() * stage.info.width * stage.view.scale;
    const y = box.y + stage.view.y + Math.random() * stage.info.height * stage.view.scale;
    const start = performance.now();
    const move = { clientX: x, clientY: y, bubbles: true };
    stage.element.dispatchEvent(new PointerEvent("pointermove", move));
    stage.paint();
    seconds.push(performance.now() - start);
    await new Promise(requestAnimationFrame);
  }
  return seconds.sort((a, b) => a - b)[190];
}"""
RUN = """async (preview) => {
  const start = performance.now();
  await editor.run(preview);
  const done = preview ? () => editor.previewed === editor.info.version : () => editor.info.painted;
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 2));
  return (performance.now() - start) / 1000;
}"""
OPEN = """async (id) => {
  const start = performance.now();
  await editor.open(id);
  return (performance.now() - start) / 1000;
}"""


def start(words: list[str]) -> tuple[subprocess.Popen[str], str, float]:
    """Start the editor; returns its process, its address, and the seconds that it took."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "latentslots", "app", *words, "--no-browser", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(r"http://\S+/", line):
            return process, match[0], time.monotonic() - begin
    raise RuntimeError("the editor did not start")


def write_scenes(folder: Path) -> None:
    """Write bundled scenes as image files."""
    scenes = ls.load_dataset("bundled", split="validation")
    for row in range(NUM_PICTURES):
        scenes[row]["image"].save(folder / f"scene_{row:03d}.png")


def measure(page: Page, server: psutil.Process) -> dict[str, Any]:
    """All numbers but the start."""
    ids = page.evaluate("() => editor.session.pictures.map((picture) => picture.id)")
    numbers: dict[str, Any] = {"highlight_ms": page.evaluate(HIGHLIGHT)}
    opened = [page.evaluate(OPEN, one) for one in ids[1:]]
    numbers["open_s"] = statistics.median(opened)
    numbers["memory_mb"] = server.memory_info().rss / 2**20
    runs, previews = [], []
    for one in ids[:NUM_TIMED]:
        page.evaluate(OPEN, one)
        thing = page.evaluate("() => editor.info.things.find((one) => !one.is_background).number")
        body = {"operation": "remove", "things": [thing]}
        page.evaluate("(body) => editor.edit(body, { preview: false })", body)
        previews.append(page.evaluate(RUN, True))
        runs.append(page.evaluate(RUN, False))
    numbers["run_s"], numbers["preview_s"] = map(statistics.median, (runs, previews))
    before, begin = server.cpu_times(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    after = server.cpu_times()
    spent = after.user + after.system - before.user - before.system
    numbers["idle_percent"] = 100 * spent / (time.monotonic() - begin)
    return numbers


def draw(page: Page, folder: Path) -> None:
    """Write two pictures of the page: a thing about to be removed, and a comparison."""
    ids = page.evaluate("() => editor.session.pictures.map((picture) => picture.id)")
    page.evaluate(OPEN, ids[NUM_TIMED])
    first = page.locator("#things button").first
    first.click()
    page.wait_for_timeout(300)
    page.screenshot(path=folder / "editor.png")
    page.evaluate("(id) => editor.open(id)", ids[0])
    page.locator('[name="mode"][value="side"]').check()
    page.wait_for_timeout(300)
    page.screenshot(path=folder / "editor-side.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--screenshots", default="")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        images = Path(temporary) / "images"
        images.mkdir()
        write_scenes(images)
        words = [options.model, "--images", str(images), "--session", f"{temporary}/session"]
        process, address, seconds = start(words)
        begin = time.monotonic() - seconds
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address)
        while not page.evaluate("() => Boolean(window.editor?.stage.result)"):
            time.sleep(0.05)
        usable = time.monotonic() - begin
        server = psutil.Process(process.pid)
        numbers = {"page_s": seconds, "usable_s": usable, **measure(page, server)}
        if options.screenshots:
            draw(page, Path(options.screenshots))
        browser.close()
        process.terminate()
        process.wait()
    numbers = {name: round(value, 3) for name, value in numbers.items()}
    print(json.dumps({**numbers, "processors": len(os.sched_getaffinity(0))}, indent=2))


if __name__ == "__main__":
    main()
