"""What was promised is compared with what the journal holds and what clients were told."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

from _soak.chaos import Soak
from _soak.client import Notes
from _soak.orders import Order
from _soak.processes import environment

INVARIANTS = {
    "SELECT * FROM in_flight": "something is in flight though nobody serves",
    "SELECT message_id FROM messages WHERE state IN ('waiting', 'delivered')": "a message is left unsettled",
    "SELECT buffer_id FROM buffers WHERE state NOT IN ('complete')": "a buffer is not complete",
    "SELECT run_id, ended FROM runs WHERE ended = 'running'": "a run says that it goes on",
    "SELECT buffer_seq, count(*) FROM message WHERE kind = 'BufferComplete' AND buffer_seq IS NOT NULL "
    "GROUP BY 1 HAVING count(*) <> 1": "a buffer has several BufferCompletes",
}


class Judgement:
    """Adds what is wrong to the violations of a run that has ended."""

    def __init__(self, soak: Soak) -> None:
        self.soak = soak

    def judge(self) -> None:
        self.check_buffers()
        self.check_messages()
        self.check_flatness()
        for question, means in INVARIANTS.items():
            wrong = self.soak.rows(question)
            if wrong:
                self.soak.violations.append(f"{means}: {wrong[:3]}")
        check = subprocess.run(
            [sys.executable, "-m", "durable_bus", "check", "--journal", str(self.soak.journal)],
            env=environment(),
            capture_output=True,
            text=True,
        )
        if check.returncode != 0:
            self.soak.violations.append(
                f"durable-bus check: {check.stdout.strip()[:500]}{check.stderr.strip()[:500]}"
            )

    def notes(self) -> Iterator[list[str]]:
        for number in range(self.soak.clients):
            path = self.soak.folder / f"client{number}.notes"
            if path.exists():
                yield from Notes(path).read()

    def check_buffers(self) -> None:
        """Every acknowledged buffer is what was asked for. So is one that nobody was told of."""
        self.acknowledged: dict[str, int] = {}
        self.latencies_s: list[float] = []
        for words in self.notes():
            if words[0] == "started":
                self.acknowledged[words[1]] = self.acknowledged.get(words[1], 0) + 1
                self.latencies_s.append(float(words[2]))
        states = dict(self.soak.rows("SELECT buffer_id, state FROM buffers WHERE from_id LIKE 'box%'"))
        self.items = self.results = self.failed = 0
        for buffer_id in self.acknowledged:
            if states.get(buffer_id) != "complete":
                self.soak.violations.append(f"{buffer_id} was acknowledged and is {states.get(buffer_id)}")
        for buffer_id in states:
            self.check_buffer(Order.of(self.soak.seed, str(buffer_id)))

    def check_buffer(self, order: Order) -> None:
        items = self.soak.rows(
            "SELECT payload FROM items WHERE buffer_id = ? ORDER BY item_index", order.buffer_id
        )
        if [payload for (payload,) in items] != order.items:
            self.soak.violations.append(f"{order.buffer_id} has other items than were sent")
        results = self.soak.rows(
            "SELECT item_index, success, payload FROM results WHERE buffer_id = ? ORDER BY item_index",
            order.buffer_id,
        )
        self.items += len(order.items)
        self.results += len(results)
        self.failed += sum(1 for _, success, _ in results if not success)
        if [index for index, _, _ in results] != list(range(len(order.items))):
            self.soak.violations.append(f"{order.buffer_id} has {len(results)} results of {len(order.items)}")
        wrong = [row for row in results if not order.is_right(int(str(row[0])), row[1] == 1, str(row[2]))]
        if wrong:
            self.soak.violations.append(f"{order.buffer_id} to {order.target} has wrong results: {wrong[:2]}")

    def check_messages(self) -> None:
        received: dict[str, set[str]] = {}
        self.deliveries = 0
        for words in self.notes():
            if words[0] == "received":
                self.deliveries += 1
                received.setdefault(words[1], set()).add(words[2])
        for buffer_id, message_ids in received.items():
            if message_ids != {f"{buffer_id}/complete"}:
                self.soak.violations.append(f"the end of {buffer_id} was told as {sorted(message_ids)}")
        for buffer_id in self.acknowledged.keys() - received.keys():
            self.soak.violations.append(f"nobody was told of the end of {buffer_id}")

    def check_flatness(self) -> None:
        """Over the daemon's longest life: the last quarter of its samples against the second."""
        self.longest = max(self.soak.lives, key=len)
        quarter = len(self.longest) // 4
        if quarter < 3:
            self.soak.violations.append(
                "no life of the daemon was long enough to see whether its memory is flat"
            )
            return
        early, late = self.longest[quarter : 2 * quarter], self.longest[-quarter:]
        grown_kib = min(s.memory_kib for s in late) - max(s.memory_kib for s in early)
        if grown_kib > 16 * 1024:
            self.soak.violations.append(f"memory grew by {grown_kib} KiB over one life of the daemon")
        if min(s.files for s in late) > max(s.files for s in early):
            self.soak.violations.append("open files grew over one life of the daemon")

    def summary(self) -> str:
        first, last = self.longest[len(self.longest) // 4], self.longest[-1]
        runs = dict(self.soak.rows("SELECT ended, count(*) FROM runs GROUP BY ended"))
        latencies = sorted(self.latencies_s) or [0.0]
        again = sum(count - 1 for count in self.acknowledged.values())
        lost = self.soak.rows("SELECT count(*) FROM failures WHERE kind = 'lost'")[0][0]
        inner = self.soak.rows("SELECT count(*) FROM buffers WHERE from_id NOT LIKE 'box%'")[0][0]
        lines = [
            f"{self.soak.minutes:g} minutes, seed {self.soak.seed}, {self.soak.clients} clients, "
            f"{self.soak.workers} workers",
            f"{len(self.acknowledged):,} buffers acknowledged ({again:,} of them asked for again after a "
            f"kill), {inner:,} more started by handlers",
            f"{self.results:,} results, {self.failed:,} of them failures; "
            f"{lost:,} attempts lost with a process",
            "done to it: " + ", ".join(f"{what} {count}" for what, count in sorted(self.soak.done.items())),
            "runs: " + ", ".join(f"{ended} {count}" for ended, count in sorted(runs.items())),
            f"{self.deliveries:,} deliveries of BufferComplete, each buffer's under one id",
            f"acknowledged after: p50 {1000 * statistics.median(latencies):.1f} ms, "
            f"p99 {1000 * latencies[int(len(latencies) * 0.99)]:.0f} ms, longest {latencies[-1]:.1f} s "
            "(kills and stops included)",
            f"the daemon's longest life: {last.uptime_s:.0f} s, memory {first.memory_kib // 1024} MiB after "
            f"{first.uptime_s:.0f} s and {last.memory_kib // 1024} MiB at its end, "
            f"open files {first.files} and {last.files}",
            f"all done {self.soak.drained_s:.1f} s after the last kill; "
            f"journal {self.soak.journal.stat().st_size / 1e6:.0f} MB",
        ]
        if self.soak.violations:
            lines += [
                f"{len(self.soak.violations)} VIOLATIONS:",
                *(f"  {text}" for text in self.soak.violations[:20]),
            ]
        else:
            lines.append("no violation")
        return "\n".join(lines)
