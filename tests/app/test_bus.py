"""Bus: what may be declared, and what a worker reports of it."""

from __future__ import annotations

import datetime
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from lxml import etree
from msgspec.structs import replace

from durable_bus.app.bus import Bus
from durable_bus.app.finding import load_app, parse_spec
from durable_bus.errors import MalformedItem, UsageError
from durable_bus.payloads.messages import HandlerMetadata, HandlerResponse, Json
from durable_bus.payloads.settings import ListenerSettings

if TYPE_CHECKING:
    from nowhere import Nothing


@dataclass
class Source:
    path: str


def meta(name: str = "work") -> HandlerMetadata:
    return HandlerMetadata("cli.work", "cli", name, False, "m1", 1)


@pytest.fixture
def bus() -> Bus:
    return Bus("test")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what is imported from it is forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


# ---- declaring


def test_the_decorator_returns_the_function_unchanged(bus: Bus) -> None:
    def work(payload: str) -> str:
        return payload

    assert bus.listener("work")(work) is work
    assert bus.listeners["work"].handler is work


def test_the_defaults_are_those_of_the_contract(bus: Bus) -> None:
    @bus.listener("sync")
    def sync(payload: str) -> None: ...

    @bus.listener("async")
    async def later(payload: str) -> None: ...

    default = ListenerSettings("sync", 3600.0, 1, 0.0, 1, False, None)
    of_async = replace(default, name="async", concurrency=100, is_async=True)
    assert list(bus.settings().items()) == [("sync", default), ("async", of_async)]


def test_the_settings_carry_every_option(bus: Bus) -> None:
    @bus.listener("work", timeout=None, attempts=3, backoff=1, concurrency=7, peers=["helper", "cli"])
    async def work(payload: str) -> None: ...

    peers = ("helper", "cli")
    assert bus.settings() == {"work": ListenerSettings("work", None, 3, 1.0, 7, True, peers)}


@pytest.mark.parametrize("name", ["", "a b", "system.other", "buffer_x", "x" * 101, None, 3])
def test_a_listener_with_a_bad_name_is_refused(bus: Bus, name: Any) -> None:
    with pytest.raises(UsageError, match="listener name"):
        bus.listener(name)


def work_of_text(payload: str) -> None: ...


def test_a_listener_declared_twice_is_refused(bus: Bus) -> None:
    declare = bus.listener("work")
    declare(work_of_text)
    with pytest.raises(UsageError, match="twice"):
        bus.listener("work")
    with pytest.raises(UsageError, match="twice"):
        declare(work_of_text)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "30"},
        {"timeout": True},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"attempts": None},
        {"backoff": -0.1},
        {"backoff": None},
        {"backoff": 1e17},
        {"concurrency": 0},
        {"concurrency": "2"},
        {"peers": "helper"},
        {"peers": [3]},
        {"peers": ["system.other"]},
    ],
)
def test_an_option_of_a_wrong_kind_is_refused_by_name(bus: Bus, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"listener work: (.*{next(iter(options))[:4]})"):
        bus.listener("work", **options)
    assert bus.listeners == {}


# ---- signatures


def declared(bus: Bus, handler: Callable[..., Any]) -> Any:
    bus.listener("work")(handler)
    return bus.listeners["work"]


def test_the_annotation_says_how_the_payload_arrives(bus: Bus) -> None:
    def element(payload: etree._Element) -> None: ...
    def text(payload: str) -> None: ...
    def source(payload: Source) -> None: ...

    for handler, annotation in ((element, etree._Element), (text, str), (source, Source)):
        assert declared(Bus("test"), handler).annotation is annotation


def test_a_payload_without_annotation_arrives_as_it_is_and_that_is_said(bus: Bus) -> None:
    def bare(payload): ...  # type: ignore[no-untyped-def]

    with pytest.warns(FutureWarning, match="listener work: its payload has no annotation") as warned:
        assert declared(bus, bare).annotation is Any
    assert warned[0].filename == __file__


@dataclass
class Schedule:
    when: dict[str, int]


