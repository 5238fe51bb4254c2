"""Stands before all that the console has: who asks, how, and from where.

A browser sends requests that other sites have made up, with our cookie; another user of this machine can
reach our port. So each request must be meant for us (Host), and come from who knows the token: by a cookie
that the printed address sets, or, for programs, by a bearer token. What changes something must also come
from a page of ours (Origin) that has given it a secret of the form.
"""

import hmac
import logging
import traceback
from collections.abc import Mapping
from functools import partial
from html import escape
from typing import Final
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from anyio import CapacityLimiter, to_thread
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from durable_bus.cli.printing import escaped
from durable_bus.web.addresses import host_check, local_path, without_parameter

__all__ = ["BODY_BYTES_MAX", "FIELDS_MAX", "HEADERS", "Guard"]

BODY_BYTES_MAX: Final = 9 * 1024 * 1024
"""A payload has up to 8 MiB. Percent-encoded it may be longer: then the command line has to do it."""
FIELDS_MAX: Final = 100
_PATH_CHARS_LOGGED: Final = 300
_UNQUOTED_AT_ONCE: Final = 64 * 1024
METHODS: Final = ("GET", "HEAD", "POST")

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Nobody else learns our addresses. With `no-referrer` browsers say `Origin: null` also to us.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Every response has them, and a `Cache-Control`."""

_LOG = logging.getLogger("durable_bus.web")
_FORM_TYPE = "application/x-www-form-urlencoded"
_ONLY_FOR_PEOPLE = "this address is for people: open the one that `durable-bus web` has printed"
_MOVES_ON = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>durable-bus</title>
<link rel="icon" href="/static/icon.svg">
<meta http-equiv="refresh" content="0; url={target}">
</head>
<body><p><a href="{target}">Go on to the console.</a></p></body>
</html>
"""


class _Refused(Exception):
    """A request goes no further, and its connection ends: who does not know the token keeps none."""

    def __init__(self, status: int, line: str, **headers: str) -> None:
        super().__init__(line)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["Connection"] = "close"
        self.response = PlainTextResponse(f"{line}\n", status, headers=named)


class Guard:
    """An ASGI app around another one, which is handed only what was found good.

    It finds `csrf`, which its forms must have, in the state of the request; and of a POST `form`, a dict of
    lists of texts.
    """

    def __init__(self, app: ASGIApp, *, token: str, host: str, port: int) -> None:
        self._app = app
        self._is_ours = host_check(host, port)
        self._token = token
        self._cookie = _derived(token, "cookie")
        self.csrf = _derived(token, "csrf")
        """What forms must have."""
        # Browsers send a cookie to every port of a host: two consoles need two names.
        self._cookie_name = f"durable_bus_{port}"
        self._parsing = CapacityLimiter(1)  # of a form of 9 MB much is made for a moment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = _Sending(scope, send)
        try:
            response = await self._refused_or_moved(scope)
            if response is None and scope["method"] == "POST":
                receive = await self._with_form(scope, receive)
        except _Refused as refused:
            response = refused.response
        except ConnectionError:
            return  # who asked has gone
        try:
            await (response or self._app)(scope, receive, sending)
        except Exception:
            self._log(scope)
            if not sending.begun:
                await PlainTextResponse("this is a bug of durable_bus\n", 500)(scope, receive, sending)

    async def _refused_or_moved(self, scope: Scope) -> Response | None:
        """None: it may go on."""
        headers = _headers(scope)
        host = _only(headers, "host")
        if host is None:
            raise _Refused(400, "a request needs one Host header")
        if not self._is_ours(host):
            raise _Refused(421, "this is not the address of this console")
        method = scope["method"]
        if method not in METHODS:
            raise _Refused(405, f"only {', '.join(METHODS)}", Allow=", ".join(METHODS))
        if method == "GET" and (token := _token_in_query(scope)) is not None:
            if not _same(token, self._token):
                raise _no_entry()
            return self._moves_on(scope)
        known = self._has_cookie(headers)
        if method != "POST":
            if not known and not self._has_bearer(headers):
                raise _no_entry()
        elif not known:
            raise _Refused(401, _ONLY_FOR_PEOPLE)
        elif _only(headers, "origin") != f"http://{host.lower()}":
            raise _Refused(403, "this did not come from a page of this console")
        scope.setdefault("state", {})["csrf"] = self.csrf
        return None

    def _moves_on(self, scope: Scope) -> Response:
        """The cookie, and the same page without the token in its address, where history would keep it.

        No redirect: a strict cookie is not sent along one that another site has begun, such as a mail's link.
        """
        asked = f"{quote(scope['path'])}?{scope['query_string'].decode('latin-1')}"
        target = without_parameter(local_path(asked), "token")
        response = HTMLResponse(_MOVES_ON.format(target=escape(target)))
        response.headers["Set-Cookie"] = (
            f"{self._cookie_name}={self._cookie}; HttpOnly; SameSite=Strict; Path=/"
        )
        return response

    def _has_cookie(self, headers: Mapping[str, list[str]]) -> bool:
        pairs = [
            pair.strip().partition("=") for header in headers.get("cookie", []) for pair in header.split(";")
        ]
        return any(name == self._cookie_name and _same(value, self._cookie) for name, _, value in pairs)

    def _has_bearer(self, headers: Mapping[str, list[str]]) -> bool:
        kind, _, token = (_only(headers, "authorization") or "").partition(" ")
        return kind.lower() == "bearer" and _same(token.strip(), self._token)

    async def _with_form(self, scope: Scope, receive: Receive) -> Receive:
        """Read the form into the state of the request; what the app receives then. Raises ConnectionError
        when who sends it goes.
        """
        headers = _headers(scope)
        if (_only(headers, "content-type") or "").partition(";")[0].strip().lower() != _FORM_TYPE:
            raise _Refused(415, f"a form is {_FORM_TYPE}")
        body = await _body(headers, receive)
        try:
            pairs = await to_thread.run_sync(_fields, body, limiter=self._parsing)
        except ValueError:
            raise _Refused(400, f"this is no form of at most {FIELDS_MAX} fields in UTF-8") from None
        form: dict[str, list[str]] = {}
        for name, value in pairs:
            form.setdefault(name, []).append(value)
        if not any(_same(value, self.csrf) for value in form.pop("csrf", [])):
            raise _Refused(403, "this form is not of this console, or an older one's: load its page again")
        scope["state"]["form"] = form
        return _read_already(receive)

    def _log(self, scope: Scope) -> None:
        """What has failed, with its traceback. No secret of ours is in it, whatever an exception says."""
        path = quote(scope["path"])[:_PATH_CHARS_LOGGED]
        text = escaped(f"{scope['method']} {path}\n{traceback.format_exc()}")
        for secret in (self._token, self._cookie, self.csrf):
            text = text.replace(secret, "…")
        _LOG.error("%s", text.rstrip())


