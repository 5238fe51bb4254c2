"""Finding a Bus: by module:attribute, and from another process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import python

from durable_bus.app.bus import Bus
from durable_bus.app.finding import app_spec, load_app, parse_spec
from durable_bus.errors import BusNotImportable
from durable_bus.payloads.settings import AppSpec

module_bus = Bus("module-bus")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what is imported from it is forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


# ---- loading module:attribute


@pytest.mark.parametrize(
    "spec", ["", "app", "app:", ":bus", "app-py:bus", "../app:bus", "a b:c", "app:bus:x"]
)
def test_a_spec_of_another_form_is_refused(spec: str) -> None:
    with pytest.raises(BusNotImportable, match="module:attribute"):
        parse_spec(spec)


def test_a_bus_is_loaded_from_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cwd_app.py").write_text("from durable_bus.app.bus import Bus\nbus = Bus('cwd')\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    assert load_app(parse_spec("cwd_app:bus")).name == "cwd"


@pytest.mark.parametrize(
    ("code", "spec", "message"),
    [
        (None, "no_such_app:bus", "no module named no_such_app"),
        ("x = 1", "an_app.inner:bus", "an_app"),
        (
            "import no_such_library",
            "an_app:bus",
            "importing an_app failed: No module named 'no_such_library'",
        ),
        ("1 / 0", "an_app:bus", "importing an_app failed: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "an_app:bus", "SystemExit: 3"),
        ("def f(:", "an_app:bus", "SyntaxError"),
        ("raise ValueError('a\\nb')", "an_app:bus", "ValueError: a b"),
        ("x = 1", "an_app:bus", "an_app has no attribute bus"),
        ("bus = 1", "an_app:bus", "an_app:bus is a int, not a Bus"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_one_line(
    folder: Path, code: str | None, spec: str, message: str
) -> None:
    if code is not None:
        (folder / "an_app.py").write_text(code)
    with pytest.raises(BusNotImportable) as caught:
        load_app(parse_spec(spec))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- finding a Bus again


LOAD = (
    "import msgspec, sys; from durable_bus.app.finding import load_app\n"
    "from durable_bus.payloads.settings import AppSpec\n"
    "bus = load_app(msgspec.json.decode(sys.stdin.read(), type=AppSpec)); "
    "print(bus.name, bus.module, list(bus.listeners), sys.modules['__main__'].__name__)"
)

SCRIPT = """
from dataclasses import dataclass
from durable_bus.app.bus import Bus
from durable_bus.app.finding import app_spec
from msgspec.json import encode
import beside
bus = Bus("script")
@dataclass
class Source:
    path: str
@bus.listener("work")
def work(payload: "Source"): ...
if __name__ == "__main__":
    print(encode(app_spec(bus)).decode())
"""


def test_a_bus_of_a_module_is_found_by_its_module() -> None:
    spec = app_spec(module_bus)
    assert (spec.kind, spec.value, spec.attribute) == ("module", __name__, "module_bus")
    assert module_bus.module == __name__


def test_a_bus_made_by_a_factory_elsewhere_is_found_where_it_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "factory.py").write_text(
        "from durable_bus.app.bus import Bus\ndef make(): return Bus('made')\n"
    )
    (folder / "keeper.py").write_text("import factory\nkept = factory.make()\n")
    bus = load_app(parse_spec("keeper:kept"))
    assert bus.module == "factory"
    assert (app_spec(bus).value, app_spec(bus).attribute) == ("keeper", "kept")


def test_a_subclass_is_found_where_it_was_made() -> None:
    class Mine(Bus):
        def __init__(self) -> None:
            super().__init__("mine")

    assert Mine().module == __name__


def test_a_bus_without_a_name_in_a_module_is_not_importable() -> None:
    with pytest.raises(BusNotImportable, match="top of a module"):
        app_spec(Bus("local"))


def test_a_script_is_found_by_its_file_and_becomes_the_workers_main(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a script.py").write_text(SCRIPT)
    (folder / "inner" / "beside.py").write_text("")
    spec = python(folder, "inner/a script.py")
    assert json.loads(spec)["kind"] == "path"
    assert json.loads(spec)["value"] == str(folder / "inner" / "a script.py")
    assert python(Path("/"), "-c", LOAD, stdin=spec) == "script __mp_main__ ['work'] __mp_main__\n"


def test_a_module_run_with_m_is_found_by_its_name(folder: Path) -> None:
    (folder / "pack").mkdir()
    (folder / "pack" / "__main__.py").write_text(SCRIPT)
    (folder / "beside.py").write_text("")
    spec = python(folder, "-m", "pack")
    assert (json.loads(spec)["kind"], json.loads(spec)["value"]) == ("module", "pack.__main__")
    assert python(Path("/"), "-c", LOAD, stdin=spec) == "script pack.__main__ ['work'] __main__\n"


ASK = """
from durable_bus.app.bus import Bus
from durable_bus.app.finding import app_spec
from durable_bus.errors import BusNotImportable
bus = Bus("prompt")
try: print(app_spec(bus))
except BusNotImportable as error: print(error)

"""


def test_a_bus_typed_at_a_prompt_or_piped_in_is_refused_at_once(folder: Path) -> None:
    assert "put it into a file" in python(folder, "-c", ASK)
    assert "put it into a file" in python(folder, "-", stdin=ASK)
    assert "put it into a file" in python(folder, "-i", "-q", stdin=ASK)


def test_a_script_that_raises_is_one_line(folder: Path) -> None:
    (folder / "bad.py").write_text("1 / 0")
    with pytest.raises(BusNotImportable, match="ZeroDivisionError"):
        load_app(AppSpec("path", str(folder / "bad.py"), "bus", sys.path))


def test_importing_a_bus_loads_nothing_heavy(folder: Path) -> None:
    heavy = "sqlite3 sqlite_utils asyncio click rich multiprocessing"
    code = f"import sys, durable_bus.app.finding; print([m for m in {heavy.split()} if m in sys.modules])"
    assert python(folder, "-c", code) == "[]\n"
