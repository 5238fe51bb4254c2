"""Only its user reaches the console, and only by its own pages is anything changed."""

import os
import re
import tempfile
from pathlib import Path

import eventful
import pytest
from consoles import Console
from services import as_nobody
from support import outcome, program, until

from durable_bus.web.guard import BODY_BYTES_MAX, FIELDS_MAX, HEADERS

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")

FORM = "Content-Type: application/x-www-form-urlencoded"
PATHS = ["/", "/static/style.css", "/live", "/metrics", "/nowhere"]


# Who


@pytest.mark.parametrize("path", PATHS)
def test_nobody_sees_anything_without_the_token(console: Console, path: str) -> None:
    for more in ([], ["Cookie: durable_bus=x"], ["Authorization: Bearer x"], ["Authorization: Basic eDp4"]):
        answer = console.ask("GET", path, *more)
        assert answer.status == 401
        assert b"`durable-bus web` has printed" in answer.body
    for query in (
        "token=",
        "token=x",
        f"token={console.token}x",
        f"token=x&token={console.token}",
        "token=%ff",
    ):
        assert console.ask("GET", f"{path}?{query}").status == 401


def test_the_printed_address_gives_a_cookie_and_moves_on_without_the_token(console: Console) -> None:
    answer = console.ask("GET", f"/buffers/a%20b?x=1&token={console.token}&y=%26")
    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    found = re.fullmatch(r"(\w+)=(\w+); HttpOnly; SameSite=Strict; Path=/", cookie)
    assert found is not None
    name, value = found.groups()
    assert name.endswith(str(console.port))
    assert console.token not in cookie
    assert console.token.encode() not in answer.body
    assert b'content="0; url=/buffers/a%20b?x=1&amp;y=%26"' in answer.body
    assert console.ask("GET", "/", f"Cookie: a=b; {name}={value}").status == 200
    assert console.ask("GET", "/", f"Cookie: {name}={value}x").status == 401
    assert console.ask("GET", "/", f"Cookie: {name}={console.token}").status == 401


@pytest.mark.parametrize(
    "path",
    ["//evil.example/", "/\\evil.example", "//evil.example/%2e%2e", "/%09/evil.example", "/%5cevil.example"],
)
def test_the_token_page_sends_nobody_to_another_site(console: Console, path: str) -> None:
    answer = console.ask("GET", f"{path}?token={console.token}")
    if answer.status == 200:
        (target,) = re.findall(rb'content="0; url=([^"]*)"', answer.body)
        assert re.fullmatch(rb"/(?![/\\])[^\\\t]*", target)
    else:
        assert answer.status == 400


def test_a_program_sends_the_token_as_bearer(console: Console) -> None:
    answer = console.ask("GET", "/metrics", console.bearer)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"durable_bus_items_total" in answer.body
    assert console.ask("GET", "/", console.bearer, console.bearer).status == 401  # which one is meant?