class _Sending:
    """Sends a response with the headers that every one has."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._is_static = scope["path"].startswith("/static/")
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            keep = self._is_static and message["status"] in (200, 304)
            headers = {**HEADERS, "Cache-Control": "private, max-age=3600" if keep else "no-store"}
            ours = {name.lower().encode(): value.encode() for name, value in headers.items()}
            others = [pair for pair in message.get("headers", []) if pair[0].lower() not in ours]
            message = {**message, "headers": [*others, *ours.items()]}
        await self._send(message)


def _no_entry() -> _Refused:
    return _Refused(401, "Open the address that `durable-bus web` has printed.", WWW_Authenticate="Bearer")


def _derived(token: str, purpose: str) -> str:
    """Who learns this learns neither the token nor what another purpose has."""
    return hmac.digest(token.encode(), f"durable-bus web {purpose}".encode(), "sha256").hex()


def _same(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), known.encode())


def _headers(scope: Scope) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


def _only(headers: Mapping[str, list[str]], name: str) -> str | None:
    """None also where it stands more than once: who is before us may have believed the other one."""
    values = headers.get(name, [])
    return values[0] if len(values) == 1 else None


def _token_in_query(scope: Scope) -> str | None:
    """The first `token`; None: it says none."""
    query = scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError:
        raise _Refused(400, f"an address has at most {FIELDS_MAX} fields") from None
    return dict(reversed(pairs)).get("token")


async def _body(headers: Mapping[str, list[str]], receive: Receive) -> bytes:
    """Raises _Refused as soon as it is known to be too long."""
    too_long = partial(_Refused, 413, f"a form has at most {BODY_BYTES_MAX} bytes")
    length = _only(headers, "content-length") or "0"
    if not length.isdecimal() or len(length) > 15 or int(length) > BODY_BYTES_MAX:
        raise too_long()
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            raise too_long()
        if not message.get("more_body", False):
            return bytes(body)


def _fields(body: bytes) -> list[tuple[str, str]]:
    """As `parse_qsl` does it, which makes two objects of each escape: 9 MB of them took 300 MB."""
    parts = body.split(b"&", FIELDS_MAX)
    if len(parts) > FIELDS_MAX:
        raise ValueError
    pairs = [part.partition(b"=") for part in parts if part]
    return [(_unquoted(name), _unquoted(value)) for name, _, value in pairs]


def _unquoted(text: bytes) -> str:
    """A little at a time. An escape is not cut in two."""
    made = bytearray()
    begin = 0
    while begin < len(text):
        end = begin + _UNQUOTED_AT_ONCE
        escape = text.rfind(b"%", end - 2, end)
        end = end if escape < 0 else escape
        made += unquote_to_bytes(text[begin:end].replace(b"+", b" "))
        begin = end
    return made.decode()


def _read_already(receive: Receive) -> Receive:
    """What is received after a body: nothing of it, and then that the client has gone."""
    told = False

    async def rest() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return rest