class Plain:
    """What nobody can make of a payload."""


@pytest.mark.parametrize(
    "annotation",
    [int, dict, bytes, Any, object, "Source | None", list[str], dict[str, list[int]], datetime.date, Path],
)
def test_what_a_payload_can_become_may_be_annotated(bus: Bus, annotation: Any) -> None:
    def work(payload): ...  # type: ignore[no-untyped-def]

    work.__annotations__["payload"] = annotation
    assert declared(bus, work).payload_type.loads


@pytest.mark.parametrize(
    "annotation", [Plain, list[Plain], "Plain | None", dict[str, Plain], int | Plain, "3 +", 7, complex]
)
def test_any_other_annotation_is_refused_at_decoration(bus: Bus, annotation: Any) -> None:
    def work(payload): ...  # type: ignore[no-untyped-def]

    work.__annotations__["payload"] = annotation
    with pytest.raises(UsageError, match="listener work"):
        bus.listener("work")(work)
    assert bus.listeners == {}


def test_a_bus_that_pickles_takes_any_class(bus: Bus) -> None:
    def work(payload: Plain) -> set[int]: ...  # type: ignore[empty-body]

    assert declared(Bus("pickling", pickle=True), work).annotation is Plain


@pytest.mark.parametrize(
    "annotation",
    [set, "set[int]", frozenset[int], bytes, complex, datetime.date, list[set[int]], dict[int, str], Path]
    + [dict[str, bytes] | set[int]],
)
def test_an_answer_that_could_not_be_written_is_refused_at_decoration(bus: Bus, annotation: Any) -> None:
    def work(payload: str): ...  # type: ignore[no-untyped-def]

    work.__annotations__["return"] = annotation
    with pytest.raises(UsageError, match="listener work: an answer of"):
        bus.listener("work")(work)
    assert bus.listeners == {}


@pytest.mark.parametrize(
    "annotation",
    [
        None,
        "None",
        str,
        Source,
        "Source | None",
        dict[str, bytes],
        list[datetime.date],
        Any,
        object,
        "Missing",
    ]
    + [
        "Missing",
        TypeVar("T"),
        HandlerResponse,
        dict,
        "dict[str, Any] | Huh",
        Json,
        tuple[int, ...],
        Plain,
        Callable,
    ],
)
def test_any_other_answer_may_be_annotated(bus: Bus, annotation: Any) -> None:
    def work(payload: str): ...  # type: ignore[no-untyped-def]

    work.__annotations__["return"] = annotation
    assert declared(bus, work).annotation is str


@pytest.mark.parametrize("form", ["JSON", "text", None, 1])
def test_a_bus_of_another_form_is_refused(form: Any) -> None:
    with pytest.raises(UsageError, match="form="):
        Bus("test", form=form)


def test_a_dataclass_with_a_field_that_has_no_xml_form_is_refused_at_decoration(bus: Bus) -> None:
    @dataclass
    class Odd:
        when: Plain

    def work(payload: Odd) -> None: ...

    with pytest.raises(UsageError, match=r"Odd\.when"):
        bus.listener("work")(work)


def test_a_dataclass_with_a_field_that_has_no_xml_form_is_json(bus: Bus) -> None:
    def work(payload: Schedule) -> None: ...

    reads = declared(bus, work).payload_type
    assert reads.load('{"when":{"a":1}}', 2) == Schedule({"a": 1})
    with pytest.raises(MalformedItem, match="XML came where Schedule is expected"):
        reads.load("<Schedule/>", 1)


def test_a_class_below_its_handler_is_found_at_first_use(folder: Path) -> None:
    (folder / "late.py").write_text(LATE)
    bus = load_app(parse_spec("late:bus"))
    assert bus.listeners["work"].annotation is sys.modules["late"].Late
    assert bus.listeners["outer"].annotation is sys.modules["late"].Outer


