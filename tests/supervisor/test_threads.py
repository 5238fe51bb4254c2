"""A thread is an id and a chain of hops; who a response goes to follows from the chain and nothing else."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from talks import Talk, chain_of, dotted, script

from durable_bus.errors import UsageError
from durable_bus.journal.journal import Journal
from durable_bus.payloads.messages import HandlerMetadata
from durable_bus.supervisor.outcomes import threads
from durable_bus.supervisor.outcomes.threads import Chain, ItemHop

DONE = {"say": "done"}
OTHERS = [{"say": "other", "gate": False}] * 3


class Row(NamedTuple):
    """What cli does, who is called then with which chain and by whom, and where the last response goes."""

    begin: str
    target: str
    todo: dict[str, Any]
    called: list[tuple[str, str, str]]
    """Listener, chain, from."""
    ends_at: str


def inner_of(return_to: str) -> dict[str, Any]:
    return {"start": {"target": "inner", "items": [DONE], "return_to": return_to, "buffer_id": "b2"}}


TABLE = {
    "cli sends to planner": Row(
        begin="send",
        target="planner",
        todo=DONE,
        called=[("planner", "cli.planner", "cli")],
        ends_at="cli",
    ),
    "planner forwards to helper": Row(
        begin="send",
        target="planner",
        todo={"tell": "helper", "payload": {"say": DONE}},
        called=[
            ("planner", "cli.planner", "cli"),
            ("helper", "cli.planner.helper", "planner"),
            ("planner", "cli.planner", "helper"),
        ],
        ends_at="cli",
    ),
    "cli starts buffer b1 at work": Row(
        begin="start",
        target="work",
        todo=DONE,
        called=[("work", "cli.buffer_b1_w3.work", "buffer_b1_w3")],
        ends_at="result",
    ),
    "work, handling an item, forwards to helper": Row(
        begin="start",
        target="work",
        todo={"tell": "helper", "payload": {"say": DONE}},
        called=[
            ("work", "cli.buffer_b1_w3.work", "buffer_b1_w3"),
            ("helper", "cli.buffer_b1_w3.work.helper", "work"),
            ("work", "cli.buffer_b1_w3.work", "helper"),
        ],
        ends_at="result",
    ),
    "planner, as item 3 of b1, starts b2 at inner": Row(
        begin="start",
        target="planner",
        todo=inner_of("planner"),
        called=[
            ("planner", "cli.buffer_b1_w3.planner", "buffer_b1_w3"),
            ("inner", "cli.buffer_b1_w3.planner.buffer_b2_w0.inner", "buffer_b2_w0"),
            ("planner", "cli.buffer_b1_w3.planner", "buffer_b2"),
        ],
        ends_at="result",
    ),
    "the same with return_to=summary": Row(
        begin="start",
        target="planner",
        todo=inner_of("summary"),
        called=[
            ("planner", "cli.buffer_b1_w3.planner", "buffer_b1_w3"),
            ("inner", "cli.buffer_b1_w3.planner.buffer_b2_w0.inner", "buffer_b2_w0"),
            ("summary", "cli.buffer_b1_w3.summary", "buffer_b2"),
        ],
        ends_at="result",
    ),
    "planner, called by cli, starts b2 at inner": Row(
        begin="send",
        target="planner",
        todo=inner_of(""),
        called=[
            ("planner", "cli.planner", "cli"),
            ("inner", "cli.planner.buffer_b2_w0.inner", "buffer_b2_w0"),
            ("planner", "cli.planner", "buffer_b2"),
        ],
        ends_at="cli",
    ),
}


@pytest.fixture
def talk(journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    with closing(Talk(journal, tmp_path, monkeypatch, gated=True)) as talk:
        yield talk


WHOLE = "planner, as item 3 of b1, starts b2 at inner"


@pytest.mark.parametrize(
    "restart",
    [pytest.param(False, id=""), pytest.param(True, id="over restarts", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "what", [WHOLE, *(pytest.param(what, marks=pytest.mark.slow) for what in TABLE if what != WHOLE)]
)
def test_a_response_goes_to_whom_the_chain_names(talk: Talk, what: str, restart: bool) -> None:
    """The table of DESIGN section 4; over restarts the supervisor is killed while each of them is called."""
    row = TABLE[what]
    if row.begin == "send":
        talk.client.send(row.target, script(row.todo))
    else:
        items = [*OTHERS, row.todo]
        talk.client.start(row.target, [script(item) for item in items], buffer_id="b1")
    for name, chain, from_id in row.called:
        call = talk.until_called()
        assert (call["own_name"], call["from_id"]) == (name, from_id)
        assert chain_of(talk.journal, call["thread_id"]) == chain
        if restart:
            talk.restart()
            before, call = call, talk.until_called_again(call)
            assert without_pid(before) == without_pid(call)
            assert chain_of(talk.journal, call["thread_id"]) == chain
        talk.let_go(call)
    answer = talk.client.receive(60)
    if row.ends_at == "cli":
        assert (answer.from_id, answer.payload) == (row.target, "done")
        assert chain_of(talk.journal, answer.thread_id) == "cli"
    else:
        assert (answer.from_id, answer.kind) == ("buffer_b1", "BufferComplete")
        assert talk.facts.rows("SELECT item_index, success, payload FROM results WHERE buffer_id = 'b1'") == [
            *((index, 1, "other") for index in range(3)),
            (3, 1, "done"),
        ]
    talk.client.acknowledge(answer)
    talk.assert_nothing_left()


def without_pid(call: dict[str, Any]) -> dict[str, Any]:
    """A call as it must be at every attempt; `attempt` counts those that failed, and a restart is none."""
    return {name: value for name, value in call.items() if name != "pid"}


@pytest.mark.slow
def test_the_thread_of_an_item_is_the_same_at_every_attempt(talk: Talk) -> None:
    talk.client.start("patient", [script({"raise": "no", "until": 3})], buffer_id="b1")
    call = talk.until_called()
    talk.let_go(call)
    talk.client.acknowledge(talk.client.receive(60))
    seen = talk.calls_of(call["message_id"])
    assert [call["attempt"] for call in seen] == [1, 2, 3]
    assert {call["thread_id"] for call in seen} == {f"{thread_of(talk, 'b1')}/0"}


def thread_of(talk: Talk, buffer_id: str) -> str:
    return str(talk.facts.value("SELECT thread_id FROM buffers WHERE buffer_id = ?", buffer_id))


@pytest.mark.slow
def test_two_threads_of_one_client_never_meet(talk: Talk) -> None:
    threads = set()
    for word in ("one", "two"):
        talk.client.send("planner", script({"say": word}))
        call = talk.until_called()
        threads.add(call["thread_id"])
        talk.let_go(call)
        answer = talk.client.receive(60)
        assert (answer.payload, answer.thread_id) == (word, call["thread_id"])
        talk.client.acknowledge(answer)
    assert len(threads) == 2


# Threads in the journal


@pytest.fixture
def opened(journal: Path) -> Iterator[Journal]:
    with closing(Journal.open(journal)) as opened:
        with opened.commit(1):
            opened.start_run(1, "threads", "0")
        yield opened


def test_a_thread_is_looked_up_begun_extended_and_responded_on(opened: Journal) -> None:
    with opened.commit(2):
        assert threads.lookup(opened, "t") is None
        threads.set_chain(opened, Chain(("cli", "planner")), "t", "t/b1")
        assert threads.lookup(opened, "t") == threads.lookup(opened, "t/b1") == Chain(("cli", "planner"))
        assert dotted(threads.extend(opened, "t", "helper")) == "cli.planner.helper"
        assert threads.respond(opened, "t").last == "planner"
        assert threads.respond(opened, "t").last == "cli"
        assert threads.respond(opened, "t").last is None
        assert threads.respond(opened, "t") == Chain()
    with opened.commit(3):
        assert threads.lookup(opened, "t") == Chain()


@pytest.mark.parametrize("name", ["system.buffer", "buffer_b1_w0", "a b", ""])
def test_only_a_name_can_become_a_hop(opened: Journal, name: str) -> None:
    with opened.commit(2):
        threads.set_chain(opened, Chain(("cli",)), "t")
        with pytest.raises(UsageError):
            threads.extend(opened, "t", name)
        assert threads.lookup(opened, "t") == Chain(("cli",))


def test_a_thread_that_is_not_there_can_be_neither_extended_nor_responded_on(opened: Journal) -> None:
    with opened.commit(2):
        with pytest.raises(KeyError, match="no thread t"):
            threads.extend(opened, "t", "planner")
        with pytest.raises(KeyError, match="no thread t"):
            threads.respond(opened, "t")
        assert threads.lookup(opened, "t/b1/0") is None


def test_a_chain_reads_as_it_was_written() -> None:
    chain = Chain(("cli", ItemHop("b1", 3), "planner", ItemHop("b.2_w7", 0), "inner"))
    assert dotted(chain) == "cli.buffer_b1_w3.planner.buffer_b.2_w7_w0.inner"
    assert Chain.parse(chain.dump()) == chain
    assert chain.down_to_item() == Chain(chain.hops[:4])
    assert Chain(("cli", "planner")).down_to_item() is None


def test_metadata_knows_no_chain() -> None:
    """A handler cannot see, and so not depend on, where its response goes."""
    assert "chain" not in HandlerMetadata.__dataclass_fields__
