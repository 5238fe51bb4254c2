"""Hours of a daemon under load and random kills, and whether all that was promised was kept.

    tools/soak.py --minutes 10                  everything that can be killed is
    tools/soak.py --minutes 10 --seed 7         the same decisions again

Clients submit buffers without pause, while workers, the daemon and the clients themselves are killed with
SIGKILL and stopped with SIGSTOP at random. In the last third of the time the daemon is spared, so that its
memory and its open files can be watched over a long life. Then everybody is left alone until all is done, and
the journal is compared with what each client wrote down when it was told something:

- every acknowledged buffer is there, complete, with the items that were sent, and right results in their
order;
- each BufferComplete was received, under one id only, however often;
- nothing is in flight, every counter is what the rows say, SQLite's own check passes;
- memory and open files are flat.

What follows from the seed is what is decided, not when exactly it happens. Exit code 1 when anything is
wrong.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from durable_bus import BufferStart, Bus, HandlerMetadata, HandlerResponse, Text  # noqa: E402

OUTSTANDING_MAX = 20
DRAIN_S = 300.0
SAMPLE_EVERY_S = 2.0

bus = Bus("soak")


# The app


@bus.listener("echo", attempts=3)
def echo(text: str) -> Text:
    return Text(text)


@bus.listener("nap")
def nap(text: str) -> Text:
    time.sleep(int(text.split()[0]) / 1000)
    return Text(text)


@bus.listener("doze", concurrency=20)
async def doze(text: str) -> Text:
    await asyncio.sleep(int(text.split()[0]) / 1000)
    return Text(text)


@bus.listener("refuse", attempts=2)
def refuse(text: str) -> Text:
    raise ValueError(text)


@bus.listener("poison")
def poison(text: str) -> Text:
    os._exit(9)


@bus.listener("relay")
def relay(text: str, metadata: HandlerMetadata) -> HandlerResponse | Text:
    """Has echo answer, and passes that on."""
    return Text(text) if metadata.from_id == "echo" else HandlerResponse(Text(text), to="echo")


@bus.listener("fan")
def fan(text: str, metadata: HandlerMetadata) -> HandlerResponse | Text:
    """Answers, by a fan-out of its own, how many of three have succeeded."""
    if text.startswith("<BufferComplete"):
        return Text(text.partition("<successful>")[2].partition("<")[0])
    if text.startswith("<"):
        return Text("refused")
    items = [Text(f"{text}/{number}") for number in range(3)]
    return HandlerResponse(BufferStart("echo", items, return_to="fan"), to="system.buffer")


TARGETS = {"echo": 40, "nap": 20, "doze": 15, "relay": 10, "fan": 10, "refuse": 4, "poison": 1}


@dataclass
class Order:
    """A buffer that a client starts; the same for the same seed and id."""

    buffer_id: str
    target: str
    items: list[str]

    @classmethod
    def of(cls, seed: int, buffer_id: str) -> "Order":
        rng = random.Random(f"{seed} {buffer_id}")
        (target,) = rng.choices(list(TARGETS), list(TARGETS.values()))
        most = {"echo": 3000, "refuse": 20, "poison": 2, "fan": 10}.get(target, 100)
        count = rng.randint(1, most) if rng.random() < 0.3 else rng.randint(1, min(most, 10))
        items = [f"{rng.randint(0, 20)} {buffer_id}#{index}" for index in range(count)]
        return cls(buffer_id, target, items)

    def is_right(self, index: int, success: bool, payload: str) -> bool:
        """Whether this may be the result of that item. A good item may have failed as lost: its workers were
        killed.
        """
        if not success:
            return self.target in ("refuse", "poison") or "<code>lost</code>" in payload
        if self.target == "fan":
            return payload in ("0", "1", "2", "3")
        return self.target not in ("refuse", "poison") and payload == self.items[index]


# A client


class Notes:
    """What a client has been told, written down at once: whole lines, also when it is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def read(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()]


