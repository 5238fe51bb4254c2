"""Running a buffer with a supervisor of our own, as `run` and `demo` do: start or go on, follow, retry, stop.

The journal is asked first. What is recorded is never run again; when everything is, no process is started.
Whatever is killed, the same command goes on: the buffer's id comes from the app, the target and the items. It
is a stream: its first items run while the last ones are read.
"""

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain as chained
from itertools import islice
from pathlib import Path
from typing import NoReturn

from durable_bus.cli.facts import budget_spent
from durable_bus.cli.feeding import compare_all, feed_stream, has_ended_early, items_of_function
from durable_bus.cli.follow import how_far, seen_until_end
from durable_bus.cli.interrupts import interrupted_by
from durable_bus.cli.progress import Progress
from durable_bus.client.buffer_ids import (
    KEY_ITEMS,
    check_buffer_id,
    default_buffer_id,
    next_retry_id,
    why_used,
)
from durable_bus.client.client import Client
from durable_bus.client.embedded import OwnSupervisor
from durable_bus.client.feed import Recorded
from durable_bus.client.upload import Written, digest_items, items_of_bus
from durable_bus.errors import BufferError, Interrupted, NotFound, TimedOut
from durable_bus.journal.access import path_to_write
from durable_bus.journal.reader import BufferContent, JournalReader
from durable_bus.payloads.settings import MappedSettings
from durable_bus.wire.parts import Terms

_LOOK_FOR_FAILURES_EVERY_S = 0.1
"""How soon it is seen that too many items have failed; who looks on may be told more seldom."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be run."""

    app: str
    """module:attribute, of a bus; or of a function, where `mapped` is given."""
    target: str
    items: Iterable[object]
    journal: Path
    is_pipe: bool = False
    """The items can be read only once, and take as long to come as they take."""
    mapped: MappedSettings | None = None
    buffer_id: str | None = None
    retry_failed: bool = False
    max_failures: int | None = None
    terms: Terms | None = None

    @property
    def written(self) -> Written:
        """How the items are written."""
        return items_of_bus if self.mapped is None else items_of_function


@dataclass(frozen=True, slots=True)
class Outcome:
    chain: list[BufferContent]
    """The buffer, and its retries."""
    stopped_early: bool
    """More items failed than `max_failures` allows, or its budget is spent."""
    handled: int
    """Results recorded while we watched; 0 when all were there before."""
    seconds: float

    @property
    def unsuccessful(self) -> int:
        """Items without a successful result, also after their retries."""
        return self.chain[0].total - sum(content.succeeded for content in self.chain)


def run_job(job: Job, own: OwnSupervisor, progress: Progress) -> Outcome:
    """Run it, or what is left of it, with a supervisor that may have been started ahead. Raises Interrupted
    after Ctrl-C or SIGTERM, else a DurableBusError.
    """
    with interrupted_by(signal.SIGTERM):
        job, total, digest = _looked_through(job)
        if total == 0:
            raise BufferError(job.buffer_id or "unknown", "No items specified")
        buffer_id = job.buffer_id
        if buffer_id is None:
            buffer_id = default_buffer_id(job.app, job.target, digest)
        check_buffer_id(buffer_id)
        path_to_write(job.journal)  # also when nothing is left to do: another user's records are not ours
        session = _Session(job, buffer_id, total, progress, own)
        try:
            session.compare(None if job.is_pipe else digest)
            stopped_early = session.work()
            session.close()
        except KeyboardInterrupt:
            session.interrupted()
        finally:
            progress.end()
            session.close()
    return Outcome(session.chain(), stopped_early, session.handled, session.seconds)


def _looked_through(job: Job) -> tuple[Job, int | None, str]:
    """How many items there are, and their digest. Of a pipe what is at its end is not known before it is
    there, so its first items say which buffer it is: then the job has them again, and the number is None.
    """
    if not job.is_pipe:
        return job, *digest_items(job.items, job.written)
    items = iter(job.items)
    first = list(islice(items, KEY_ITEMS if job.buffer_id is None else 1))
    _, digest = digest_items(first, job.written)
    return replace(job, items=chained(first, items)), None if first else 0, digest


