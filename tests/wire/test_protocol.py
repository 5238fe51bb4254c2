"""The protocol: every frame survives the way, nothing else is let in, and the pictures show what is said."""

import json
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services import Service
from support import REPOSITORY, RunLog, kill, until

from durable_bus.client.connection import Connection
from durable_bus.client.upload import BATCH_ITEMS
from durable_bus.wire import decoding, protocol, work
from durable_bus.wire.parts import Misfit

DECODERS: dict[str, tuple[str, str]] = {
    "decode_work": ("supervisor", "worker"),
    "decode_report": ("worker", "supervisor"),
    "decode_request": ("client", "supervisor"),
    "decode_answer": ("supervisor", "client"),
}
"""Who speaks to whom."""


STRICT: dict[str, msgspec.json.Decoder[Any]] = {
    "decode_work": decoding.WORK,
    "decode_report": decoding.REPORTS,
    "decode_request": decoding.requests(),
    "decode_answer": decoding.answers(),
}
"""What validates. `decode_request` makes a `Misfit` of what does not fit."""


def decoder(name: str) -> Callable[[bytes], Any]:
    return STRICT[name].decode


def frames_of(name: str) -> tuple[type[msgspec.Struct], ...]:
    """What a decoder knows."""
    return typing.get_args(STRICT[name].type)


THERE = list(DECODERS)
FRAMES = [(name, frame) for name in THERE for frame in frames_of(name)]
IDS = [f"{'-'.join(DECODERS[name])}-{frame.__name__}" for name, frame in FRAMES]
every_frame = pytest.mark.parametrize(("name", "frame"), FRAMES, ids=IDS)

FOR_ANY_VERSION = (protocol.Status, protocol.Error, protocol.Fatal)
"""Clients of other versions read these, and pass over fields that they do not know."""