def run_client(folder: Path, number: int, seed: int) -> None:
    """Start buffers, be told of their ends, write both down; go on where the last process was killed."""
    from durable_bus.client.client import Client
    from durable_bus.errors import JournalUnreachable, SupervisorLost

    notes = Notes(folder / f"client{number}.notes")
    said = notes.read()
    started = {words[1] for words in said if words[0] == "started"}
    outstanding = started - {words[1] for words in said if words[0] == "received"}
    # Not one that it was told of: its end may have come already, and comes once.
    unsure = [words[1] for words in said if words[0] == "starting" and words[1] not in started][-1:]
    sequence = sum(1 for words in said if words[0] == "starting")
    stop = folder / "stop"
    while True:
        try:
            client = Client(folder / "journal.db", name=f"box{number}")
            break
        except (JournalUnreachable, SupervisorLost):
            time.sleep(0.1)
    with client:
        while outstanding or unsure or not stop.exists():
            if unsure or (len(outstanding) < OUTSTANDING_MAX and not stop.exists()):
                # Killed before it was told, a client does not know: it asks for the same again.
                buffer_id = unsure.pop() if unsure else f"c{number}-{sequence}"
                if buffer_id.endswith(f"-{sequence}"):
                    sequence += 1
                    notes.write("starting", buffer_id)
                order = Order.of(seed, buffer_id)
                begun_s = time.monotonic()
                client.start(order.target, order.items, buffer_id=buffer_id, return_to=f"box{number}")
                notes.write("started", buffer_id, f"{time.monotonic() - begun_s:.6f}")
                outstanding.add(buffer_id)
            take(client, notes, outstanding, 0.0 if len(outstanding) < OUTSTANDING_MAX else 1.0)


def take(client: object, notes: Notes, outstanding: set[str], timeout_s: float) -> None:
    from durable_bus.client.client import Client
    from durable_bus.errors import TimedOut

    assert isinstance(client, Client)
    with contextlib.suppress(TimedOut):
        message = client.receive(timeout_s)
        buffer_id = message.payload.partition("<buffer_id>")[2].partition("<")[0]
        notes.write("received", buffer_id, message.message_id)
        client.acknowledge(message)
        outstanding.discard(buffer_id)


# The chaos


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}


