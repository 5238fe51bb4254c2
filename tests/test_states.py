"""The states of buffers, items and messages: drawn, written once in code, derived by the views, and kept."""

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from daemons import Daemon, client_of
from support import REPOSITORY, Facts, kill, until, workers_of
from talks import script

from durable_bus import Client
from durable_bus.client import ReceivedMessage
from durable_bus.errors import DurableBusError
from durable_bus.journal.schema import migrations_folder
from durable_bus.states import MACHINES, NOTHING, StateMachine
from durable_bus.upload import BATCH_ITEMS

README = REPOSITORY / "durable_bus" / "README.md"
ARROW = re.compile(r"\s*──(.+?)──▶\s*")


def drawn() -> dict[str, dict[tuple[str, str], str]]:
    """What the drawing shows, by machine: what takes a state to the next."""
    (block,) = re.findall(r"## States\n.*?```\n(.*?)```", README.read_text(), re.DOTALL)
    machines: dict[str, dict[tuple[str, str], str]] = {}
    for line in filter(None, block.split("\n")):
        if not line.startswith(" "):
            transitions = machines[line] = {}
            continue
        states, causes = ARROW.split(line.strip())[::2], ARROW.split(line.strip())[1::2]
        for pair, cause in zip(itertools.pairwise(states), causes, strict=True):
            assert transitions.get(pair, cause) == cause, f"{pair} is drawn twice, with two causes"
            transitions[pair] = cause
    return machines


def test_the_drawing_is_the_code() -> None:
    assert drawn() == {name: dict(machine.transitions) for name, machine in MACHINES.items()}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_the_views_derive_these_states_and_no_others(machine: StateMachine) -> None:
    sql = "".join(path.read_text() for path in sorted(migrations_folder().glob("*.sql")))
    (view,) = re.findall(rf"CREATE VIEW {machine.name}s AS(.*?);\n", sql, re.DOTALL)
    (cases,) = re.findall(r"CASE\n(.*?)\n    END AS state", view, re.DOTALL)
    assert set(re.findall(r"\b(?:THEN|ELSE) '(\w+)'", cases)) == machine.states


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_every_state_can_be_reached_and_left_or_is_an_end(machine: StateMachine) -> None:
    reached = {NOTHING}
    while more := {after for before, after in machine.transitions if before in reached} - reached:
        reached |= more
    assert reached >= machine.states
    assert machine.allows(NOTHING, NOTHING)
    assert not machine.allows("complete", "open")
    assert not machine.allows("succeeded", "failed")


# What a journal goes through, commit by commit


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str, str]]:
    """Every change of state in an eventful day: (machine, before, after)."""
    folder = tmp_path_factory.mktemp("states")
    journal, states = folder / "journal.db", folder / "states"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TALK_LOG", str(folder / "talk.log"))
        environment.setenv("TALK_GATES", str(folder / "gates"))
        with Daemon(journal, "apps.talking:bus", states=states) as first:
            with closing(client_of(journal, "cli")) as client:
                held = eventful(client, Facts(journal), first, folder / "talk.log")
                first.kill()
                with Daemon(journal, "apps.talking:bus", states=states):
                    settle(client, held, Facts(journal), folder / "gates")
    return {(kind, before, after) for kind, before, after, _ in changes(states)}


def changes(states: Path) -> Iterator[tuple[str, str, str, str]]:
    for line in states.read_text().splitlines():
        kind, before, after, name = line.split(" ", 3)
        yield kind, before.replace("-", NOTHING), after.replace("-", NOTHING), name


FREE = {"gate": False}


