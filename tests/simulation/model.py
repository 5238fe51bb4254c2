"""What crossed the ports, and what must follow from it.

The model knows what clients asked for, what workers were sent, ran and answered, and what the supervisor took
in. It looks at the journal through a second connection, which sees only what is committed.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durable_bus.payloads.forms import TEXT, XML, form_of_each
from durable_bus.payloads.outcomes import End, Respond, Start
from durable_bus.payloads.packing import unpack
from durable_bus.supervisor.outcomes import attempts
from durable_bus.wire import work as frames
from durable_bus.wire.work import Work, WorkItems, WorkMessage
from simulation.handlers import UNWRITABLE, Answers, Handling, Outcome
from simulation.invariants import ALWAYS, IN_THE_END
from simulation.pace_invariants import PACE
from simulation.records import INDEX_BITS, Answer, Content, Execution, Violation, key_of, traceparent_of
from simulation.told import Told

__all__ = ["Model"]

_SEEN_AFTER_S = 0.01
"""A death is seen a moment later."""


@dataclass
class Model:
    """Items and messages are known by `key_of`."""

    journal: Path
    asked: dict[str, Content] = field(default_factory=dict)
    """By request id."""
    given: dict[int, set[Answer]] = field(default_factory=dict)
    """Everything that workers have really answered."""
    first: dict[int, Answer | None] = field(default_factory=dict)
    """What was handed in first, and committed; None: a failed attempt, after which anything may come."""
    recorded: dict[int, tuple[str, int, int, int]] = field(default_factory=dict)
    """Results as they were first seen in the journal."""
    executions: dict[int, Execution] = field(default_factory=dict)
    """The last of each item in this run."""
    executions_so_far: Counter[int] = field(default_factory=Counter)
    deaths_near: Counter[int] = field(default_factory=Counter)
    """How many workers ended while they ran the item."""
    late: Counter[int] = field(default_factory=Counter)
    """How many executions were over their time-out when they were ended."""
    crashes: int = 0
    buffer_of_dispatch: dict[int, int] = field(default_factory=dict)
    item_of_thread: dict[str, int] = field(default_factory=dict)
    started: dict[str, tuple[int, Content]] = field(default_factory=dict)
    """Buffers that handlers wanted to start, by digest: of which item or message, and what."""
    dispatched: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    """How often each listener may try."""
    taken: list[tuple[int, Answer | None]] = field(default_factory=list)
    """Handed in since the last commit."""
    others: list[Callable[[], None]] = field(default_factory=list)
    """What else must be true whenever everything is looked at."""

    def __post_init__(self) -> None:
        self.reader = sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, isolation_level=None)
        self.reader.create_function("returns_max", 0, lambda: attempts.RETURNS_MAX)
        self.told = Told(self.query)
        """What clients were told."""

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.reader.execute(sql, parameters).fetchall()

    # What leaves the supervisor

    def frame_sent(self, work: Work, bodies: list[bytes], pid: int) -> None:
        """Work leaves for a worker: at this moment it is on disk, whatever dies next."""
        if isinstance(work, WorkMessage):
            self._message_sent(work, bodies, pid)
        else:
            self._items_sent(work, bodies, pid)

    def _items_sent(self, work: WorkItems, bodies: list[bytes], pid: int) -> None:
        """It is journaled, it is what was given, and nothing of it is recorded."""
        first, texts = work.first, unpack(bodies[0])
        count = len(texts)
        name = f"dispatch {work.dispatch} of {work.buffer_id}"
        rows = self.query(
            "SELECT buffer_seq, first_index, item_count, attempt, worker_pid FROM dispatch"
            " WHERE dispatch_id = ?",
            work.dispatch,
        )
        if rows != [(work.buffer, first, count, work.attempt, pid)]:
            raise Violation(f"{name} was sent before its commit: {work}, on disk {rows}")
        key = (work.buffer << INDEX_BITS) + first
        arrived = self.query("SELECT 1 FROM item WHERE item_key >= ? AND item_key < ?", key, key + count)
        if len(arrived) != count:
            raise Violation(f"{name} holds {count} items, of which {len(arrived)} are on disk")
        recorded = self.query(
            "SELECT item_key & 4294967295 FROM result WHERE item_key >= ? AND item_key < ? UNION ALL"
            " SELECT item_key & 4294967295 FROM forwarded_item WHERE item_key >= ? AND item_key < ?",
            *(key, key + count) * 2,
        )
        if recorded:
            raise Violation(f"{name} holds items {recorded}, which have their outcome")
        if self.query("SELECT 1 FROM pause WHERE buffer_seq = ? AND resumed_commit IS NULL", work.buffer):
            raise Violation(f"{name} was sent while the buffer is paused")
        self._traced(work, name)
        content = self.content(work.buffer)
        forms = tuple(form_of_each(work.forms, count))
        end = first + count
        if (tuple(texts), forms) != (content.texts[first:end], content.forms[first:end]):
            raise Violation(f"{name} does not hold what was given")
        self.buffer_of_dispatch[work.dispatch] = work.buffer
        for index in range(first, end):
            self.item_of_thread[f"{work.thread}/{index}"] = (work.buffer << INDEX_BITS) + index
        self.dispatched += count

    def _traced(self, work: WorkItems, name: str) -> None:
        """It says which span the buffer was started in: its client's, or that of an outer buffer."""
        ((starter, on_disk),) = self.query(
            "SELECT starter_thread_id, traceparent FROM buffer WHERE buffer_seq = ?", work.buffer
        )
        by_client = "/" not in starter and not self.query(
            "SELECT 1 FROM message WHERE thread_id = ?", starter
        )
        if work.traceparent != on_disk or (by_client and on_disk != traceparent_of(work.buffer_id)):
            raise Violation(f"{name} was sent with the span {work.traceparent}, on disk {on_disk}")

    def _message_sent(self, work: WorkMessage, bodies: list[bytes], pid: int) -> None:
        """It is journaled as delivered to this worker, and nobody has settled it."""
        rows = self.query(
            "SELECT to_id, worker_pid, payload, delivered_commit IS NOT NULL, settled_commit FROM message"
            " WHERE message_seq = ?",
            -work.dispatch,
        )
        (text,) = unpack(bodies[0])
        if rows != [(work.listener, pid, text, 1, None)]:
            raise Violation(f"message {work} was sent, and on disk is {rows}")
        self.dispatched += 1

    def content(self, buffer_seq: int) -> Content:
        """What the items of a buffer are, as its client or its handler gave them."""
        ((request_id, digest),) = self.query(
            "SELECT request_id, digest FROM buffer WHERE buffer_seq = ?", buffer_seq
        )
        return self.asked[request_id] if request_id in self.asked else self.started[digest][1]

    # What happens in workers

    def begins(self, key: int, worker_id: int, now_ns: int, timeout_s: float | None) -> int:
        """An item begins to run; how often it has run before. In one run it does so again only after a failed
        attempt, or when its worker died without having answered.
        """
        last = self.executions.get(key)
        if last is not None and last.state not in ("gone", "failed"):
            where = f"worker {worker_id} while it is {last.state} in worker {last.worker_id}"
            raise Violation(f"item {key & 0xFFFFFFFF} of buffer {key >> INDEX_BITS} runs in {where}")
        self.executions[key] = Execution(worker_id, now_ns, timeout_s)
        self.executions_so_far[key] += 1
        return self.executions_so_far[key] - 1

    def running_since(self) -> dict[int, int]:
        """Since when each worker has been running something, the longest if several."""
        since: dict[int, int] = {}
        for one in self.executions.values():
            if one.state == "running":
                since[one.worker_id] = min(one.begun_ns, since.get(one.worker_id, one.begun_ns))
        return since

    def ends(self, work: Work, index: int, handling: Handling) -> None:
        """A handler has returned or raised."""
        self.executions[key_of(work, index)].state = "ended"
        self.hears_of(work, index, handling)

    def hears_of(self, work: Work, index: int, handling: Handling) -> None:
        """What a handler has really said."""
        key = key_of(work, index)
        if isinstance(handling, Answers):
            answer = Answer(handling.text, handling.success, handling.form)
            self.given.setdefault(key, set()).add(answer)
        elif isinstance(handling, Outcome):
            what, texts = handling.what, unpack(handling.body)
            if isinstance(what, Start):
                forms = tuple(form_of_each(what.forms, len(texts))) if texts else ()
                content = Content(what.buffer_id, what.target, what.collect, tuple(texts), forms)
                self.started[what.digest] = (key, content)
            elif isinstance(what, Respond):
                self.said(work.thread, texts[0], success=what.success, form=what.form)
            elif isinstance(what, End):
                self.said(work.thread, "", success=True, form=TEXT)

    def said(self, thread_id: str, text: str, *, success: bool, form: int) -> None:
        """Somebody has answered on a thread: it may become the result of the item below."""
        key = self.item_of_thread.get(thread_id)
        if key is not None:
            self.given.setdefault(key, set()).add(Answer(text, success, form))

    def flushed(self, key: int, state: str) -> None:
        """What is said of an item or a message is in the pipe. `gone`: that an engine brings nothing back of
        it, whether it had begun it or not.
        """
        if state != "gone":
            self.executions[key].state = state
        elif key in self.executions and self.executions[key].state in ("running", "ended"):
            self.executions[key].state = "gone"

    def worker_died(
        self, worker_id: int, now_ns: int, looking_at: tuple[int, int] | None, *, waited_to_write: bool
    ) -> None:
        """Near a death is what had begun, as far as anybody can see from outside; late is what had taken too
        long, unless it was we who did not read what it had to say.
        """
        for key, one in self.executions.items():
            if one.worker_id == worker_id and one.state in ("running", "ended"):
                seconds = (now_ns - one.begun_ns) / 1e9 + _SEEN_AFTER_S
                is_late = one.timeout_s is not None and seconds > one.timeout_s
                self.late[key] += is_late and not (one.state == "ended" and waited_to_write)
                self.deaths_near[key] += 1
                one.state = "gone"
        if looking_at is not None:
            since_ns, key = looking_at
            self.deaths_near[key] += 1
            self.late[key] += now_ns - since_ns > 1e8 and not waited_to_write  # it was stopped just there

    def engine_died(self, worker_id: int, near: set[int]) -> None:
        """An engine process has ended. `near`: what may be charged with that."""
        for one in self.executions.values():
            if one.worker_id == worker_id and one.state in ("running", "ended"):
                one.state = "gone"
        self.deaths_near.update(near)

    def supervisor_died(self, crashed: bool) -> None:
        self.executions.clear()
        self.taken.clear()
        self.told.supervisor_died()
        self.crashes += crashed

    # What the supervisor takes in

    def hands_in(self, answers: frames.Answers, bodies: list[bytes]) -> None:
        """A frame of answers is about to be looked at, in this order."""
        for segment, body in zip(answers.segments, bodies, strict=False):
            key = (segment.buffer << INDEX_BITS) + segment.first
            for position, text in enumerate(unpack(body)):
                self.taken.append((key + position, Answer(text, segment.success, segment.form)))
        for other in [*answers.failed, *answers.outcomes]:
            if other.dispatch in self.buffer_of_dispatch:
                key = (self.buffer_of_dispatch[other.dispatch] << INDEX_BITS) + other.index
                self.taken.append((key, None))

    def committed(self) -> None:
        """What was handed in before this moment is on disk, the first of each item."""
        for key, answer in self.taken:
            self.first.setdefault(key, answer)
        self.taken.clear()

    # Looking at the journal

    def look(self) -> None:
        """After a commit: new results are what was handed in first, old ones are what they were."""
        for key, *row in self.query("SELECT item_key, payload, success, form, answer_id FROM result"):
            known = self.recorded.get(key)
            if known is None:
                self._new_result(key, row)
            elif known != tuple(row):
                raise Violation(
                    f"result {key & 0xFFFFFFFF} of buffer {key >> INDEX_BITS} was {known}, now it is {row}"
                )
        if missing := self.first.keys() - self.recorded.keys():
            lost = [key for key in missing if self.first[key] is not None]
            if lost := [key for key in lost if not self._is_cancelled(key >> INDEX_BITS)]:
                raise Violation(f"answers were committed and are not recorded: {lost}")

    def _new_result(self, key: int, row: list[Any]) -> None:
        text, success, form, answer_id = row
        answer = Answer(text, bool(success), form)
        if not self._is_failure(key, answer):
            first = self.first.get(key)
            if first is not None and answer != first:
                raise Violation(f"the first answer to {key & 0xFFFFFFFF} was {first}, recorded is {answer}")
            if answer not in self.given.get(key, ()):
                raise Violation(f"nobody gave the result of item {key & 0xFFFFFFFF}: {answer}")
        self.recorded[key] = (text, success, form, answer_id)

    def _is_cancelled(self, buffer_seq: int) -> bool:
        sql = "SELECT 1 FROM buffer WHERE buffer_seq = ? AND cancelled_commit IS NOT NULL"
        return bool(self.query(sql, buffer_seq))

    def _is_failure(self, key: int, answer: Answer) -> bool:
        """The result of an item whose attempts, or whose conversation, came to nothing."""
        if answer.success or answer.form != XML:
            return False
        if self.query("SELECT 1 FROM forwarded_item WHERE item_key = ?", key):
            return answer.text.startswith(("<SystemError>", "<BufferError>"))
        kinds = self.query("SELECT kind FROM failure WHERE item_key = ? ORDER BY attempt DESC LIMIT 1", key)
        if not kinds or f"<code>{kinds[0][0]}</code>" not in answer.text:
            return False
        return kinds[0][0] != "answer" or f"the answer was: {UNWRITABLE}<" in answer.text

    def check(self) -> None:
        """Everything that must be true at any moment."""
        self.look()
        self._ask(ALWAYS)
        self._ask(PACE)
        for content in self.told.acknowledged.values():
            self.told.is_on_disk(content)
        for content, count in self.told.streamed.values():
            self.told.stream_is_on_disk(content, count)
        self._charges()
        for check in self.others:
            check()

    def _charges(self) -> None:
        """Nothing is charged with more than has befallen it, or tried more often than its listener allows."""
        rows = self.query(
            "SELECT coalesce(f.item_key, -f.message_seq), coalesce(b.target, m.to_id),"
            " sum(f.kind = 'lost' AND NOT supervisor_died), sum(f.kind = 'lost' AND supervisor_died),"
            " sum(f.kind = 'timeout'), sum(f.kind IN ('exception', 'timeout')) FROM failure f"
            " LEFT JOIN buffer b ON b.buffer_seq = f.item_key >> 32 LEFT JOIN message m USING (message_seq)"
            " GROUP BY 1, 2"
        )
        for key, listener, *found in rows:
            attempts = self.attempts[listener]
            allowed = [self.deaths_near[key], self.crashes, self.late[key], attempts]
            if any(count > limit for count, limit in zip(found, allowed, strict=True)):
                raise Violation(f"{key} of {listener} is charged {found}, it may be {allowed}")

    def _ask(self, invariants: dict[str, str]) -> None:
        for name, sql in invariants.items():
            if rows := self.query(sql):
                raise Violation(f"not true: {name}: {rows[:5]}")

    def check_end(self) -> None:
        """Faults have stopped, all is done, the supervisor has ended."""
        self.check()
        self._ask(IN_THE_END)
        for buffer_id, content in self.told.acknowledged.items():
            self._ended(buffer_id, content)
        origins: Counter[int] = Counter()
        for (digest,) in self.query(
            "SELECT digest FROM buffer WHERE from_id <> '' AND opened_commit IS NOT NULL"
        ):
            if digest in self.started:
                origins[self.started[digest][0]] += 1
        if twice := [key for key, count in origins.items() if count > 1]:
            raise Violation(f"the handling of {twice} has started more than one buffer each")

    def _ended(self, buffer_id: str, content: Content) -> None:
        ((total, succeeded, failed, cancelled),) = self.query(
            "SELECT total, succeeded, failed, cancelled_commit IS NOT NULL FROM buffer"
            " WHERE buffer_id = ? AND ended_commit IS NOT NULL",
            buffer_id,
        )
        if total != len(content.texts) or (total != succeeded + failed and not cancelled):
            raise Violation(f"{buffer_id} ended with {succeeded + failed} results of {total}")
        completes = self.query("SELECT payload FROM message WHERE message_id = ?", f"{buffer_id}/complete")
        if len(completes) != content.collect:
            raise Violation(f"{buffer_id} has {len(completes)} BufferComplete")
        counts = f"<total>{total}</total><successful>{succeeded}</successful>"
        if completes and counts not in completes[0][0]:
            raise Violation(f"BufferComplete of {buffer_id} is wrong: {completes[0][0]}")

    def close(self) -> None:
        self.reader.close()
