"""`durable-bus web` as a process: what it prints, what it refuses, how it ends."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import eventful
import pytest
from command_line import Command, durable_bus
from consoles import Console
from support import environment

ENDS_WITHIN_S = 2.0


@pytest.mark.slow
def test_it_prints_one_address_and_nothing_else(story: eventful.Story) -> None:
    with Console(story.journal) as console:
        assert console.printed == f"http://127.0.0.1:{console.port}/?token={console.token}"
        assert len(console.token) >= 43
        assert console.enter().browser.get("/").status_code == 200
        ran = console.end()
    assert (ran.code, ran.out, ran.err) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_it_ends_soon_with_pages_that_listen(story: eventful.Story, number: signal.Signals) -> None:
    with Console(story.journal) as console:
        console.enter()
        listening = []
        for _ in range(5):
            connection = socket.create_connection(("127.0.0.1", console.port))
            lines = ["GET /live HTTP/1.1", f"Host: {console.host}", console.cookie, "", ""]
            connection.sendall("\r\n".join(lines).encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            listening.append(connection)
        half = socket.create_connection(("127.0.0.1", console.port))
        half.sendall(b"GET / HTTP/1.1\r\n")
        begun = time.monotonic()
        console.command.process.send_signal(number)
        ran = console.command.ended()
        assert time.monotonic() - begun < ENDS_WITHIN_S + 1  # a busy machine
        assert (ran.code, ran.out, ran.err) == (0, "", "")
        for connection in [*listening, half]:
            connection.close()


def test_a_port_in_use_is_said_before_anything_is_printed(story: eventful.Story, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = durable_bus("web", "--port", port, "--journal", story.journal, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error == (
        f"port {port} is in use: choose another one with --port, or --port 0 for any that is free"
    )


def test_what_cannot_be_listened_at_is_one_line(story: eventful.Story, tmp_path: Path) -> None:
    ran = durable_bus("web", "--host", "192.0.2.1", "--port", 0, "--journal", story.journal, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith("cannot listen at 192.0.2.1 port 0: ")
    ran = durable_bus("web", "--host", "a..b", "--port", 0, "--journal", story.journal, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith("cannot listen at 'a..b': ")


def test_a_journal_must_be_there(tmp_path: Path) -> None:
    ran = durable_bus("web", "--port", 0, "--journal", "none.db", cwd=tmp_path)
    assert (ran.code, ran.out, ran.error) == (3, "", "no journal at none.db")
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "text.db").write_text("no journal" * 1000)
    assert durable_bus("web", "--port", 0, "--journal", "text.db", cwd=tmp_path).code == 5


@pytest.mark.slow
def test_beyond_this_machine_it_warns(story: eventful.Story) -> None:
    with Console(story.journal, "--host", "0.0.0.0") as console:
        assert console.host == f"127.0.0.1:{console.port}"
        assert console.enter().browser.get("/").status_code == 200
        other = f"Host: 10.1.2.3:{console.port}"
        assert console.ask("GET", "/", other, console.bearer).status == 200
        assert console.ask("GET", "/", f"Host: evil.example:{console.port}", console.bearer).status == 421
        err = console.end().err
    assert err == "durable-bus: what is sent is not encrypted: who can read the network can read the token\n"


@pytest.mark.slow
def test_without_the_extra_it_names_it(tmp_path: Path, story: eventful.Story) -> None:
    folder = tmp_path / "without"
    folder.mkdir()
    for name in ("starlette", "uvicorn", "jinja2"):
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    path = f"{folder}:{environment()['PYTHONPATH']}"
    ran = durable_bus("web", "--journal", story.journal, cwd=tmp_path, PYTHONPATH=path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error == "durable-bus web needs the extra web: pip install 'durable-bus[web]'"
    assert "web" in durable_bus("--help", cwd=tmp_path, PYTHONPATH=path).out


# The token file


@pytest.mark.slow
def test_a_token_file_is_made_and_kept(story: eventful.Story, tmp_path: Path) -> None:
    path = tmp_path / "token"
    command = Command("web", "--port", 0, "--token-file", path, "--journal", story.journal, cwd=tmp_path)
    assert command.process.stdout is not None
    address = command.process.stdout.readline().decode().strip()
    command.ctrl_c()
    ran = command.ended()
    assert "token" not in address
    assert ran.err == f"durable-bus: the token is in {path}: open {address}?token=TOKEN with it\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text().strip()
    assert len(token) >= 43
    with Console(story.journal, "--token-file", path, token=token) as console:
        assert console.enter().browser.get("/").status_code == 200
    assert path.read_text().strip() == token


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o606])
def test_a_token_file_that_others_may_use_is_refused(
    story: eventful.Story, tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "token"
    path.write_text("a-token-of-more-than-16\n")
    path.chmod(mode)
    ran = durable_bus("web", "--token-file", path, "--journal", story.journal, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error == f"others may use the token file {path}: chmod 600 {path}"


@pytest.mark.parametrize(
    "text", ["", "short\n", "two words of a token\n", "a token\nand another one\n", "ü" * 40]
)
def test_a_token_file_without_a_token_is_refused(story: eventful.Story, tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(text)
    ran = durable_bus("web", "--token-file", path, "--journal", story.journal, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "holds no token" in ran.error
    assert "short" not in ran.error


def test_what_is_no_file_is_no_token_file(story: eventful.Story, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder", "none/token"):
        ran = durable_bus("web", "--token-file", name, "--journal", story.journal, cwd=tmp_path)
        assert (ran.code, ran.out) == (2, ""), name
        assert "the token file" in ran.error


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(story: eventful.Story, tmp_path: Path) -> None:
    """Also while a thread is busy: here a page that takes a minute."""
    source = """
import sys, time
from pathlib import Path
from starlette.responses import Response
from starlette.routing import Route
from durable_bus.web import pages
from durable_bus.web.server import serve

def slow(request):
    print("begun", flush=True)
    time.sleep(60)

pages.routes.append(Route("/slow", slow, methods=["GET"]))
serve(
    Path(sys.argv[1]), host="127.0.0.1", port=0, read_only=True, token="t" * 20, ends_process=True,
    on_ready=lambda address: print(address, flush=True),
)
"""
    for signals in (1, 2):
        process = subprocess.Popen(
            [sys.executable, "-c", source, str(story.journal)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            host = process.stdout.readline().strip().removeprefix("http://").removesuffix("/")
            name, _, port = host.partition(":")
            with socket.create_connection((name, int(port))) as connection:
                lines = ["GET /slow HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {'t' * 20}", "", ""]
                connection.sendall("\r\n".join(lines).encode())
                assert process.stdout.readline() == "begun\n"
                begun = time.monotonic()
                for _ in range(signals):
                    process.send_signal(signal.SIGINT)
                    time.sleep(0.3)
                assert process.wait(60) == 0
                assert time.monotonic() - begun < ENDS_WITHIN_S + 1
