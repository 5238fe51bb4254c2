"""A daemon and its clients, who are killed and stopped at random, and at last left alone."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from _soak import TOOLS
from _soak.processes import children_of, environment

DRAIN_S = 300.0
SAMPLE_EVERY_S = 2.0


@dataclass
class Sample:
    """The daemon at a moment: for how long it has lived, KiB of memory, open files."""

    uptime_s: float
    memory_kib: int
    files: int


@dataclass
class Soak:
    """One run of it: the daemon and its clients, and what is done to them."""

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

    def spawn_daemon(self) -> None:
        command = [
            sys.executable,
            "-m",
            "durable_bus",
            "serve",
            "_soak.app:bus",
            "--workers",
            str(self.workers),
        ]
        with open(self.folder / "daemon.log", "ab") as log:
            self.daemon = subprocess.Popen(
                [*command, "--journal", str(self.journal), "--grace", "2"],
                cwd=TOOLS,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.daemon_since_s = time.monotonic()
        self.lives.append([])

    def spawn_client(self, number: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(TOOLS / "soak.py"), "client", "--folder", str(self.folder)]
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