def eventful(client: Client, facts: Facts, daemon: Daemon, log: Path) -> ReceivedMessage:
    """Answers, errors, retries, forwards, buffers within, refusals, deaths; a message that is held."""
    within = {"start": {"target": "inner", "items": [{"say": "x", **FREE}], "return_to": "cli"}, **FREE}
    items = [
        {"say": "x", **FREE},
        {"raise": "no", **FREE},
        {"tell": "helper", "payload": {"say": {"say": "x", **FREE}, **FREE}, **FREE},
        {"tell": "helper", "payload": {"none": True, **FREE}, **FREE},
        {"tell": "nobody", "payload": {}, **FREE},
        within,
    ]
    client.start("work", [script(item) for item in items], buffer_id="b1")
    client.acknowledge(client.receive(60))  # the completion of the buffer within, which ends b1
    client.start("patient", [script({"raise": "no", "until": 3, **FREE})], buffer_id="retried").wait(60)
    client.start("work", [script({"tell": "cli", "payload": {}, **FREE})], buffer_id="asked")
    facts.until("SELECT state = 'forwarded' FROM items WHERE buffer_id = 'asked'")
    client.cancel("asked")
    with closing(client_of(client.journal)) as nameless:
        nameless.start("work", in_parts(facts, "in-parts", whole=True), buffer_id="in-parts").wait(60)
    client.send("patient", script({"raise": "no", "until": 3, **FREE}))
    client.send("planner", script({"raise": "no", **FREE}))
    client.send("planner", script({"tell": "nobody", "payload": {}, **FREE}))
    facts.until("SELECT count(*) >= 6 FROM messages WHERE to_id = 'cli'")
    with pytest.raises(DurableBusError):
        client.start("work", in_parts(facts, "given-up", whole=False), buffer_id="given-up")
    # Nobody has run this listener yet, so that few are handed out at once and the others wait.
    client.start("tenacious", [script({"say": index}) for index in range(20)], buffer_id="cancelled")
    facts.until("SELECT count(*) > 0 FROM in_flight WHERE buffer_id = 'cancelled'")
    client.cancel("cancelled")
    kill_workers(daemon)  # which are held by what was cancelled
    client.start("work", [script({"say": index}) for index in range(20)], buffer_id="killed")
    until(lambda: '"buffer_id": "killed"' in log.read_text(), "one has started")
    client.send("planner", script({"say": "held"}))
    client.send("again", script({**within, "start": {**within["start"], "return_to": "", "buffer_id": "b2"}}))
    kill_workers(daemon)
    facts.until("SELECT count(*) > 0 FROM failures WHERE kind = 'lost'")
    facts.until("SELECT count(*) > 0 FROM in_flight")
    return client.receive(60)


def kill_workers(daemon: Daemon) -> None:
    for pid in workers_of(daemon.process.pid):
        kill(pid)


def in_parts(facts: Facts, buffer_id: str, *, whole: bool) -> Iterator[str]:
    """As many as a client sends before it has them all, and when they are on disk more, or no more."""
    yield from [json.dumps({"say": "x", **FREE})] * (2 * BATCH_ITEMS)
    facts.until("SELECT state = 'receiving' AND total > 0 FROM buffers WHERE buffer_id = ?", buffer_id)
    if not whole:
        raise DurableBusError("broken off")
    yield json.dumps({"say": "the last", **FREE})


def settle(client: Client, held: ReceivedMessage, facts: Facts, gates: Path) -> None:
    """All that was held is let go, answered, and forgotten."""
    client.acknowledge(held)
    gates.mkdir()
    (gates / "all").touch()
    client.buffer("killed").wait(60)
    while facts.value("SELECT count(*) FROM messages WHERE state NOT IN ('settled', 'failed')"):
        client.acknowledge(client.receive(60))
    assert client.prune(before_ms=1 << 50) >= 4
    facts.until("SELECT count(*) = 0 FROM item")


IN_TWO_STEPS = {("message", "settled", "waiting")}
"""It is handed out in the same commit, always."""


def test_a_journal_goes_through_allowed_changes_only(seen: set[tuple[str, str, str]]) -> None:
    forbidden = {change for change in seen if not MACHINES[change[0]].allows(*change[1:])}
    assert forbidden == set()


def test_and_through_each_of_them(seen: set[tuple[str, str, str]]) -> None:
    allowed = {(name, *pair) for name, machine in MACHINES.items() for pair in machine.transitions}
    assert allowed - seen - IN_TWO_STEPS == set()
