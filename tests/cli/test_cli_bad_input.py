"""Bad input to the command line: an exit code, one line that says what is wrong, and nothing changed."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from command_line import Ran, durable_bus, write_items
from support import Facts, environment

from durable_bus.client.embedded import running
from durable_bus.errors import UnsupportedPlatform

ECHO = ("run", "apps.plain:bus", "echo", "--workers", 1)


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path, "one", "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "target", "says"),
    [
        (
            "apps.plain:bus",
            "nobody",
            "unknown target 'nobody'; the listeners are: describe, echo, gate, sleep",
        ),
        ("apps.plain:bus", "system.echo", "unknown target 'system.echo'"),
        ("apps.nowhere:bus", "echo", "no module named apps.nowhere"),
        ("apps.plain:nothing", "echo", "apps.plain has no attribute nothing"),
        ("apps.plain:os", "echo", "apps.plain:os is a module, not a Bus"),
        ("apps.plain", "echo", "'apps.plain' is not module:attribute"),
        (
            "raising:bus",
            "echo",
            "importing raising failed: ZeroDivisionError: division by zero (raising.py, line 2)",
        ),
        ("unparsable:bus", "echo", "importing unparsable failed: SyntaxError"),
        ("exiting:bus", "echo", "importing exiting failed: SystemExit: 3"),
        (
            "unsayable:bus",
            "echo",
            r"importing unsayable failed: RuntimeError: caf\udce9 (unsayable.py, line 1)",
        ),
    ],
)
def test_an_app_or_target_that_is_not_there(
    tmp_path: Path, facts: Facts, items: Path, app: str, target: str, says: str
) -> None:
    (tmp_path / "raising.py").write_text("x = 0\n1 / x\n")
    (tmp_path / "unparsable.py").write_text("def\n")
    (tmp_path / "exiting.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "unsayable.py").write_text("raise RuntimeError('caf\\udce9')\n")
    ran = durable_bus("run", app, target, "--workers", 2, "--items", items, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.error
    assert facts.rows("SELECT * FROM buffers") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "No items specified"),
        (b"\n  \r\n\t\n", "No items specified"),
        (b"a\nb\n\xffc\n", "is not UTF-8: line 3"),
        (b"a\n" * 3_000_000 + b"caf\xe9", "is not UTF-8: line 3000001"),
        (b"a\n\nb\0c\n", "item 1: it cannot be journaled: a text with a NUL character"),
        (
            b"a\n\n" + b"x" * (8 * 1024 * 1024 + 1),
            "line 3 of items is over the limit of 8388608 bytes an item",
        ),
        (b"a\n" + b"x" * (20 * 1024 * 1024) + b"\nb", "line 2 of items is over the limit"),
    ],
    ids=["empty", "blank", "latin-1", "latin-1 at the end", "NUL", "too long", "much too long"],
)
def test_items_that_cannot_be_taken(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "items").write_bytes(data)
    ran = durable_bus(*ECHO, "--items", "items", cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.error
    assert [path.name for path in tmp_path.iterdir()] == ["items"]


@pytest.mark.slow
def test_an_item_of_just_the_limit_is_taken(tmp_path: Path) -> None:
    (tmp_path / "items").write_bytes(b"x" * (8 * 1024 * 1024))
    assert durable_bus(*ECHO, "--items", "items", "--quiet", cwd=tmp_path).err == ""


def test_items_that_are_not_there(tmp_path: Path) -> None:
    assert "cannot read nothing: No such file" in durable_bus(*ECHO, "--items", "nothing", cwd=tmp_path).error
    ran = durable_bus(*ECHO, "--items", tmp_path, cwd=tmp_path)
    assert ran.code == 2
    assert "Is a directory" in ran.error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run",), "Missing argument 'APP' (see durable-bus run --help)"),
        ((*ECHO, "--items", "items.txt", "--workers", "0"), "'--workers': 0 is not in the range"),
        ((*ECHO, "--items", "items.txt", "--format", "yaml"), "'yaml' is not one of"),
        ((*ECHO, "--items", "items.txt", "--buffer-id", "a b"), "buffer name 'a b' is not 1 to 100 of"),
        ((*ECHO, "--items", "items.txt", "--buffer-id", "buffer_x"), "begins with a word reserved"),
        ((*ECHO, "--items", "items.txt", "--output", "no/where"), "there is no folder no"),
        ((*ECHO, "--items", "items.txt", "--output", "."), "it is a folder"),
        ((*ECHO, "--items", "items.txt", "--output", "items.txt"), "choose another file"),
        (("fly",), "No such command 'fly'"),
        (("serve", "apps.plain:bus", "--retain", "soon"), "no age such as 30d"),
        (("serve", "apps.plain"), "is not module:attribute"),
    ],
)
def test_wrong_usage_is_one_line_too(
    tmp_path: Path, items: Path, arguments: tuple[object, ...], says: str
) -> None:
    ran = durable_bus(*arguments, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.error
    assert [path.name for path in tmp_path.iterdir()] == ["items.txt"]


@pytest.mark.parametrize(
    "command",
    [(*ECHO, "--items", "items.txt"), ("serve", "apps.plain:bus"), ("status",), ("check",), ("wait", "b")],
    ids=lambda command: command[0],
)
def test_a_journal_that_is_a_folder(tmp_path: Path, items: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "folder").mkdir()
    ran = durable_bus(*command, "--journal", "folder", cwd=tmp_path)
    assert (ran.code, ran.out) == (5, "")
    assert "cannot open the journal" in ran.error
    assert ran.error.endswith("it is a folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "items.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "results", "wait", "status"])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "is not a durable_bus journal: it is not an SQLite database"),
        ("other", "is not a durable_bus journal: it is another program's SQLite database"),
        ("newer", "schema version 99"),
    ],
)
def test_a_journal_that_is_none_or_newer(
    tmp_path: Path, journal: Path, items: Path, command: str, kind: str, says: str
) -> None:
    _make(journal, kind)
    before = journal.read_bytes()
    arguments = {"run": (*ECHO, "--items", items), "status": ("status",)}
    ran = durable_bus(*arguments.get(command, (command, "b")), cwd=tmp_path)
    assert (ran.code, ran.out) == (5, "")
    assert says in ran.error
    assert journal.read_bytes() == before


def _make(journal: Path, kind: str) -> None:
    if kind == "text":
        journal.write_text("Not a database, but a text that somebody needs.\n" * 100)
        return
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("CREATE TABLE precious (x)")
        if kind == "newer":
            connection.execute(f"PRAGMA application_id = {int.from_bytes(b'DBUS', 'big')}")
            connection.execute("PRAGMA user_version = 99")


@pytest.mark.slow
def test_the_same_id_with_other_items_or_target_is_refused(tmp_path: Path, facts: Facts, items: Path) -> None:
    assert durable_bus(*ECHO, "--items", items, "--buffer-id", "b", cwd=tmp_path).code == 0
    other = write_items(tmp_path, "three", name="other.txt")
    ran = durable_bus(*ECHO, "--items", other, "--buffer-id", "b", cwd=tmp_path)
    assert ran.code == 2
    assert ran.error.startswith("buffer b: this id is used already, with other items")
    ran = durable_bus("run", "apps.plain:bus", "sleep", "--items", items, "--buffer-id", "b", cwd=tmp_path)
    assert ran.code == 2
    assert "this id is used already, with other target" in ran.error
    assert facts.rows("SELECT total FROM buffers") == [(2,)]
    assert facts.value("SELECT count(*) FROM runs") == 1


@pytest.mark.slow  # it waits 5 s for the other to end
def test_a_journal_that_is_served_names_its_holder(tmp_path: Path, items: Path, journal: Path) -> None:
    from apps import plain

    with running(plain.bus, journal, 1) as client:
        ran = durable_bus(*ECHO, "--items", items, cwd=tmp_path)
        assert (ran.code, ran.out) == (5, "")
        assert ran.error == f"journal {journal.name} is served by process {client.supervisor_pid}"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["results", "wait", "status"])
def test_what_is_not_found_is_exit_code_3(tmp_path: Path, items: Path, command: str) -> None:
    ran = durable_bus(command, "b", cwd=tmp_path)
    assert (ran.code, ran.error) == (3, "no journal at journal.db")
    assert durable_bus(*ECHO, "--items", items, cwd=tmp_path).code == 0
    ran = durable_bus(command, "b", cwd=tmp_path)
    assert (ran.code, ran.out) == (3, "")
    assert "no buffer 'b'" in ran.error


def test_without_a_daemon_submit_says_how_to_start_one(tmp_path: Path, items: Path) -> None:
    ran = durable_bus("submit", "echo", "--items", items, "--wait-daemon", 0, cwd=tmp_path)
    assert (ran.code, ran.out) == (5, "")
    assert "durable-bus serve APP --journal journal.db" in ran.error


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    write_items(folder, "one")
    folder.chmod(0o555)
    ran = durable_bus(*ECHO, "--items", "items.txt", cwd=folder, almighty=False)
    assert (ran.code, ran.out) == (5, "")
    assert ran.error.startswith("cannot open the lock ")
    assert ran.error.endswith("Permission denied")
    output = durable_bus(*ECHO, "--items", "items.txt", "--output", "results", cwd=folder, almighty=False)
    assert (output.code, output.error) == (2, "cannot write results: Permission denied")
    assert [path.name for path in folder.iterdir()] == ["items.txt"]


@pytest.mark.parametrize(
    ("system", "python", "sqlite"),
    [("darwin", (3, 12), (3, 45)), ("linux", (3, 10), (3, 45)), ("linux", (3, 11), (3, 37, 2))],
)
def test_another_platform_is_one_line_that_says_what_is_needed_and_what_is_here(
    system: str, python: tuple[int, ...], sqlite: tuple[int, ...]
) -> None:
    import durable_bus.cli.map  # noqa: F401  a module that has the name of a built-in
    from durable_bus.cli import check_platform

    with pytest.raises(UnsupportedPlatform, match=r"needs Linux, .* or newer; this is"):
        check_platform(system, python, sqlite)
    check_platform("linux", (3, 11), (3, 38))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["status", "results b", "check", "top", "query SELECT+1", "wait b --json"]
)
def test_a_closed_stdout_is_one_line(tmp_path: Path, items: Path, command: str) -> None:
    assert durable_bus(*ECHO, "--items", items, "--buffer-id", "b", "--quiet", cwd=tmp_path).code == 0
    ran = closed(">&-", *(word.replace("+", " ") for word in command.split()), cwd=tmp_path)
    assert (ran.code, ran.out) == (5, "")
    *others, last = ran.err.splitlines()
    assert last == "durable-bus: cannot write to stdout: it is closed"
    assert len(others) == command.startswith("wait")  # which says how the buffer has ended


@pytest.mark.slow
def test_a_closed_stdout_does_not_matter_to_who_says_nothing_there(tmp_path: Path, items: Path) -> None:
    arguments = (*ECHO, "--items", items, "--output", "results.xml", "--quiet")
    ran = closed(">&-", *arguments, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / "results.xml").read_text().startswith("<results><item ")
    every = closed("<&- >&- 2>&-", *arguments, cwd=tmp_path)
    assert (every.code, every.out, every.err) == (0, "", "")


def test_without_stderr_an_error_is_its_exit_code(tmp_path: Path) -> None:
    ran = closed("2>&-", "status", cwd=tmp_path)
    assert (ran.code, ran.out, ran.err) == (3, "", "")


def closed(how: str, *arguments: object, cwd: Path) -> Ran:
    """A command that a shell starts without some of its standard files."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, "-m", "durable_bus", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
