"""`web`: the console, in the foreground, until Ctrl-C."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

import click

from durable_bus.cli.options import journal_option
from durable_bus.cli.printing import note
from durable_bus.errors import UsageError

_EXTRA = ("starlette", "uvicorn", "jinja2", "anyio", "h11", "markupsafe")
_TOKEN_CHARS_MIN = 16
_TOKEN_BYTES_MAX = 4096


@click.command("web")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Where it listens.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8383,
    show_default=True,
    metavar="PORT",
    help="0: any that is free.",
)
@click.option(
    "--read-only", is_flag=True, help="Only to look: nothing can be cancelled, retried or answered."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the token there, from one start to the next; it is made if it is not there.",
)
@journal_option()
def web_command(host: str, port: int, read_only: bool, token_file: Path | None, journal: Path) -> int:
    """Look at a journal in a browser: prints an address with a token, and answers there until Ctrl-C.

    Who knows the token may see and do all that the console can. Programs, such as Prometheus at /metrics,
    send it as `Authorization: Bearer TOKEN`.

    \b
    durable-bus web
    durable-bus web --port 0 --read-only --journal audit.db
    """
    serve = console_server("web")
    from durable_bus.web.addresses import is_loopback

    token = secrets.token_urlsafe(32) if token_file is None else _token_in(token_file)

    def ready(address: str) -> None:
        if not is_loopback(host):
            note("what is sent is not encrypted: who can read the network can read the token")
        if token_file is None:
            click.echo(f"{address}?token={token}")
        else:
            click.echo(address)
            note(f"the token is in {token_file}: open {address}?token=TOKEN with it")

    serve(journal, host=host, port=port, read_only=read_only, token=token, on_ready=ready, ends_process=True)
    return 0


def console_server(command: str) -> Callable[..., None]:
    """`serve` of the console, see there. Raises UsageError when the extra is not installed."""
    try:
        from durable_bus.web.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise UsageError(
            f"durable-bus {command} needs the extra web: pip install 'durable-bus[web]'"
        ) from None
    return serve


def _token_in(path: Path) -> str:
    """What the file holds; a new token, if it is not there. Raises UsageError for one that others may read,
    and for what is no token.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"cannot read the token file {path}: {error.strerror}") from None
    token = secrets.token_urlsafe(32)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(f"{token}\n")
    except OSError as error:
        raise UsageError(f"cannot make the token file {path}: {error.strerror}") from None
    return token


def _read(path: Path) -> str:
    # A link of somebody else's, or a pipe that nobody writes to, is not what we have made.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"the token file {path} is no file")
        if found.st_uid not in (0, os.geteuid()):
            raise UsageError(f"the token file {path} belongs to another user")
        if found.st_mode & 0o077:
            raise UsageError(f"others may use the token file {path}: chmod 600 {path}")
        text = file.read(_TOKEN_BYTES_MAX).decode("ascii", "replace").strip()
    if len(text) < _TOKEN_CHARS_MIN or not all("!" <= character <= "~" for character in text):
        raise UsageError(
            f"the token file {path} holds no token: a line of {_TOKEN_CHARS_MIN} characters or more, without "
            "spaces; delete it, and a new one is made"
        )
    return text
