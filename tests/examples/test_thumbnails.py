"""The thumbnails example, over real images, whatever is killed."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import Facts, kill, module, outcome, workers_of

pytest.importorskip("PIL", reason="there is no Pillow for this Python")

from PIL import Image

from durable_bus.examples.thumbnails import SIDE_PIXELS, jobs_of, thumbnail

MODES = {"jpg": "RGB", "png": "RGBA", "gif": "P", "bmp": "L", "tiff": "CMYK", "webp": "RGB"}
BROKEN = {
    "03-empty.png": lambda whole: b"",
    "13-no-image.jpg": lambda whole: b"This is a letter.\n",
    "23-cut-off.png": lambda whole: whole[: len(whole) // 2],
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty files, three of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "notes.txt").write_text("no image, and not called one")
    for number in range(27):
        suffix = list(MODES)[number % len(MODES)]
        image(500 + 10 * number, 300, MODES[suffix]).save(folder / f"{number:02}.{suffix}")
    whole = (folder / "01.png").read_bytes()
    for name, broken in BROKEN.items():
        (folder / name).write_bytes(broken(whole))
    return folder


def image(width: int, height: int, mode: str) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert(mode)


def started(photos: Path, small: Path) -> "subprocess.Popen[str]":
    return module("durable_bus.examples.thumbnails", str(photos), str(small), "1")


def images_in(folder: Path) -> list[tuple[str, tuple[int, int]]]:
    found = []
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as one:
            one.load()
            found.append((path.name, one.size))
    return found


def test_a_thumbnail_is_small_and_keeps_its_shape(photos: Path, tmp_path: Path) -> None:
    (job,) = (one for one in jobs_of(photos, tmp_path) if one["image"].endswith("/01.png"))
    record = thumbnail(job)
    assert (record["width"], record["height"]) == (SIDE_PIXELS, round(SIDE_PIXELS * 300 / 510))
    assert images_in(tmp_path) == [("01.png.jpg", (record["width"], record["height"]))]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_killed_half_way_and_run_again_it_makes_each_thumbnail_once_for_all(
    photos: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    facts = Facts(small / "journal.db")
    names = [Path(job["image"]).name for job in jobs_of(photos, small)]
    assert len(names) == 30
    # A pipe that nobody writes into takes the place of an image, so the worker cannot get beyond it.
    blocked = photos / names[15]
    content, modified_ns = blocked.read_bytes(), blocked.stat().st_mtime_ns
    blocked.unlink()
    os.mkfifo(blocked)
    os.utime(blocked, ns=(modified_ns, modified_ns))
    process = started(photos, small)
    facts.until("SELECT completed = 15 FROM buffers")
    supervisor_pid = facts.value("SELECT pid FROM runs")
    pids = [process.pid, supervisor_pid, *workers_of(supervisor_pid)]
    for pid in pids[1:]:
        kill(pid)
    process.kill()
    process.communicate()
    blocked.unlink()
    blocked.write_bytes(content)
    os.utime(blocked, ns=(modified_ns, modified_ns))
    (small / "of a killed worker.part").write_bytes(b"half")

    code, out, err = outcome(started(photos, small))
    assert code == 1, err
    records = [json.loads(line) for line in out.splitlines()]
    assert [Path(record["image"]).name for record in records] == [
        name for name in names if name not in BROKEN
    ]
    assert images_in(small) == [
        (Path(record["thumbnail"]).name, (record["width"], record["height"])) for record in records
    ]
    assert [line.partition(": ")[0] for line in err.splitlines()] == [str(photos / name) for name in BROKEN]
    assert "UnidentifiedImageError" in err
    assert "truncated" in err
    assert facts.rows("SELECT total, successful, failed FROM buffers") == [(30, 27, 3)]
    assert [ended for (ended,) in facts.rows("SELECT ended FROM runs")] == ["crashed", "clean"]
    assert not list(small.glob("*.part"))

    for path in small.glob("*.jpg"):
        path.unlink()
    assert outcome(started(photos, small)) == (1, out, err)
    assert images_in(small) == []  # nothing ran
    assert facts.value("SELECT count(*) FROM runs") == 2
