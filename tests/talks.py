"""Conversations with the app `talking`: what its listeners were called with, and holding them until told."""

import json
from pathlib import Path
from typing import Any

import pytest
from apps import talking
from lxml import etree
from support import Facts, kill, until

from durable_bus import Client, Text
from durable_bus.app.finding import app_spec
from durable_bus.client.embedded import open_client
from durable_bus.journal.connection import open_reader
from durable_bus.journal.journal import Journal
from durable_bus.supervisor.outcomes import threads


def script(todo: dict[str, Any]) -> Text:
    """A payload that `talking` carries out."""
    return Text(json.dumps(todo))


def chain_of(journal: Path, thread_id: str) -> str:
    """The chain behind a thread, with dots; "-" when there is no such thread."""
    window = Journal(journal, open_reader(journal))
    try:
        chain = threads.lookup(window, thread_id)
    finally:
        window.close()
    return "-" if chain is None else dotted(chain)


def dotted(chain: threads.Chain) -> str:
    return ".".join(hop if isinstance(hop, str) else f"buffer_{hop[0]}_w{hop[1]}" for hop in chain.hops)


class Talk:
    """A client called cli with a supervisor of its own, which can be killed and started again."""

    def __init__(
        self, journal: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, gated: bool = False
    ) -> None:
        self.journal = journal
        self.facts = Facts(journal)
        self.log = folder / "talk.log"
        self.gates = folder / "gates"
        self.gates.mkdir()
        monkeypatch.setenv("TALK_LOG", str(self.log))
        monkeypatch.delenv("TALK_GATES", raising=False)
        if gated:
            monkeypatch.setenv("TALK_GATES", str(self.gates))
        self.client = self.connect()

    def connect(self) -> Client:
        return open_client(app_spec(talking.bus), "talking", self.journal, 2, name="cli")

    def restart(self) -> None:
        """Kill the supervisor and start another."""
        assert self.client.supervisor_pid is not None
        kill(self.client.supervisor_pid)
        self.client.close()
        self.client = self.connect()

    def close(self) -> None:
        self.client.close()

    # What was called

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def calls_of(self, message_id: str) -> list[dict[str, Any]]:
        return [call for call in self.calls() if call["message_id"] == message_id]

    def until_called(self) -> dict[str, Any]:
        """The next call that is held."""
        call = until(self._held, "somebody is called")
        assert isinstance(call, dict)
        return call

    def until_called_again(self, before: dict[str, Any]) -> dict[str, Any]:
        """The same call, in another worker than before."""

        def again() -> dict[str, Any] | None:
            last = self.calls_of(before["message_id"])[-1]
            return last if last["pid"] != before["pid"] else None

        call = until(again, f"{before['message_id']} is handled again")
        assert isinstance(call, dict)
        return call

    def _held(self) -> dict[str, Any] | None:
        held = [
            call
            for call in self.calls()
            if '"gate": false' not in call["text"]
            and not (self.gates / talking.gate_name(call["message_id"])).exists()
        ]
        return held[-1] if held else None

    def let_go(self, call: dict[str, Any]) -> None:
        (self.gates / talking.gate_name(call["message_id"])).touch()

    # What came of it

    def ask(self, to: str, todo: dict[str, Any]) -> str:
        """Send, receive and acknowledge; the answer."""
        self.client.send(to, script(todo))
        message = self.client.receive(60)
        self.client.acknowledge(message)
        return message.payload

    def result(self, target: str, todo: dict[str, Any]) -> tuple[bool, str]:
        """Of a buffer of this one item."""
        buffer = self.client.start(target, [script(todo)])
        buffer.wait(60)
        (result,) = buffer.results()
        self.client.acknowledge(self.client.receive(60))
        return result.success, result.payload

    def messages(self, columns: str, where: str = "1", *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of the view, in the order they were written."""
        in_order = "(SELECT message_seq FROM message m WHERE m.message_id = messages.message_id)"
        return self.facts.rows(
            f"SELECT {columns} FROM messages WHERE {where} ORDER BY {in_order}", *parameters
        )

    def assert_nothing_left(self) -> None:
        """No item without a result, no message without an end."""
        assert self.facts.rows("SELECT buffer_id FROM buffers WHERE state <> 'complete'") == []
        assert self.facts.rows("SELECT * FROM items WHERE state NOT IN ('succeeded', 'failed')") == []
        assert self.messages("*", "state NOT IN ('settled', 'failed')") == []
        assert self.facts.rows("SELECT * FROM in_flight") == []


def forwarding(todo: dict[str, Any]) -> dict[str, Any]:
    return {"tell": "helper", "payload": todo}


def fields(payload: str) -> dict[str, str]:
    """A SystemError or BufferError, with its element's name as `kind`."""
    root = etree.fromstring(payload)
    return {"kind": root.tag, **{child.tag: child.text or "" for child in root}}


def system_error(code: str, message: str) -> dict[str, str]:
    return {"kind": "SystemError", "code": code, "message": message, "retry_allowed": "false"}