@as_root
def test_another_user_of_the_machine_has_neither_token_nor_entry(story: eventful.Story) -> None:
    with tempfile.TemporaryDirectory(prefix="durable_bus-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        token_file = folder / "token"
        token_file.touch(0o600)
        token_file.write_text("a-token-of-more-than-16\n")
        with Console(story.journal, "--token-file", token_file, token="a-token-of-more-than-16") as console:
            assert console.printed == f"{console.address}/"
            tried = as_nobody(
                """
try:
    open(sys.argv[1])
except PermissionError:
    print("cannot read it")
host, port = sys.argv[2].split(":")
with socket.socket() as connection:
    connection.connect((host, int(port)))
    connection.sendall(f"GET / HTTP/1.1\\r\\nHost: {sys.argv[2]}\\r\\nConnection: close\\r\\n\\r\\n".encode())
    print(connection.recv(65536).split()[1].decode())
""",
                str(token_file),
                console.host,
            )
            assert tried.split("\n") == ["cannot read it", "401", ""]
            assert console.enter().browser.get("/").status_code == 200


# For whom


@pytest.mark.parametrize("path", PATHS)
def test_a_request_for_another_name_is_refused(console: Console, path: str) -> None:
    port = console.port
    others = [
        f"evil.example:{port}", "evil.example", f"127.0.0.1:{port + 1}", "127.0.0.1", "localhost", "",
        f"10.0.0.1:{port}", f"localhost.evil.example:{port}", f"127.0.0.1.evil.example:{port}",
        f"[::2]:{port}", f"::1:{port}", f"user@127.0.0.1:{port}", f"127.0.0.1:{port}/", f"localhost.:{port}",
    ]  # fmt: skip
    for host in others:
        answer = console.ask("GET", path, f"Host: {host}", console.bearer)
        assert answer.status in (400, 421), host
        assert len(answer.body.splitlines()) == 1
    for host in (f"127.0.0.1:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert console.ask("HEAD", path, f"Host: {host}", console.bearer).status in (200, 404), host


def test_a_request_has_one_host(console: Console) -> None:
    host = f"Host: {console.host}"
    assert console.ask("GET", "/", host, "Host: evil.example", console.bearer).status == 400
    assert console.ask("GET", "/", host, host, console.bearer).status == 400
    assert console.raw(f"GET / HTTP/1.0\r\n{console.bearer}\r\n\r\n").status == 400
    assert console.raw(f"GET / HTTP/1.1\r\n{console.bearer}\r\n\r\n").status == 400


@pytest.mark.parametrize(
    "method", ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"]
)
def test_other_methods_than_those_of_pages_are_refused(console: Console, method: str) -> None:
    answer = console.ask(method, "/", console.bearer)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"


# Forms


def test_a_form_comes_from_a_page_of_ours(console: Console) -> None:
    csrf = console.csrf()
    port = console.port
    for origin in (
        "null", "http://evil.example", f"https://{console.host}", f"http://localhost:{port}",
        f"http://127.0.0.1:{port + 1}", f"http://127.0.0.1:{port}.evil.example", "http://127.0.0.1", None,
    ):  # fmt: skip
        answer = console.post("/prune", origin=origin, csrf=csrf, older_than="1d")
        assert answer.status_code == 403, origin
    twice = [f"Origin: http://{console.host}", "Origin: null"]
    assert console.ask("POST", "/prune", console.cookie, *twice, FORM, body=f"csrf={csrf}").status == 403


def test_a_form_has_the_secret_of_its_page(console: Console) -> None:
    for csrf in (None, "x", console.token, console.csrf()[:-1]):
        answer = console.post("/prune", csrf=csrf, older_than="1d")
        assert answer.status_code == 403, csrf
        assert "load its page again" in answer.text


def test_a_program_cannot_act(console: Console) -> None:
    """Not by its token: a page that has got hold of it, by whichever way, could act as well."""
    origin, body = f"Origin: http://{console.host}", f"csrf={console.csrf()}&older_than=1d"
    assert console.ask("POST", "/prune", console.bearer, origin, FORM, body=body).status == 401
    assert console.ask("POST", f"/prune?token={console.token}", origin, FORM, body=body).status == 401
    assert console.ask("POST", "/prune", console.cookie, FORM, body=body).status == 403


def test_a_form_is_neither_too_long_nor_of_another_type(console: Console) -> None:
    start = ["POST /prune HTTP/1.1", f"Host: {console.host}", console.cookie, f"Origin: {console.address}"]
    announced = [*start, FORM, f"Content-Length: {BODY_BYTES_MAX + 1}", "", ""]
    answer = console.raw("\r\n".join(announced))  # nothing of it has come
    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    chunk = "10000\r\n" + "a" * 0x10000 + "\r\n"
    chunked = [*start, FORM, "Transfer-Encoding: chunked", "", chunk * (BODY_BYTES_MAX // 0x10000 + 1)]
    assert console.raw("\r\n".join(chunked)).status == 413
    many = "&".join(f"a{number}=1" for number in range(FIELDS_MAX + 1))
    for body in (many, "csrf=%ff"):
        assert console.ask("POST", "/prune", *start[2:], FORM, body=body).status == 400
    for kind in ("Content-Type: text/plain", "Content-Type: multipart/form-data; boundary=x", "X: y"):
        assert console.ask("POST", "/prune", *start[2:], kind, body="csrf=1").status == 415


# What is answered


def test_every_response_says_what_a_browser_may_do_with_it(console: Console) -> None:
    csrf, cookie, origin = console.csrf(), console.cookie, f"Origin: {console.address}"
    answers = {
        200: console.ask("GET", "/", cookie),
        303: console.ask("POST", "/prune", cookie, origin, FORM, body=f"csrf={csrf}"),
        400: console.ask("POST", "/prune", cookie, origin, FORM, body="csrf=%ff"),
        401: console.ask("GET", "/"),
        403: console.ask("POST", "/prune", cookie, origin, FORM, body="csrf=x"),
        404: console.ask("GET", "/nowhere", cookie),
        405: console.ask("DELETE", "/"),
        415: console.ask("POST", "/prune", cookie, origin),
        421: console.ask("GET", "/", "Host: evil.example"),
    }
    token_page = console.ask("GET", f"/?token={console.token}")
    for answer in [*answers.values(), token_page, console.ask("GET", "/metrics", cookie)]:
        for name, value in HEADERS.items():
            assert answer.headers[name.lower()] == value, answer
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
    assert {status: answer.status for status, answer in answers.items()} == {
        status: status for status in answers
    }
    static = console.ask("GET", "/static/style.css", cookie)
    assert static.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    assert static.headers["cache-control"] == "private, max-age=3600"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/%2e%2e%2fapp.py",
        "/static/..%5capp.py", "/static/..\\app.py", "/static//etc/passwd", "/static/%2fetc%2fpasswd",
        "/static/..%252fapp.py", "/static/....//app.py", "/static/%00", "/static/style.css%00.py", "/static/",
        "/static", "/../../etc/passwd", "/static/./../app.py", "/static/%c0%ae%c0%ae/app.py",
    ],
)  # fmt: skip
def test_nothing_but_its_static_files_is_served(console: Console, path: str) -> None:
    answer = console.ask("GET", path, console.cookie)
    assert answer.status in (400, 404, 405)
    assert b"import" not in answer.body
    assert b"root:" not in answer.body


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "/\t/evil", "", "x"]
)
def test_an_action_sends_nobody_to_another_site(console: Console, back: str) -> None:
    response = console.post("/prune", back=back, older_than="never")
    assert response.status_code == 303
    assert re.fullmatch(r"/\?notice=[\w-]+", response.headers["location"])


