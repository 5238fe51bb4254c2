"""Each planted bug breaks a promise, and the simulation finds it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durable_bus.journal.buffers import BufferRow, BufferTable, ItemBatch
from durable_bus.journal.statements import Statements
from durable_bus.journal.work import WorkTable
from durable_bus.payloads.xml_writing import error_payload
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import Arriving, OpenBuffer
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.outcomes import collector
from durable_bus.supervisor.requests import requests, starts
from durable_bus.supervisor.scheduling import pacing, recall
from durable_bus.supervisor.scheduling import rules as scheduling
from durable_bus.supervisor.state import State
from durable_bus.supervisor.workers import workforce
from durable_bus.wire.protocol import Answer, Chunk
from simulation import Violation, run_schedule
from simulation.planting import change_statement, is_found

FIRST_SEED = {
    "admit_a_second_producer": 13,
    "admit_whom_another_has_followed": 10,
    "count_instead_of_rows": 3,
    "forget_the_unique_constraint": 3,
    "give_up_a_stream_with_its_producer": 22,
    "record_a_chunk_twice": 32,
    "seal_before_the_last_chunk": 22,
    "take_nothing": 28,
}
"""Those that need a rare moment begin with a schedule that has it, or shortly before."""


def send_before_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def to_worker(self: Outbox, worker_id: int, data: bytes) -> None:
        self._pool.send(worker_id, data)

    monkeypatch.setattr(Outbox, "to_worker", to_worker)


def forget_the_unique_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last answer wins, instead of the first."""
    init = Statements.__init__

    def __init__(self: Statements, *arguments: Any) -> None:
        init(self, *arguments)
        self._texts = {
            name: text.replace("INSERT INTO result", "INSERT OR REPLACE INTO result").replace(
                "ON CONFLICT (item_key) DO NOTHING", ""
            )
            for name, text in self._texts.items()
        }

    monkeypatch.setattr(Statements, "__init__", __init__)


def count_instead_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer that comes counts as recorded."""
    run_rows = Statements.run_rows

    def counting(
        self: Statements, name: str, last: str, constants: tuple[int, ...], texts: list[str] | list[bytes]
    ) -> int:
        changed = run_rows(self, name, last, constants, texts)
        return len(texts) if name == "add_results" else changed

    monkeypatch.setattr(Statements, "run_rows", counting)


def take_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ping-pong that there was: whoever idles takes all of it, though it was handed out just now."""

    def thefts(
        idle: Sequence[Callable[[str], bool]], loads: Sequence[scheduling.Load]
    ) -> tuple[list[scheduling.Theft], float | None]:
        return [scheduling.Theft(load.worker_id, 0) for _, load in zip(idle, loads, strict=False)], None

    def help_idle(context: Context, gates: pacing.Gates, alone_listeners: Collection[str]) -> None:
        context.state.given = frozenset()
        helps(context, gates, alone_listeners)

    helps = recall.help_idle
    monkeypatch.setattr(recall, "help_idle", help_idle)
    monkeypatch.setattr(scheduling, "thefts", thefts)


def take_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "thefts", lambda idle, loads: ([], None))


def hand_out_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = BufferTable.batch

    def text_only(self: BufferTable, *span: int) -> ItemBatch | None:
        found = batch(self, *span)
        return None if found is None else replace(found, forms="0")

    monkeypatch.setattr(BufferTable, "batch", text_only)


def shift_mixed_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    add_items = BufferTable._add_items

    def shifted(self: BufferTable, seq: int, first: int, items: bytes, forms: str, said: int | None) -> int:
        return add_items(self, seq, first, items, forms[1:] + forms[:1], said)

    monkeypatch.setattr(BufferTable, "_add_items", shifted)


def forget_the_form_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    record_results = WorkTable.record_results

    def as_text(self: WorkTable, **facts: Any) -> int:
        return record_results(self, **{**facts, "form": 0})

    monkeypatch.setattr(WorkTable, "record_results", as_text)


def forget_what_could_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        collector, "error_payload", lambda code, message, answer: error_payload(code, message)
    )


def seal_before_the_last_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    change_statement(monkeypatch, "seal_buffer", ("AND received = :total", "AND received > 0 AND :total"))


def complete_before_the_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as all that has come has its results."""
    monkeypatch.setattr(OpenBuffer, "is_complete", property(lambda self: self.recorded == self.total))
    changes = ("sealed_commit IS NOT NULL", "1"), ("low_water = total", "low_water = received")
    change_statement(monkeypatch, "count_last_results", *changes, (":failed = total", ":failed = received"))


def never_end_with_the_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    def sealed(context: Context, buffer_seq: int) -> None:
        context.state.buffers.change(buffer_seq, sealed=True)

    monkeypatch.setattr(collector, "sealed", sealed)


def record_a_chunk_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a producer repeats is taken for the next one."""
    handle = requests._HANDLERS[Chunk]

    def again(context: Context, connection_id: int, chunk: Chunk, bodies: list[bytes]) -> Answer | None:
        arriving = context.state.starts.get(chunk.request)
        number = chunk.number if arriving is None else max(chunk.number, arriving.next_chunk)
        return handle(context, connection_id, msgspec.structs.replace(chunk, number=number), bodies)

    monkeypatch.setitem(requests._HANDLERS, Chunk, again)


def admit_a_second_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_refuse_second_producer", lambda context, start, row: None)


def admit_whom_another_has_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer comes back although another one has gone on meanwhile."""
    claim = starts._claim_stream

    def admit(context: Context, there: Arriving, row: BufferRow) -> Arriving:
        return claim(
            context,
            msgspec.structs.replace(there, start=msgspec.structs.replace(there.start, again=False)),
            row,
        )

    monkeypatch.setattr(starts, "_claim_stream", admit)


def give_up_a_stream_with_its_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a buffer that is received: an abandoned one goes, with what has come."""
    give_up = starts.give_up

    def forget(context: Context, request_id: str) -> None:
        arriving = context.state.starts.get(request_id)
        give_up(context, request_id)
        if arriving is not None and arriving.opened:
            for other in [*context.state.buffers.values()]:
                if other.seq == arriving.buffer_seq:
                    collector.end_early(context, other, "cancelled")

    monkeypatch.setattr(starts, "give_up", forget)


@pytest.mark.parametrize(
    "plant",
    [
        seal_before_the_last_chunk,
        complete_before_the_seal,
        never_end_with_the_seal,
        record_a_chunk_twice,
        admit_a_second_producer,
        admit_whom_another_has_followed,
        give_up_a_stream_with_its_producer,
        hand_out_another_form,
        shift_mixed_forms,
        forget_the_form_of_answers,
        forget_what_could_not_be_written,
        send_before_commit,
        forget_the_unique_constraint,
        count_instead_of_rows,
        take_everything_at_once,
        take_nothing,
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    is_found(folder, FIRST_SEED.get(plant.__name__, 0))


@pytest.mark.slow
def test_workers_that_are_never_tried_again_are_missed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There was no room for one, and then there was."""

    def back_off(state: State, now_s: float) -> None:
        state.spawn_at_s = float("inf")

    monkeypatch.setattr(workforce, "_back_off", back_off)
    with pytest.raises(Violation, match="it never came true"):
        for seed in range(20):
            run_schedule(seed, folder, engine=None, no_room=0.5)
