"""Images per second of the loader, with transforms: memory-mapped, streamed, and over HTTP.

    OMP_NUM_THREADS=1 python benchmarks/loader.py [--workers 2] [--seconds 8]

Makes textured scenes of 64 and 256 px (PNG), and of 512 px as JPEG files in place of photographs,
and counts the images that two workers deliver once they have started. The web server is a third
process on the same cores. Run it alone on the machine.
"""

import argparse
import http.server
import io
import multiprocessing
import multiprocessing.queues
import re
import tempfile
import time
from functools import partial
from pathlib import Path

from latentslots.data import (
    ImageDataset,
    ImageStream,
    SceneOptions,
    StoreWriter,
    build_loader,
    load_dataset,
    make_scenes,
)

BATCH_SIZE = 32


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges of files, as object storage does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a byte range of a file, or all of it."""
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if requested is None or not path.is_file():
            super().do_GET()
            return
        size = path.stat().st_size
        first, last = int(requested[1]), min(int(requested[2] or size), size - 1)
        with path.open("rb") as file:
            file.seek(first)
            body = file.read(last - first + 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def serve(folder: Path, ports: multiprocessing.queues.SimpleQueue[int]) -> None:
    handler = partial(RangeHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        ports.put(server.server_address[1])
        server.serve_forever()


def rate(source: ImageDataset | ImageStream, workers: int, seconds: float) -> float:
    """Images per second after the first batches."""
    batches = iter(build_loader(source, batch_size=BATCH_SIZE, num_workers=workers))
    for _ in range(4 * workers):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += BATCH_SIZE
    return count / (time.perf_counter() - start)


def make_photos(source: Path, out: Path) -> None:
    """Encode the same scenes as JPEG files of quality 90."""
    with StoreWriter(out) as writer:
        for row in load_dataset(source):
            encoded = io.BytesIO()
            row["image"].save(encoded, "JPEG", quality=90)
            writer.add(encoded.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    parser.add_argument("--seconds", type=float, default=8, help="duration of each measurement")
    parser.add_argument("--images", type=int, default=512, help="images of each data set")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for size in (64, 256, 512):
            scenes = SceneOptions(kind="scenes-textured", size=size)
            make_scenes(root / f"{size}", scenes, num_train=options.images, num_validation=0)
        make_photos(root / "512", root / "photos")
        ports = multiprocessing.SimpleQueue()
        server = multiprocessing.Process(target=serve, args=(root, ports), daemon=True)
        server.start()
        address = f"http://127.0.0.1:{ports.get()}"
        print("| images/s | memory-mapped | streamed from disk | streamed over HTTP |")
        print("|---|---|---|---|")
        for name, stored, resolution in (
            ("64 px PNG with masks", "64", 64),
            ("256 px PNG with masks", "256", 256),
            ("512 px JPEG, to 256 px", "photos", 256),
        ):
            sources = (
                ImageDataset(load_dataset(root / stored), resolution),
                ImageStream(str(root / stored), resolution=resolution),
                ImageStream(f"{address}/{stored}", resolution=resolution),
            )
            rates = [rate(source, options.workers, options.seconds) for source in sources]
            print(f"| {name} | {' | '.join(f'{images:,.0f}' for images in rates)} |", flush=True)
        server.terminate()


if __name__ == "__main__":
    main()