class _Session:
    """A buffer, its retries, and the supervisor that is started only when there is work."""

    def __init__(
        self, job: Job, buffer_id: str, total: int | None, progress: Progress, own: OwnSupervisor
    ) -> None:
        """`total`: how many items there are; None: that is seen when they have come."""
        self._own = own
        self._job = job
        self._buffer_id = buffer_id
        self._total = total
        self._progress = progress
        self._client: Client | None = None
        self.handled = 0
        self.seconds = 0.0

    def chain(self) -> list[BufferContent]:
        """The buffer and its retries that are open or ended, as the journal has them now; maybe none."""
        chain: list[BufferContent] = []
        with contextlib.suppress(NotFound), JournalReader(self._job.journal) as reader:
            content = reader.content(self._buffer_id)
            while content is not None and content.opened and (content.is_retry or not chain):
                chain.append(content)
                content = reader.content(next_retry_id(content))
        return chain

    def compare(self, digest: str | None) -> None:
        """Refuse an id that the journal knows with other content, before anything is started. Of a stream
        that is not sealed the items are compared as they are read.

        `digest`: of all items; None: they are to be read only once.
        """
        chain = self.chain()
        if not chain:
            return
        known = chain[0]
        why = why_used(known, self._job.target)
        ended_early = False
        if why is None and known.ended and not known.sealed:
            with JournalReader(self._job.journal) as reader:
                ended_early = has_ended_early(reader, known.buffer_id)
            why = None if ended_early else "it was cancelled before all its items had come"
        if why is not None:
            raise BufferError(known.buffer_id, why)
        if ended_early:
            self._compare_items(known, islice(iter(self._job.items), known.total))
        elif known.sealed and known.digest != digest:
            self._compare_items(known, iter(self._job.items))

    def _compare_items(self, known: BufferContent, given: Iterator[object]) -> None:
        with JournalReader(self._job.journal) as reader:
            recorded = Recorded(reader.item_payloads(known.buffer_seq), known.total)
            compare_all(known.buffer_id, given, self._job.written, recorded)
        self._total = known.total

    def work(self) -> bool:
        """Whatever is left to do. True when it was stopped: too many items have failed, or its budget is
        spent.
        """
        chain = self.chain()
        if not (chain and chain[0].ended):
            if chain and self._too_many(chain[0].failed):
                return self._stop()
            followed = self._go_on(chain[0]) if chain and chain[0].sealed else self._begin(chain)
            if not followed:
                return self._stop()
            chain = self.chain()
        if self._job.retry_failed:
            return self._retry(chain)
        if not self.handled:
            recorded = chain[0].succeeded + chain[0].failed
            how_many = "all" if recorded == chain[0].total else f"{recorded:,} of"
            self._say(f"{how_many} {chain[0].total:,} items were recorded before; nothing is run")
        if len(chain) > 1 and not chain[-1].ended:
            self._say(f"{chain[-1].buffer_id} has not ended; --retry-failed goes on with it")
        return False

    def _begin(self, chain: list[BufferContent]) -> bool:
        """Put the items, all or those that are missing, and watch until all are recorded."""
        before = 0
        client = self._supervised()
        if chain:
            before = chain[0].succeeded + chain[0].failed
            self._say_going_on(client, chain[0])
        elif self._total is not None:
            self._say(f"{self._total:,} items")
        upload = client.stream_upload(self._job.target, self._buffer_id, terms=self._job.terms)
        begun_s = time.monotonic()
        try:
            all_put = feed_stream(
                client,
                upload,
                iter(self._job.items),
                self._job.written,
                self._progress,
                total=self._total,
                stop=lambda failed: self._too_many(failed) or self._is_paused(client, self._buffer_id),
            )
        finally:
            self.seconds += time.monotonic() - begun_s
        return all_put and self._follow(self._buffer_id, before)

    def _go_on(self, content: BufferContent) -> bool:
        client = self._supervised()
        self._say_going_on(client, content)
        return self._follow(content.buffer_id, content.succeeded + content.failed)

    def _say_going_on(self, client: Client, content: BufferContent) -> None:
        self._progress.say(f"{content.buffer_id}: {how_far(content)}, going on")
        if self._is_paused(client, content.buffer_id):
            # Whoever paused it asks for it again by running it. The terms are those of its start.
            terms, has_budget = self._job.terms, bool(client.reader().budget(content.buffer_id))
            client.resume(content.buffer_id, budget=terms.budget if terms and has_budget else None)

    def _retry(self, chain: list[BufferContent]) -> bool:
        """Start what failed again: one more round, or the one that has not ended."""
        last = chain[-1]
        if not last.ended:
            followed = not self._too_many(last.failed) and self._go_on(last)
        elif last.succeeded == last.total:
            if not self.handled:
                self._say(f"all {chain[0].total:,} items have succeeded; nothing is run")
            return False
        else:
            client = self._supervised()
            self._say(f"{last.total - last.succeeded:,} items again, as {next_retry_id(last)}")
            followed = self._follow(client.retry(last.buffer_id).buffer_id, 0)
        return False if followed else self._stop()

    def _supervised(self) -> Client:
        if self._client is None:
            job = self._job
            self._client = self._own.client()
            if job.target not in self._client.listeners:
                # Today's app may lack the listener of a buffer that is open: it would wait for ever.
                known = ", ".join(sorted(self._client.listeners)) or "none"
                why = f"unknown target {job.target!r:.120}; the listeners are: {known}"
                raise BufferError(self._buffer_id, why)
            self._name_others(self._client)
        return self._client

    def _name_others(self, client: Client) -> None:
        """A supervisor works on every open buffer of its journal, so say which there are."""
        ours = {content.buffer_id for content in self.chain()}
        others = [row["buffer_id"] for row in client.reader().open_buffers() if row["buffer_id"] not in ours]
        if others:
            self._progress.say(f"also open in {self._job.journal}, and going on: {', '.join(others)}")

    def _follow(self, buffer_id: str, recorded_before: int) -> bool:
        """Watch a buffer until it has ended, True, or is to be stopped, False: too many of its items have
        failed, or its budget is spent.
        """
        client = self._supervised()
        buffer = client.buffer(buffer_id)
        look_every_s = self._progress.refresh_s
        if self._job.max_failures is not None:
            look_every_s = min(look_every_s, _LOOK_FOR_FAILURES_EVERY_S)

        def sleep() -> None:
            with contextlib.suppress(TimedOut):
                buffer.wait(look_every_s)

        begun_s, recorded = time.monotonic(), recorded_before
        try:
            for content in seen_until_end(client.reader(), buffer_id, self._progress, sleep):
                recorded = content.succeeded + content.failed
                if content.ended:
                    return True
                if self._too_many(content.failed) or self._is_paused(client, buffer_id):
                    return False
            return True
        finally:
            self.handled += recorded - recorded_before
            self.seconds += time.monotonic() - begun_s

    def _too_many(self, failed: int) -> bool:
        return self._job.max_failures is not None and failed > self._job.max_failures

    @staticmethod
    def _is_paused(client: Client, buffer_id: str) -> bool:
        """By its budget, while nobody but us can pause it."""
        return bool(client.reader().buffer(buffer_id)["paused"])

    def _stop(self) -> bool:
        self.close()
        content = self.chain()[-1]  # as it is now that what ran has finished
        if content.ended:
            return False
        recorded, total = content.succeeded + content.failed, self._total or content.total
        if self._too_many(content.failed):
            why = f"{content.failed:,} items have failed, --max-failures is {self._job.max_failures}"
            how = "a higher limit goes on with the rest"
        else:
            with JournalReader(self._job.journal) as reader:
                why = budget_spent(reader, content.buffer_id)
            how = "the same command grants as much again and goes on"
        self._say(f"stopped: {why}; {recorded:,} of {total:,} are recorded, {how}")
        return True

    def interrupted(self) -> NoReturn:
        """End cleanly, at once at the second Ctrl-C, and say how to go on."""
        self._progress.end()
        try:
            if self._client is not None:
                self._progress.say("stopping: what runs is finished first; Ctrl-C again stops at once")
            self.close()
        except KeyboardInterrupt:
            self.close(at_once=True)
        chain = self.chain()
        recorded = sum(content.succeeded + content.failed for content in chain[-1:])
        total = chain[-1].total if chain and chain[-1].sealed else self._total
        of = "" if total is None else f" of {total:,}"
        how_far = f"with {recorded:,}{of} items recorded" if chain else "before the start"
        raise Interrupted(f"interrupted {how_far}; run the same command again to go on")

    def close(self, *, at_once: bool = False) -> None:
        if self._client is not None:
            self._client.close(at_once=at_once)
            self._client = None

    def _say(self, line: str) -> None:
        self._progress.say(f"{self._buffer_id}: {line}")
