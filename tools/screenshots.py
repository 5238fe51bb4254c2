"""Pictures of the console's pages: light, dark, and as wide as a telephone.

    tools/screenshots.py --out FOLDER                      of a journal that it makes, with everything in it
    tools/screenshots.py --out FOLDER --journal my.db      of yours
    tools/screenshots.py --out FOLDER --readme             also those in durable_bus/web, of its README

It needs Chromium and its driver (Debian: chromium, chromium-driver), Selenium and Pillow. Every page becomes
a PNG. Those of the README have few colours, so that each has less than 150 KB.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _screenshots.pictures import browser, pictures, shrink
from _screenshots.story import company

from durable_bus import open as open_journal

README = Path(__file__).resolve().parents[1] / "durable_bus" / "web"
README_PICTURES = ("overview", "buffer", "item", "time")


@contextlib.contextmanager
def console(journal: Path) -> Iterator[str]:
    """Its printed address."""
    command = [sys.executable, "-m", "durable_bus", "web", "--port", "0", "--journal", str(journal)]
    folder = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def addresses(journal: Path) -> dict[str, str]:
    """A path for each name of a picture; what the journal lacks has none."""
    with open_journal(journal) as opened:
        buffers = {row.buffer_id: row for row in opened.buffers()}
        failing = max(buffers.values(), key=lambda row: (row.failed, row.total))
        failures = [one.index for one in opened.failures(failing.buffer_id)]
    paths = {
        "overview": "/",
        "buffers": "/buffers",
        "buffer": f"/buffers/{failing.buffer_id}",
        "workers": "/workers",
        "messages": "/messages",
        "questions": "/questions?name=frequent-errors",
        "times": "/time",
    }
    if failures:
        paths["item"] = f"/buffers/{failing.buffer_id}/items/{failures[0]}"
    for name, buffer_id in (("open", "press-2026"), ("paused", "notes-index")):
        if buffer_id in buffers:
            paths[name] = f"/buffers/{buffer_id}"
    if "press-2026" in buffers:
        paths["thread"] = "/buffers/press-2026/items/0"
    return paths


def past(driver: Any, address: str) -> dict[str, str]:
    """The newest buffers as they were at the last crash, if there was one."""
    driver.get(f"{address}/")
    links = driver.find_elements("link text", "Last crash")
    at = links[0].get_attribute("href").partition("?")[2] if links else ""
    return {"time": f"/?{at}" if at else "/time"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder for the pictures")
    parser.add_argument("--journal", type=Path, help="of which journal; without one it makes one")
    parser.add_argument("--readme", action="store_true", help="also put the README's pictures in their place")
    options = parser.parse_args(arguments)
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if lacking:
        print(
            f"there is no {', no '.join(lacking)}: apt-get install chromium chromium-driver", file=sys.stderr
        )
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        journal = options.journal or stack.enter_context(company(folder))
        printed = stack.enter_context(console(journal))
        parts = urlsplit(printed)
        paths = addresses(journal)
        driver = stack.enter_context(browser(folder / "browser"))
        driver.get(printed)
        paths |= past(driver, f"{parts.scheme}://{parts.netloc}")
        hidden = [str(journal.parent), str(README.parents[1])]
        for name, made in pictures(driver, f"{parts.scheme}://{parts.netloc}", paths, options.out, hidden):
            print(made)
            if options.readme and name in README_PICTURES:
                shrink(made, README / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