def state_of(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def children_of(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [child for child in found if state_of(child) not in ("Z", "")]
    return []


@dataclass
class Sample:
    """The daemon at a moment: for how long it has lived, KiB of memory, open files."""

    uptime_s: float
    memory_kib: int
    files: int


@dataclass
class Soak:
    """One run of it."""

    folder: Path
    seed: int
    minutes: float
    clients: int
    workers: int
    rng: random.Random = field(init=False)
    done: Counter[str] = field(default_factory=Counter)
    lives: list[list[Sample]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    continues: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.journal = self.folder / "journal.db"

    # Processes

    def spawn_daemon(self) -> None:
        command = [sys.executable, "-m", "durable_bus", "serve", "soak:bus", "--workers", str(self.workers)]
        with open(self.folder / "daemon.log", "ab") as log:
            self.daemon = subprocess.Popen(
                [*command, "--journal", str(self.journal), "--grace", "2"],
                cwd=REPOSITORY / "tools",
                env=environment(),
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.daemon_since_s = time.monotonic()
        self.lives.append([])

    def spawn_client(self, number: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(Path(__file__).resolve()), "client", "--folder", str(self.folder)]
        with open(self.folder / f"client{number}.log", "ab") as log:
            return subprocess.Popen(
                [*command, "--number", str(number), "--seed", str(self.seed)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def run(self) -> None:
        self.spawn_daemon()
        self.processes = [self.spawn_client(number) for number in range(self.clients)]
        try:
            begun_s = time.monotonic()
            end_s = begun_s + 60 * self.minutes
            spare_s = begun_s + 40 * self.minutes
            next_s = next_sample_s = begun_s + 2.0
            while (now_s := time.monotonic()) < end_s:
                if now_s >= next_s:
                    next_s = now_s + self.rng.uniform(0.1, 1.0)
                    self.strike(spare_daemon=now_s > spare_s)
                if now_s >= next_sample_s:
                    next_sample_s = now_s + SAMPLE_EVERY_S
                    self.sample()
                self.revive(now_s)
                time.sleep(0.02)
            self.drain()
        finally:
            for process in [self.daemon, *self.processes]:
                process.kill()
                process.wait()

    def strike(self, *, spare_daemon: bool) -> None:
        """One decision; it consumes the same of the seed whether or not there is anybody to hit."""
        what = self.rng.choices(
            ["kill worker", "stop worker", "kill client", "stop client", "reload"]
            + ["kill daemon", "stop daemon", "end daemon"],
            [30, 12, 15, 10, 5, 12, 10, 6],
        )[0]
        which, pause_s = self.rng.random(), self.rng.uniform(0.05, 3.0)
        if spare_daemon and what in ("kill daemon", "end daemon"):
            return
        if what.endswith("worker"):
            victims = children_of(self.daemon.pid)
        elif what.endswith("client"):
            victims = [process.pid for process in self.processes if process.poll() is None]
        else:
            victims = [self.daemon.pid] if self.daemon.poll() is None else []
        if not victims:
            return
        pid = victims[int(which * len(victims))]
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}.get(
            what.split()[0], signal.SIGHUP
        )
        if number in (signal.SIGHUP, signal.SIGTERM) and pid == self.daemon.pid and not self.is_serving():
            return  # before it has its handlers, either would end it like any program
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            self.done[what] += 1
            if number == signal.SIGSTOP:
                self.continues.append((time.monotonic() + pause_s, pid))

    def is_serving(self) -> bool:
        return bool(children_of(self.daemon.pid))

    def revive(self, now_s: float) -> None:
        """Let go on who was stopped for long enough, and start anew who was killed."""
        due = [pid for at_s, pid in self.continues if at_s <= now_s]
        self.continues = [(at_s, pid) for at_s, pid in self.continues if at_s > now_s]
        for pid in due:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        code = self.daemon.poll()
        if code is not None:
            if code not in (0, -signal.SIGKILL):
                self.violations.append(f"the daemon ended with {code}: see {self.folder}/daemon.log")
            self.done["daemon started again"] += 1
            self.spawn_daemon()
        for number, process in enumerate(self.processes):
            code = process.poll()
            if code is not None and not (code == 0 and (self.folder / "stop").exists()):
                if code != -signal.SIGKILL:
                    self.violations.append(f"client {number} ended with {code}: see client{number}.log")
                self.processes[number] = self.spawn_client(number)

    def sample(self) -> None:
        pid = self.daemon.pid
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            memory_kib = int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
            files = len(os.listdir(f"/proc/{pid}/fd"))
            self.lives[-1].append(Sample(time.monotonic() - self.daemon_since_s, memory_kib, files))

    def drain(self) -> None:
        """Everybody is left alone, until all that was started has ended and its clients know."""
        (self.folder / "stop").touch()
        deadline_s = time.monotonic() + DRAIN_S
        begun_s = time.monotonic()
        while any(process.poll() is None for process in self.processes) or self.open_buffers():
            if time.monotonic() > deadline_s:
                self.violations.append(
                    f"{self.open_buffers()} buffers are still open {DRAIN_S:g} s after the last kill"
                )
                break
            self.revive(time.monotonic() + 1000.0)
            time.sleep(0.1)
        self.drained_s = time.monotonic() - begun_s
        self.sample()
        self.daemon.terminate()
        if self.daemon.wait(60) != 0:
            self.violations.append(f"the daemon stopped with {self.daemon.returncode}")

    def open_buffers(self) -> int:
        return int(self.rows("SELECT count(*) FROM buffers WHERE state = 'open'")[0][0])

    def rows(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with contextlib.closing(
            sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=60)
        ) as connection:
            return connection.execute(sql, parameters).fetchall()

    # The judgement

    def judge(self) -> None:
        self.check_buffers()
        self.check_messages()
        self.check_flatness()
        for question, means in INVARIANTS.items():
            wrong = self.rows(question)
            if wrong:
                self.violations.append(f"{means}: {wrong[:3]}")
        check = subprocess.run(
            [sys.executable, "-m", "durable_bus", "check", "--journal", str(self.journal)],
            env=environment(),
            capture_output=True,
            text=True,
        )
        if check.returncode != 0:
            self.violations.append(
                f"durable-bus check: {check.stdout.strip()[:500]}{check.stderr.strip()[:500]}"
            )

    def notes(self) -> Iterator[list[str]]:
        for number in range(self.clients):
            path = self.folder / f"client{number}.notes"
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
        states = dict(self.rows("SELECT buffer_id, state FROM buffers WHERE from_id LIKE 'box%'"))
        self.items = self.results = self.failed = 0
        for buffer_id in self.acknowledged:
            if states.get(buffer_id) != "complete":
                self.violations.append(f"{buffer_id} was acknowledged and is {states.get(buffer_id)}")
        for buffer_id in states:
            self.check_buffer(Order.of(self.seed, str(buffer_id)))

    def check_buffer(self, order: Order) -> None:
        items = self.rows(
            "SELECT payload FROM items WHERE buffer_id = ? ORDER BY item_index", order.buffer_id
        )
        if [payload for (payload,) in items] != order.items:
            self.violations.append(f"{order.buffer_id} has other items than were sent")
        results = self.rows(
            "SELECT item_index, success, payload FROM results WHERE buffer_id = ? ORDER BY item_index",
            order.buffer_id,
        )
        self.items += len(order.items)
        self.results += len(results)
        self.failed += sum(1 for _, success, _ in results if not success)
        if [index for index, _, _ in results] != list(range(len(order.items))):
            self.violations.append(f"{order.buffer_id} has {len(results)} results of {len(order.items)}")
        wrong = [row for row in results if not order.is_right(int(str(row[0])), row[1] == 1, str(row[2]))]
        if wrong:
            self.violations.append(f"{order.buffer_id} to {order.target} has wrong results: {wrong[:2]}")

    def check_messages(self) -> None:
        received: dict[str, set[str]] = {}
        self.deliveries = 0
        for words in self.notes():
            if words[0] == "received":
                self.deliveries += 1
                received.setdefault(words[1], set()).add(words[2])
        for buffer_id, message_ids in received.items():
            if message_ids != {f"{buffer_id}/complete"}:
                self.violations.append(f"the end of {buffer_id} was told as {sorted(message_ids)}")
        for buffer_id in self.acknowledged.keys() - received.keys():
            self.violations.append(f"nobody was told of the end of {buffer_id}")

    def check_flatness(self) -> None:
        """Over the daemon's longest life: the last quarter of its samples against the second."""
        self.longest = max(self.lives, key=len)
        quarter = len(self.longest) // 4
        if quarter < 3:
            self.violations.append("no life of the daemon was long enough to see whether its memory is flat")
            return
        early, late = self.longest[quarter : 2 * quarter], self.longest[-quarter:]
        grown_kib = min(s.memory_kib for s in late) - max(s.memory_kib for s in early)
        if grown_kib > 16 * 1024:
            self.violations.append(f"memory grew by {grown_kib} KiB over one life of the daemon")
        if min(s.files for s in late) > max(s.files for s in early):
            self.violations.append("open files grew over one life of the daemon")

    def summary(self) -> str:
        first, last = self.longest[len(self.longest) // 4], self.longest[-1]
        runs = dict(self.rows("SELECT ended, count(*) FROM runs GROUP BY ended"))
        latencies = sorted(self.latencies_s) or [0.0]
        again = sum(count - 1 for count in self.acknowledged.values())
        lost = self.rows("SELECT count(*) FROM failures WHERE kind = 'lost'")[0][0]
        inner = self.rows("SELECT count(*) FROM buffers WHERE from_id NOT LIKE 'box%'")[0][0]
        lines = [
            f"{self.minutes:g} minutes, seed {self.seed}, {self.clients} clients, {self.workers} workers",
            f"{len(self.acknowledged):,} buffers acknowledged ({again:,} of them asked for again after a "
            f"kill), {inner:,} more started by handlers",
            f"{self.results:,} results, {self.failed:,} of them failures; "
            f"{lost:,} attempts lost with a process",
            "done to it: " + ", ".join(f"{what} {count}" for what, count in sorted(self.done.items())),
            "runs: " + ", ".join(f"{ended} {count}" for ended, count in sorted(runs.items())),
            f"{self.deliveries:,} deliveries of BufferComplete, each buffer's under one id",
            f"acknowledged after: p50 {1000 * statistics.median(latencies):.1f} ms, "
            f"p99 {1000 * latencies[int(len(latencies) * 0.99)]:.0f} ms, longest {latencies[-1]:.1f} s "
            "(kills and stops included)",
            f"the daemon's longest life: {last.uptime_s:.0f} s, memory {first.memory_kib // 1024} MiB after "
            f"{first.uptime_s:.0f} s and {last.memory_kib // 1024} MiB at its end, "
            f"open files {first.files} and {last.files}",
            f"all done {self.drained_s:.1f} s after the last kill; "
            f"journal {self.journal.stat().st_size / 1e6:.0f} MB",
        ]
        if self.violations:
            lines += [f"{len(self.violations)} VIOLATIONS:", *(f"  {text}" for text in self.violations[:20])]
        else:
            lines.append("no violation")
        return "\n".join(lines)


INVARIANTS = {
    "SELECT * FROM in_flight": "something is in flight though nobody serves",
    "SELECT message_id FROM messages WHERE state IN ('waiting', 'delivered')": "a message is left unsettled",
    "SELECT buffer_id FROM buffers WHERE state NOT IN ('complete')": "a buffer is not complete",
    "SELECT run_id, ended FROM runs WHERE ended = 'running'": "a run says that it goes on",
    "SELECT buffer_seq, count(*) FROM message WHERE kind = 'BufferComplete' AND buffer_seq IS NOT NULL "
    "GROUP BY 1 HAVING count(*) <> 1": "a buffer has several BufferCompletes",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["soak", "client"], default="soak", help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="of its decisions; default: a new one, which is printed")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for the journal and the logs; default: a new one")
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "client":
        run_client(options.folder, options.number, options.seed)
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="durable_bus-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}, in {folder}", flush=True)
    soak = Soak(folder, seed, options.minutes, options.clients, options.workers)
    soak.run()
    soak.judge()
    print(soak.summary())
    return 1 if soak.violations else 0


if __name__ == "__main__":
    sys.exit(main())