def test_an_action_goes_back_to_its_page(console: Console) -> None:
    response = console.post("/prune", back="/buffers/a?page=2&notice=old#items", older_than="never")
    assert re.fullmatch(r"/buffers/a\?page=2&notice=[\w-]+#items", response.headers["location"])


WITH_A_BUG = """
import sys
from pathlib import Path
from starlette.responses import Response
from starlette.routing import Route
from durable_bus.web import guard, pages
from durable_bus.web.server import serve

token = "a-secret-that-nobody-may-see"

def bug(request):
    raise RuntimeError(f"{token} {request.headers.get('cookie')} {request.state.csrf}")

def worse(request, status, message):
    raise RuntimeError(f"worse {token}")

class Half:
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError(f"half {token}")

pages.routes += [Route("/bug", bug, methods=["GET"]), Route("/half", Half(), methods=["GET"])]
if sys.argv[2] == "worse":
    pages.error_response = worse
serve(
    Path(sys.argv[1]), host="127.0.0.1", port=0, read_only=False, token=token, ends_process=True,
    on_ready=lambda address: print(address, flush=True),
)
"""


@pytest.mark.parametrize("how", ["bad", pytest.param("worse", marks=pytest.mark.slow)])
def test_a_bug_is_told_without_its_traceback_and_logged_without_a_secret(
    tmp_path: Path, story: eventful.Story, how: str
) -> None:
    import httpx

    process = program(tmp_path / "bug.py", WITH_A_BUG, str(story.journal), how)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    try:
        with httpx.Client(base_url=address, trust_env=False) as browser:
            token = "a-secret-that-nobody-may-see"
            browser.get("/", params={"token": token})
            (cookie,) = browser.cookies.values()
            failed = browser.get("/bug?a-secret-that-nobody-may=see")
            assert failed.status_code == 500
            assert "bug of durable_bus" in failed.text
            assert "Traceback" not in failed.text
            assert failed.headers["cache-control"] == "no-store"
            with pytest.raises(httpx.RemoteProtocolError):
                browser.get("/half")
            assert browser.get("/").status_code == 200
    finally:
        process.terminate()
    code, _, err = outcome(process)
    assert code == 0, err
    assert "GET /bug\nTraceback" in err
    assert "RuntimeError" in err
    assert "GET /half\nTraceback" in err
    for secret in (token, cookie, "a-secret-that-nobody-may=see"):
        assert secret not in err


@pytest.mark.slow
def test_nothing_secret_is_ever_said_on_stderr(copied: Path) -> None:
    with Console(copied) as console:
        console.enter()
        console.csrf()
        console.ask("GET", f"/nowhere?token={console.token}")
        console.ask("GET", f"/?token={console.token}", "Host: evil.example")
        console.raw(b"\x16\x03\x01 no HTTP\r\n\r\n" + console.token.encode())
        console.post("/prune", older_than="never")
        ran = console.end()
    assert ran.err == ""
    assert ran.out == ""  # but for the address


def test_pages_wait_for_no_slow_one(console: Console) -> None:
    """A connection that says nothing, or half a request, holds up nobody."""
    import socket

    with socket.create_connection(("127.0.0.1", console.port)) as silent:
        silent.sendall(b"POST /prune HTTP/1.1\r\nHost: ")
        until(lambda: console.browser.get("/").status_code == 200, "a page comes")
