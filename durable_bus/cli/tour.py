"""`tour`: the demo's journal with a daemon that works on it, and a browser that is opened on its console."""

from __future__ import annotations

import contextlib
import ctypes
import html
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import click

from durable_bus.cli.interrupts import interrupted_by
from durable_bus.cli.options import journal_option, workers_option
from durable_bus.cli.printing import note
from durable_bus.cli.web import console_server
from durable_bus.client.buffer_ids import default_buffer_id
from durable_bus.client.client import Client
from durable_bus.client.upload import digest_items, items_of_bus
from durable_bus.errors import DurableBusError, JournalUnreachable, NotFound, SupervisorLost
from durable_bus.journal.reader import JournalReader

_APP = "durable_bus.examples.code_audit:bus"
_TARGET = "audit"
_BEGINS_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.05
_PR_SET_PDEATHSIG = 1


@click.command("tour")
@journal_option("code-audit.db")
@workers_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="Of the console. Default: any that is free.",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def tour_command(journal: Path, workers: int | None, port: int, no_browser: bool) -> int:
    """Open a browser on the demo: a daemon audits Python's own standard library while you look on.

    Every page can be tried, and every button. Ctrl-C ends the daemon and the console. The journal stays, and
    the same command goes on with it.

    \b
    durable-bus tour
    """
    serve = console_server("tour")
    token = secrets.token_urlsafe(32)
    with interrupted_by(signal.SIGTERM), _daemon(journal, workers), tempfile.TemporaryDirectory() as folder:

        def ready(address: str) -> None:
            click.echo(f"{address}?token={token}")
            note("Ctrl-C ends it")
            threading.Thread(target=_submit, args=(journal,), name="tour: submit", daemon=True).start()
            if not no_browser:
                opener = (_page_that_leads_to(f"{address}?token={token}", Path(folder)),)
                # It may wait for the browser to end.
                threading.Thread(target=_open_browser, args=opener, name="tour: browser", daemon=True).start()

        serve(journal, host="127.0.0.1", port=port, read_only=False, token=token, on_ready=ready)
    note(f"all of it is in {journal}; to look again: durable-bus web --journal {journal}")
    return 0


@contextlib.contextmanager
def _daemon(journal: Path, workers: int | None) -> Iterator[None]:
    """A daemon of the demo's app, unless somebody serves the journal already. It ends when this block does,
    or this process. What it prints is shown only when it does not begin.
    """
    with contextlib.suppress(NotFound), JournalReader(journal):
        pass  # what is no journal is refused
    if _is_served(journal):
        yield
        return
    command = [sys.executable, "-m", "durable_bus", "serve", _APP, "--journal", str(journal)]
    if workers is not None:
        command += ["--workers", str(workers)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours: it ends first what shows the work, then the work
            preexec_fn=_end_with_parent,
        )
        try:
            _wait_for(process, journal, log.fileno())
            yield
        finally:
            process.terminate()
            process.wait()


def _end_with_parent() -> None:
    """In the new process, before it is a daemon: the kernel sends it SIGTERM when we die, however."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _is_served(journal: Path) -> bool:
    try:
        Client(journal).close()
    except JournalUnreachable:
        return False
    return True


def _wait_for(process: subprocess.Popen[bytes], journal: Path, log: int) -> None:
    deadline_s = time.monotonic() + _BEGINS_WITHIN_S
    while not _is_served(journal):
        if process.poll() is not None or time.monotonic() > deadline_s:
            lines = os.pread(log, 64 * 1024, 0).decode(errors="replace").strip().splitlines()
            raise SupervisorLost(
                f"the daemon of the tour did not begin: {lines[-1] if lines else 'it says nothing'}"
            )
        time.sleep(_LOOK_EVERY_S)


def _submit(journal: Path) -> None:
    """As `demo` starts it, so that both go on with the same buffer."""
    from durable_bus.examples.code_audit import sources

    try:
        with Client(journal) as client:
            items = [*sources()]
            _, digest = digest_items(items, items_of_bus)
            buffer = client.start(_TARGET, items, buffer_id=default_buffer_id(_APP, _TARGET, digest))
            if buffer.existed:
                note(f"{buffer.buffer_id} was started before: delete {journal} to see it from the beginning")
    except DurableBusError as error:
        note(f"the demo could not be started: {error}")


def _page_that_leads_to(address: str, folder: Path) -> str:
    """A file that only we can read: arguments of a process, such as a browser's, everybody can."""
    page = folder / "tour.html"
    target = html.escape(address, quote=True)
    page.write_text(
        f'<!doctype html><meta http-equiv="refresh" content="0; url={target}"><title>tour</title>'
    )
    return page.as_uri()


def _open_browser(address: str) -> None:
    try:
        opened = webbrowser.open(address)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        note("no browser could be opened here: open the address above in one")
