"""The tool that takes pictures takes one of each page in each look; what is on them nobody asks here."""

import shutil
import subprocess
import sys
from pathlib import Path

import eventful
import pytest
from support import REPOSITORY, environment


@pytest.mark.slow
def test_there_is_a_picture_of_each_page_in_each_look(story: eventful.Story, tmp_path: Path) -> None:
    pytest.importorskip("selenium", reason="there is no selenium (pip install selenium)")
    pytest.importorskip("PIL", reason="there is no Pillow for this Python")
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("there is no chromium (Debian: apt-get install chromium chromium-driver)")
    tool = [sys.executable, str(REPOSITORY / "tools" / "screenshots.py")]
    arguments = ["--out", str(tmp_path / "pictures"), "--journal", str(story.journal)]
    done = subprocess.run([*tool, *arguments], env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    pictures = [Path(line) for line in done.stdout.splitlines()]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    names = {picture.stem.rpartition("-")[0] for picture in pictures}
    assert names >= {"overview", "buffers", "buffer", "item", "workers", "messages", "questions", "time"}
    assert len(pictures) == 3 * len(names)
