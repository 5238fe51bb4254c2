"""What is no request ends its own connection with one word, and disturbs nobody else."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from services import Raw, Service, frame_of, works
from support import Facts

from durable_bus import __version__
from durable_bus.errors import VersionMismatch
from durable_bus.wire.framing import FRAME_BYTES_MAX

pytestmark = pytest.mark.real_start


@pytest.fixture(scope="module")
def unmoved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One daemon for all that must leave no trace in it."""
    with Service(tmp_path_factory.mktemp("unmoved") / "journal.db") as service:
        yield service


NESTED = b'{"k":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length over every limit": b"\xff\xff\xff\xff",
    "a first frame over its limit": frame_of(b"x" * 70_000),
    "not UTF-8": frame_of(b"\xff\xfe"),
    "not JSON": frame_of(b"{"),
    "no object": frame_of(b"[]"),
    "nothing": b"\x00\x00\x00\x00",
    "parts longer than their frame": b"\x00\x00\x00\x06\x00\x00\xff\xff{}",
    "an empty header": frame_of(b""),
    "nested deeply": frame_of(b'{"k":' + b"[" * 20_000),
    "not a number": frame_of(b'{"k":"hello","request":"1","version":NaN}'),
    "half a surrogate pair": frame_of(b'{"k":"hello","request":"\\ud800","version":"x"}'),
    "no hello": frame_of(b'{"k":"start","request":"1"}'),
    "random": random.Random(1).randbytes(100_000),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_ends_its_own_connection_with_one_word_and_nothing_else(unmoved: Service, what: str) -> None:
    with unmoved.client() as client:
        with Raw(unmoved.journal) as raw:
            raw.write(GARBAGE[what])
            told = raw.until_closed()
        assert [header["k"] for header in told] == ["error"]
        assert works(client)
    unmoved.until_logged("client cut off")


@pytest.mark.slow
def test_garbage_after_a_hello_ends_the_connection_too(service: Service) -> None:
    for garbage in (
        b"\xff\xff\xff\xff",
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
        frame_of(NESTED),
        frame_of(b"{"),
    ):
        with Raw(service.journal) as raw:
            assert raw.hello()["k"] == "welcome"
            raw.write(garbage)
            (told,) = raw.until_closed()
            assert told["k"] == "error"
    with service.client() as client:
        assert works(client)


def test_another_version_is_refused_and_nothing_it_asks_is_done(service: Service, facts: Facts) -> None:
    with Raw(service.journal) as raw:
        assert raw.hello(version="0.0.0")["type"] == VersionMismatch.__name__
        asked = raw.ask("start", buffer_id="b", target="echo", collect=True)
        assert (asked["k"], asked["message"]) == ("error", "say hello first")
    assert facts.rows("SELECT * FROM buffers") == []


WEIRD: list[object] = [
    None, True, -1, 0, 1.5, 10**30, "", "x", "\x00", "é" * 300,
    [], [1], [[]], {}, {"a": 1},
    "system.x", "buffer_x",
]  # fmt: skip


REQUESTS: dict[str, list[str]] = {
    "hello": ["version", "name", "needs_app", "journal"],
    "submit": [
        "buffer_id",
        "target",
        "collect",
        "return_to",
        "retry_of",
        "stream",
        "again",
        "count",
        "forms",
        "digest",
    ],
    "start": ["buffer_id", "target", "collect", "return_to", "retry_of", "stream", "again"],
    "chunk": ["number", "count", "forms"],
    "open": ["total", "digest"],
    "abandon": [],
    "forms": [],
    "watch": ["buffer_id"],
    "cancel": ["buffer_id"],
    "pause": ["buffer_id"],
    "resume": ["buffer_id"],
    "prune": ["before_ms", "after"],
    "status": [],
    "send": ["to", "payload", "form"],
    "receive": [],
    "stop_receiving": [],
    "abandon_receiving": [],
    "respond": ["message_id", "payload", "form", "success"],
    "acknowledge": ["message_id"],
    "nonsense": ["k"],
}


