"""Thumbnails of a folder of images, by `durable_bus.map`.

It needs Pillow, which durable_bus does not: `pip install pillow`.

    python -m durable_bus.examples.thumbnails photos small

Each image of `photos` becomes a JPEG in `small`, and a line of JSON on stdout. Images that cannot be read are
listed at the end, on stderr. Kill it and run it again: it makes what is missing. When all is recorded in
`small/journal.db`, it prints the lines again and opens no image.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from PIL import Image, ImageOps

import durable_bus
from durable_bus import ItemFailed

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SIDE_PIXELS = 256


class Job(TypedDict):
    """One image. When it was modified is part of it: an image that was changed is another item."""

    image: str
    modified_ns: int
    thumbnail: str


class Record(TypedDict):
    """What was made of it."""

    image: str
    thumbnail: str
    width: int
    height: int
    bytes: int


def thumbnail(job: Job) -> Record:
    """Make one thumbnail. Raises what Pillow raises for a file that it cannot read."""
    with Image.open(job["image"]) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((SIDE_PIXELS, SIDE_PIXELS))
    path = Path(job["thumbnail"])
    # This may run twice, and die at any moment: nobody ever sees half a thumbnail under its name.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    small.save(part, "JPEG")
    os.replace(part, path)
    return {
        "image": job["image"],
        "thumbnail": job["thumbnail"],
        "width": small.width,
        "height": small.height,
        "bytes": path.stat().st_size,
    }


def jobs_of(photos: Path, small: Path) -> list[Job]:
    """A job for each image, in the order of their names. a.gif and a.png become a.gif.jpg and a.png.jpg."""
    return [
        {
            "image": str(path),
            "modified_ns": path.stat().st_mtime_ns,
            "thumbnail": str(small / f"{path.name}.jpg"),
        }
        for path in sorted(photos.resolve().iterdir())
        if path.suffix.lower() in SUFFIXES
    ]


def records_of(jobs: list[Job], small: Path, workers: int | None = None) -> Iterator[Record | ItemFailed]:
    """What was made of each image, in their order, or why nothing was."""
    # By itself the id is made of the first 256 items. These are all there: an id of all of them means that a
    # folder with one image more is another buffer, wherever the image stands.
    buffer_id = f"thumbnails-{hashlib.sha256(json.dumps(jobs).encode()).hexdigest()[:16]}"
    yield from durable_bus.map(
        thumbnail,
        jobs,
        journal=small / "journal.db",
        workers=workers,
        buffer_id=buffer_id,
        return_exceptions=True,
        timeout=60,
    )
    for part in small.glob("*.part"):  # of workers that were killed; nobody writes any more
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def main(photos: Path, small: Path, workers: int | None = None) -> int:
    """Exit code 1: some images could not be read."""
    small = small.resolve()
    small.mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(photos, small)
    failures = []
    for record in records_of(jobs, small, workers):
        if isinstance(record, ItemFailed):
            failures.append(record)
        else:
            print(json.dumps(record), flush=True)
    for failed in failures:
        print(f"{jobs[failed.index]['image']}: {failed.message}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python -m durable_bus.examples.thumbnails PHOTOS SMALL [WORKERS]")
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else None))