LATE = """
from __future__ import annotations
from dataclasses import dataclass
from durable_bus.app.bus import Bus
bus = Bus("late")
@bus.listener("work")
def work(payload: Late): ...
@dataclass
class Outer:
    late: Late
@bus.listener("outer")
def outer(payload: Outer): ...
@dataclass
class Late:
    path: str
"""


def test_a_class_that_never_comes_is_an_error_at_boot_and_not_at_the_first_item(bus: Bus) -> None:
    @bus.listener("work")
    def work(payload: Nothing) -> None: ...

    with pytest.raises(UsageError, match=r"listener work: .*Nothing"):
        bus.settings()


def test_a_return_type_that_cannot_be_resolved_is_nobodys_business(bus: Bus) -> None:
    def work(payload: str) -> Nothing: ...  # type: ignore[empty-body]

    assert declared(bus, work).annotation is str


def test_metadata_is_asked_for_by_annotation_or_by_name(bus: Bus) -> None:
    def by_annotation(payload: str, about: HandlerMetadata) -> str:
        return about.own_name

    def by_name(payload: str, metadata):  # type: ignore[no-untyped-def]
        return metadata.own_name

    def without(payload: str, verbose: bool = False) -> str:
        return f"{payload}{verbose}"

    assert declared(Bus("test"), by_annotation).call("x", meta()) == "work"
    assert declared(Bus("test"), by_name).call("x", meta()) == "work"
    assert declared(Bus("test"), without).call("x", meta()) == "xFalse"


def test_a_parameter_that_nobody_fills_is_refused() -> None:
    def second(payload: str, other: int) -> None: ...
    def third(payload: str, metadata: HandlerMetadata, other: int) -> None: ...
    def keyword(payload: str, *, metadata: HandlerMetadata) -> None: ...
    def none() -> None: ...

    for handler, message in (
        (second, "other"),
        (third, "other"),
        (keyword, "metadata"),
        (none, "no payload"),
    ):
        with pytest.raises(UsageError, match=message):
            declared(Bus("test"), handler)


def test_callables_of_every_kind_are_handlers() -> None:
    class Sync:
        def __call__(self, payload: Source) -> str:
            return payload.path

        async def method(self, payload: str, metadata: HandlerMetadata) -> None: ...

    class Async:
        async def __call__(self, payload: str) -> None: ...

    def options(prefix: str, payload: str) -> str:
        return prefix + payload

    sync = declared(Bus("test"), Sync())
    assert sync.call(Source("p"), meta()) == "p"
    assert (sync.settings.is_async, sync.annotation) == (False, Source)
    assert declared(Bus("test"), Async()).settings.is_async
    method = declared(Bus("test"), Sync().method)
    assert (method.settings.is_async, method.takes_metadata) == (True, True)
    partial = declared(Bus("test"), functools.partial(options, "a"))
    assert partial.call("b", meta()) == "ab"
    assert partial.annotation is str


def test_a_wrapper_is_sync_or_async_by_itself_whatever_it_wraps() -> None:
    def sync(payload: Source) -> str:
        return payload.path

    async def awaiting(payload: Source) -> str:
        return payload.path

    def yields(payload: Source) -> Iterator[str]:
        yield payload.path

    @functools.wraps(awaiting)
    def sync_around_async(*arguments: Any) -> str:
        return "sync"

    @functools.wraps(yields)
    def sync_around_generator(*arguments: Any) -> str:
        return "sync"

    @functools.wraps(sync)
    async def async_around_sync(*arguments: Any) -> str:
        return "async"

    for handler, runs_async in (
        (sync_around_async, False),
        (sync_around_generator, False),
        (functools.partial(sync_around_async), False),
        (async_around_sync, True),
        (functools.partial(async_around_sync), True),
    ):
        listener = declared(Bus("test"), handler)
        assert (listener.settings.is_async, listener.annotation) == (runs_async, Source)


def test_what_is_no_handler_is_refused() -> None:
    def yields(payload: str) -> Iterator[str]:
        yield payload

    for handler in (yields, Source, 3, None):
        with pytest.raises(UsageError, match="listener work"):
            declared(Bus("test"), handler)  # type: ignore[arg-type]