BODIES = [b"", b"\0", b"a\0", b"a", b"\0\0", b"a\0b", b"\xff\0", b"\xed\xa0\x80\0", b"x" * 70_000 + b"\0"]


@pytest.mark.slow
def test_malformed_requests_are_refused_and_the_daemon_goes_on(service: Service, facts: Facts) -> None:
    """Every field of every request, with every kind of value that it should not have."""
    rng = random.Random(20261123)
    good = {
        "version": "?",
        "buffer_id": "b",
        "target": "echo",
        "collect": True,
        "number": 0,
        "count": 1,
        "forms": "0",
    }
    good |= {
        "total": 1,
        "digest": "d",
        "before_ms": 0,
        "to": "echo",
        "payload": "x",
        "form": 0,
        "message_id": "m",
        "success": True,
    }  # type: ignore[dict-item]
    with Raw(service.journal) as raw, service.client() as client:
        raw.hello(name="fuzz")
        for round_number in range(25):
            for kind, fields in REQUESTS.items():
                for field in [*fields, "request"]:
                    request: dict[str, Any] = {"k": kind, "request": f"{round_number % 3}"}
                    request |= {name: good[name] for name in fields if name in good}
                    if kind == "start":
                        request["stream"] = rng.random() < 0.5
                    request[field] = rng.choice(WEIRD)
                    if rng.random() < 0.1:
                        del request[field]
                    bodies = rng.choices(BODIES, k=rng.choice([0, 1, 1, 1, 2]))
                    raw.write(frame_of(request, *bodies))
            told = raw.ask("status")
            while told["k"] != "status":
                told = raw.answer()
        assert works(client)
    assert facts.value("SELECT count(*) FROM runs") == 1
    assert "Traceback" not in service.log()


TEXT = [None, True, 5, 1.5, ["x"], {"x": 1}]


NUMBER = [None, True, 1.5, "1", [1], {"x": 1}]


FLAG = [None, 1, "true", [True], {"x": 1}]


NUMBERS = [1, "1", {"x": 1}, [True], [0.5], ["1"], [None]]


OF_A_START: dict[str, Any] = {
    "buffer_id": "b",
    "target": "echo",
    "collect": True,
    "return_to": "",
    "retry_of": None,
    "stream": False,
    "again": False,
}


OF_A_CHUNK: dict[str, Any] = {"count": 1, "forms": "0"}


RIGHT: dict[str, dict[str, Any]] = {
    "hello": {"version": __version__, "needs_app": False},
    "submit": {**OF_A_START, **OF_A_CHUNK, "digest": "d"},
    "start": OF_A_START,
    "chunk": {"number": 0, **OF_A_CHUNK},
    "open": {"total": 1, "digest": "d"},
    "abandon": {},
    "forms": {},
    "watch": {"buffer_id": "b"},
    "cancel": {"buffer_id": "b"},
    "pause": {"buffer_id": "b"},
    "resume": {"buffer_id": "b"},
    "prune": {"before_ms": 0, "after": [0, 0]},
    "status": {},
    "send": {"to": "echo", "payload": "x", "form": 0},
    "receive": {},
    "stop_receiving": {},
    "respond": {"message_id": "m", "payload": "x", "form": 0, "success": True},
    "acknowledge": {"message_id": "m"},
    "stop": {},
}


WRONG: dict[str, list[Any]] = {
    **dict.fromkeys(["request", "buffer_id", "target", "digest", "to", "message_id", "payload"], TEXT),
    **dict.fromkeys(["return_to", "retry_of"], TEXT[1:]),
    **dict.fromkeys(["collect", "needs_app", "stream", "again"], FLAG),
    **dict.fromkeys(["total", "number", "count", "form", "before_ms"], NUMBER),
    "forms": [None, 0, [], "4", "0\x00", "\u0660", "-1", "0 ", "0,1", "0\n", "00\n", "\n"],
    "after": NUMBERS,
}


def test_a_hello_of_another_version_is_told_so_whatever_else_it_says(service: Service) -> None:
    with Raw(service.journal) as raw:
        told = raw.hello(version="9.9", needs_app="maybe", colour="blue")
        assert (told["type"], "9.9" in told["message"]) == (VersionMismatch.__name__, True)
        told = raw.hello(colour="blue")
        assert (told["type"], told["message"]) == ("UsageError", "Object contains unknown field `colour`")
        assert raw.hello()["k"] == "welcome", "and is no reason to hang up"


