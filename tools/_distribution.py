"""Build the sdist, and the wheel from it, and try the wheel where nothing of this checkout is.

`tools/test` runs this as a step of its own. It fails when the sdist lacks a file that the wheel needs, when
the wheel lacks one that the package needs, or when pyproject.toml lacks a dependency. The tests would not see
any of these: they run in an editable install with the dev extra.
"""

import email
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from durable_bus import __version__

ROOT = Path(__file__).resolve().parent.parent

APP = """
from durable_bus import Bus

bus = Bus("bare")


@bus.listener("double")
def double(number: str) -> str:
    return str(2 * int(number))
"""

INSTALLED = """
from importlib.metadata import metadata
from importlib.resources import files

import durable_bus

package = files("durable_bus")
for name in ("py.typed", "LICENSE", "_migrations/migrations.py", "journal/sql/buffers.sql"):
    assert package.joinpath(name).is_file(), f"the wheel lacks durable_bus/{name}"
assert metadata("durable-bus")["Version"] == durable_bus.__version__
for name in durable_bus.__all__:
    getattr(durable_bus, name)
print(durable_bus.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run it as a user would, without this checkout's settings; its stdout. Ends us when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> Path:
    """Build the sdist of the checkout, and the wheel of what the sdist holds; the wheel's path."""
    hatchling = [sys.executable, "-m", "hatchling", "build", "-d", folder]
    run(*hatchling, "-t", "sdist", cwd=ROOT)
    run("tar", "-xzf", f"durable_bus-{__version__}.tar.gz", cwd=folder)
    run(*hatchling, "-t", "wheel", cwd=folder / f"durable_bus-{__version__}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_metadata(wheel: Path) -> None:
    """Look at what an index would show."""
    info = f"durable_bus-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        shown = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        archive.read(f"{info}/licenses/durable_bus/LICENSE")
    assert (shown["License-Expression"], shown["License-File"]) == ("MIT", "durable_bus/LICENSE")


def check_installed(wheel: Path, folder: Path) -> None:
    """Install it with its dependencies only, and run an app that lies elsewhere."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "bare", cwd=folder)
    programs = folder / "bare" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", programs / "python"]
    run(*pip, "install", "--quiet", "--no-compile", wheel, cwd=folder)
    where = run(programs / "python", "-c", INSTALLED, cwd=folder)
    assert Path(where).is_relative_to(folder / "bare"), where
    assert run(programs / "durable-bus", "--version", cwd=folder) == f"durable-bus {__version__}\n"
    (folder / "bare_app.py").write_text(APP)
    (folder / "items.txt").write_text("1\n2\n3\n")
    command = [programs / "durable-bus", "run", "bare_app:bus", "double", "--quiet", "--format", "jsonl"]
    results = run(*command, "--items", "items.txt", "--workers", "1", cwd=folder)
    assert [json.loads(line)["payload"] for line in results.splitlines()] == ["2", "4", "6"], results
    run(programs / "durable-bus", "check", cwd=folder)
    run(programs / "durable-bus", "query", "--named", "stuck", cwd=folder)  # of the migrations' README


def main() -> None:
    """Do all of it in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="durable-bus-distribution-"))
    try:
        wheel = build(folder)
        check_metadata(wheel)
        check_installed(wheel, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
