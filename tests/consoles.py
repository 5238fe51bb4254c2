"""The console as a user starts it, a process that prints its address; and requests that no browser makes."""

import http.client
import io
import re
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
from command_line import Command, Ran
from starlette.applications import Starlette

from durable_bus.web.guard import Guard

TIMEOUT_S = 60


class Answer(NamedTuple):
    """To a request that was written by hand. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Received(io.BytesIO):
    def makefile(self, *_: object) -> "_Received":
        return self


class Console:
    """`durable-bus web` on a journal, at any free port, from `with` on."""

    def __init__(self, journal: Path, *arguments: object, token: str = "", **variables: str) -> None:
        """`token`: what its token file holds."""
        self.journal = journal
        command = ("web", "--port", 0, "--journal", journal, *arguments)
        self._was_ended = False
        self.command = Command(*command, cwd=journal.parent, **variables)
        stdout = self.command.process.stdout
        assert stdout is not None
        self.printed = stdout.readline().decode().rstrip("\n")
        assert self.printed, self.command.ended()
        parts = urlsplit(self.printed)
        self.address = f"http://{parts.netloc}"
        self.host = parts.netloc
        assert parts.port
        self.port = parts.port
        self.token = token or parse_qs(parts.query)["token"][0]
        # Nothing is encrypted: it need not read certificates, which takes 20 ms.
        self.browser = httpx.Client(base_url=self.address, timeout=TIMEOUT_S, trust_env=False, verify=False)

    def __enter__(self) -> "Console":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.browser.close()
        if self.command.process.poll() is None:
            ran = self.end()
            assert kind or ran.code == 0, ran
        elif error is not None and not self._was_ended:
            error.add_note(f"the console had ended by itself: {self.command.ended()}")

    def end(self) -> Ran:
        """Ctrl-C, and how it has ended."""
        self._was_ended = True
        self.command.ctrl_c()
        return self.command.ended()

    def enter(self) -> "Console":
        """Open the address that it has printed: the browser has the cookie from now on."""
        assert self.browser.get("/", params={"token": self.token}).status_code == 200
        return self

    def csrf(self) -> str:
        """What its pages put into their forms."""
        return Guard(Starlette(), token=self.token, host="127.0.0.1", port=self.port).csrf

    def post(
        self, path: str, *, origin: str | None = "", csrf: str | None = "", **fields: Any
    ) -> httpx.Response:
        """Send a form as a page of ours does. `origin`, `csrf`: what takes their place; None: nothing."""
        headers = {} if origin is None else {"Origin": origin or self.address}
        if csrf is not None:
            fields["csrf"] = csrf or self.csrf()
        return self.browser.post(path, data=fields, headers=headers)

    def act(self, path: str, **fields: Any) -> str:
        """Do something by a form; where the browser is sent, without the notice."""
        response = self.post(path, **fields)
        assert response.status_code == 303, response.text
        location, _, notice = response.headers["location"].partition("?notice=")
        assert re.fullmatch(r"[\w-]+", notice)
        return str(location)

    def raw(self, request: bytes | str) -> Answer:
        """An answer to these very bytes."""
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S) as connection:
            request = request if isinstance(request, bytes) else request.encode("latin-1")
            connection.sendall(request)
            received = b""
            try:
                while data := connection.recv(65536):
                    received += data
            except ConnectionResetError:
                pass
        response = http.client.HTTPResponse(_Received(received), method=request[:4].decode().strip())  # type: ignore[arg-type]
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())

    def ask(self, method: str, path: str, *headers: str, body: str = "") -> Answer:
        """A request by hand; with our Host, unless headers say another one."""
        lines = [f"{method} {path} HTTP/1.1", *headers, "Connection: close"]
        if not any(line.lower().startswith("host:") for line in headers):
            lines.insert(1, f"Host: {self.host}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return self.raw("\r\n".join([*lines, "", body]))

    @property
    def bearer(self) -> str:
        """A header for `ask`."""
        return f"Authorization: Bearer {self.token}"

    @property
    def cookie(self) -> str:
        """A header for `ask`, once somebody has entered."""
        return "Cookie: " + "; ".join(f"{name}={value}" for name, value in self.browser.cookies.items())