WRONG_FORMS = {"none": "", "one more": "000", "a newline for the second": "0\n", "many": "0" * 1_000}


@pytest.mark.parametrize("what", WRONG_FORMS)
def test_forms_that_are_not_those_of_the_items_are_refused_and_the_daemon_goes_on(
    unmoved: Service, what: str
) -> None:
    """Two items: a digit and a newline have the length of two digits, and ended the daemon once."""
    wrong = {"count": 2, "forms": WRONG_FORMS[what]}
    pid = unmoved.pid
    with Raw(unmoved.journal) as raw, unmoved.client() as client:
        raw.hello(name="forms")
        told = [raw.ask("submit", b"a\0b\0", **{**OF_A_START, **wrong, "buffer_id": "whole", "digest": "d"})]
        start = {**OF_A_START, "buffer_id": "parts"}
        raw.write(frame_of({"k": "start", "request": "parts", **start}))
        assert raw.answer()["k"] == "receiving"
        raw.write(frame_of({"k": "chunk", "request": "parts", "number": 0, **wrong}, b"a\0b\0"))
        told.append(raw.answer())
        for refusal in told:
            assert (refusal["k"], refusal["type"]) == ("error", "UsageError"), refusal
            assert "forms" in refusal["message"], refusal
        raw.write(frame_of({"k": "abandon", "request": "parts"}))
        assert works(client)
    assert unmoved.pid == pid
    assert unmoved.facts.rows("SELECT buffer_id FROM buffers WHERE buffer_id = 'whole'") == []


@pytest.mark.slow
def test_a_field_of_another_type_is_refused_by_its_name_and_ends_nothing(
    service: Service, facts: Facts
) -> None:
    """A buffer_id of 5 was text in the journal and a number in its BufferComplete, which ended the daemon."""
    with Raw(service.journal) as raw, service.client() as client:
        raw.hello(name="wrong")
        wrong = [
            (kind, field, value)
            for kind, right in RIGHT.items()
            for field in ("request", *right)
            for value in WRONG.get(field, ())
            if (kind, field, value) != ("open", "digest", None)  # of a stream that came from several clients
        ]
        for kind, field, value in wrong:
            told = raw.ask(kind, b"x\0", **{**RIGHT[kind], field: value})
            assert (told["k"], told.get("type")) == ("error", "UsageError"), (kind, field, value)
            assert told["message"].startswith("Expected `"), (kind, field, value)
            assert f" at `$.{field}" in told["message"], (kind, field, value)
        assert facts.rows("SELECT buffer_id FROM buffers") == facts.rows("SELECT * FROM messages") == []
        assert works(client)
    assert facts.value("SELECT count(*) FROM runs") == 1


TERMS = {
    "deadline_ms": [-1, (1 << 63) - 1, 10**30, 1.5],
    "not_before_ms": [-1, (1 << 63) - 1, 10**30, "now"],
    "enough": [0, (1 << 32) + 1],
    "max_failures": [0, (1 << 32) + 1],
    "priority": [-11, 11],
    "budget": [{"usd": 0}, {"usd": -1}, {"": 1}, {"x" * 51: 1}, {"usd": True}],
}


def test_terms_that_cannot_be_are_refused_and_end_nothing(unmoved: Service) -> None:
    """A deadline of 2^63 ms was added to now, which SQLite cannot count, and ended the daemon."""
    pid = unmoved.pid
    with Raw(unmoved.journal) as raw, unmoved.client() as client:
        raw.hello(name="terms")
        for name, values in TERMS.items():
            for value in values:
                told = raw.ask("submit", b"x\0", **RIGHT["submit"], terms={name: value})
                assert told["k"] == "error", (name, value)
        assert works(client)
    assert unmoved.pid == pid
    assert unmoved.facts.rows("SELECT buffer_id FROM buffers WHERE buffer_id = 'b'") == []