# ---- what is let in

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    str: TEXT,
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any values of a field's type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return constrained(*arguments)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([values_of(one) for one in arguments])
    if origin is list:
        return st.lists(values_of(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=3)
    if origin is tuple and arguments[-1] is ...:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs_of(kind)
    return VALUES[kind]


def constrained(kind: Any, bounds: msgspec.Meta) -> st.SearchStrategy[Any]:
    if kind is int:
        return st.integers(bounds.ge, bounds.le)  # type: ignore[arg-type]
    if kind is float:
        return st.floats(bounds.ge, bounds.le, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    if kind is str:
        if bounds.pattern is None:
            return st.text(st.characters(codec="utf-8"), max_size=bounds.max_length)
        return st.from_regex(bounds.pattern, fullmatch=True)
    (of,) = typing.get_args(kind)
    return st.lists(values_of(of), min_size=bounds.min_length or 0, max_size=bounds.max_length)


def structs_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    fields = msgspec.structs.fields(kind)
    return st.builds(kind, **{field.name: values_of(field.type) for field in fields})


@every_frame
@unhurried
@given(data=st.data())
def test_a_frame_comes_as_it_went_and_with_a_field_too_many_or_too_few_or_of_another_type_is_refused(
    name: str, frame: type[msgspec.Struct], data: st.DataObject
) -> None:
    """With the name of the field."""
    said = data.draw(structs_of(frame))
    assert decoder(name)(msgspec.json.encode(said)) == said
    plain: dict[str, Any] = {"k": frame.__struct_config__.tag, **msgspec.to_builtins(said)}
    if frame not in FOR_ANY_VERSION:
        with pytest.raises(msgspec.ValidationError, match="unknown field `nobody_knows`"):
            decoder(name)(msgspec.json.encode({**plain, "nobody_knows": 1}))
    for field in msgspec.structs.fields(frame):
        if field.required:
            less = {key: value for key, value in plain.items() if key != field.name}
            with pytest.raises(msgspec.ValidationError, match=f"required field `{field.name}`"):
                decoder(name)(msgspec.json.encode(less))
        if field.type is not Any:
            with pytest.raises(msgspec.ValidationError, match=re.escape(f"$.{field.name}")):
                decoder(name)(msgspec.json.encode({**plain, field.name: {"of": {"another": ["type"]}}}))


@pytest.mark.parametrize("name", THERE)
@unhurried
@given(st.binary(max_size=40) | st.builds(msgspec.json.encode, st.dictionaries(TEXT, TEXT | st.integers())))
def test_whatever_comes_is_a_frame_or_refused(name: str, data: bytes) -> None:
    try:
        assert isinstance(decoder(name)(data), frames_of(name))
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass


def test_where_it_ran_is_a_short_text() -> None:
    right = decoder("decode_report")(json.dumps({"k": "answers", "where": "n" * 300}).encode())
    assert right == work.Answers(where="n" * 300)
    with pytest.raises(msgspec.ValidationError, match=re.escape("$.where")):
        decoder("decode_report")(json.dumps({"k": "answers", "where": "n" * 301}).encode())


@pytest.mark.parametrize("digits", ["4", "0 ", "0\n", "\n", "01\n", "\u0660", "0,1", "-1"])
def test_forms_are_digits_from_0_to_3_and_nothing_else(digits: str) -> None:
    """A pattern that ends with `$` lets a newline in."""
    chunk = {"k": "chunk", "request": "r", "number": 0, "count": 2}
    right = decoder("decode_request")(json.dumps({**chunk, "forms": "03"}).encode())
    assert right == protocol.Chunk("r", 0, 2, "03")
    with pytest.raises(msgspec.ValidationError, match=re.escape("$.forms")):
        decoder("decode_request")(json.dumps({**chunk, "forms": digits}).encode())


@pytest.mark.parametrize("name", THERE)
def test_no_two_frames_of_a_direction_have_the_same_name(name: str) -> None:
    tags = [frame.__struct_config__.tag for frame in frames_of(name)]
    assert len(set(tags)) == len(tags)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)
NO_OBJECT = JSON.filter(lambda value: not isinstance(value, dict))


@pytest.mark.slow
@unhurried
@given(st.dictionaries(st.sampled_from(["k", "request", "version", "buffer_id", "x"]), JSON))
def test_every_object_is_a_request_or_a_misfit_of_its_id(header: dict[str, Any]) -> None:
    decoded = decoding.decode_request(json.dumps(header).encode())
    assert isinstance(decoded, (*frames_of("decode_request"), Misfit))
    if isinstance(decoded, Misfit):
        text = {name: value for name, value in header.items() if isinstance(value, str)}
        assert decoded[1:] == (text.get("k"), text.get("request"), text.get("version"))


@unhurried
@given(st.binary(max_size=60) | NO_OBJECT.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_object_is_garbage_and_no_misfit(data: bytes) -> None:
    with pytest.raises(ValueError):
        decoding.decode_request(data)


def test_a_header_may_be_nested_only_so_deeply() -> None:
    for data in (b"[" * 100_000, b'{"k":' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
        with pytest.raises(ValueError):
            decoding.decode_request(data)


@pytest.mark.parametrize("tag", ["error", "fatal", "status"])
def test_a_client_reads_what_a_newer_supervisor_says_before_they_agree_on_a_version(tag: str) -> None:
    said = {"k": tag, "request": "1", "type": "VersionMismatch", "message": "no", "colour": "blue"}
    assert isinstance(decoding.decode_answer(json.dumps(said).encode()), FOR_ANY_VERSION)


# ---- the pictures

README = (REPOSITORY / "durable_bus" / "wire" / "README.md").read_text()
PICTURES = dict(re.findall(r"^## (.+?)\n\n```\n(.+?)\n```$", README, re.MULTILINE | re.DOTALL))
Arrow = tuple[str, str, str]
"""Sender, receiver, frame."""


def arrows_of(picture: str) -> list[Arrow]:
    heading, *lines = picture.splitlines()
    columns = {match.start() + 4: match.group() for match in re.finditer(r"\w+(?: \w+)*", heading)}

    def nearest(column: int) -> str:
        return columns[min(columns, key=lambda at: abs(at - column))]

    arrows = []
    for line in lines:
        for found in re.finditer(r"(◀?)─+ (\w+) ─+(▶?)", line):
            assert bool(found[1]) != bool(found[3]), f"an arrow has one head: {line}"
            left, right = nearest(found.start()), nearest(found.end())
            sender, receiver = (left, right) if found[3] else (right, left)
            arrows.append((sender, receiver, found[2]))
    return arrows


@pytest.mark.parametrize("title", PICTURES)
def test_every_frame_in_a_picture_is_one_that_its_sender_says_to_its_receiver(title: str) -> None:
    arrows = arrows_of(PICTURES[title])
    assert arrows
    for sender, receiver, frame in arrows:
        # To the supervisor an engine process is a worker.
        ends = tuple(who.replace("engine process", "worker").split()[-1] for who in (sender, receiver))
        (name,) = [name for name, who in DECODERS.items() if who == ends]
        assert frame in {known.__name__ for known in frames_of(name)}


def recorded(path: Path) -> list[Arrow]:
    """What a daemon has written down; its first worker is called worker, the second the next one."""
    names = {"supervisor": "supervisor"}
    arrows = []
    for line in path.read_text().splitlines():
        sender, receiver, frame = line.split()
        for process in (sender, receiver):
            if process not in names:
                names[process] = "next worker" if "worker" in names.values() else "worker"
        arrows.append((names[sender], names[receiver], frame))
    return arrows


def test_the_conversation_of_a_start_is_the_one_in_the_picture(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each side says, in its order: a client does not wait for an answer before it says more."""
    send, take = Connection.send, Connection._take
    said: list[str] = []
    told: list[str] = []

    def send_and_note(connection: Connection, request: protocol.Request, *bodies: bytes) -> None:
        said.append(type(request).__name__)
        send(connection, request, *bodies)

    def take_and_note(connection: Connection, frame: protocol.ToClient) -> Any:
        told.append(type(frame).__name__)
        return take(connection, frame)

    monkeypatch.setattr(Connection, "send", send_and_note)
    monkeypatch.setattr(Connection, "_take", take_and_note)
    with Service(journal, workers=1) as service, service.client() as client:
        client.start("echo", ["x"] * (BATCH_ITEMS + 1)).wait(60)
        until(lambda: "Ended" in told, "the client is told the end")
    said.remove("Chunk")  # there are two, or it would be a Submit; the picture shows one
    told.remove("Received")
    arrows = arrows_of(PICTURES["A start"])
    assert said == [frame for sender, _, frame in arrows if sender == "client"]
    assert told == [frame for sender, _, frame in arrows if sender == "supervisor"]


def test_the_conversation_of_an_item_is_the_one_in_the_picture(journal: Path) -> None:
    record = journal.parent / "frames"
    with Service(journal, workers=1, record_frames_to=str(record)) as service, service.client() as client:
        assert client.start("echo", ["x"]).wait(60).successful == 1
    assert recorded(record) == arrows_of(PICTURES["An item"])


def test_the_conversation_of_a_workers_death_is_the_one_in_the_picture(
    journal: Path, run_log: RunLog
) -> None:
    record, door = journal.parent / "frames", journal.parent / "door"
    with Service(journal, workers=1, record_frames_to=str(record)) as service, service.client() as client:
        buffer = client.start("gate", [str(door)])
        run_log.until_started(0)
        kill(run_log.worker_of(0))
        door.touch()
        assert buffer.wait(60).successful == 1
    assert recorded(record) == arrows_of(PICTURES["A worker's death"])
