"""`durable_bus.map` of what no worker could import: made at a prompt, as in a notebook, or a lambda."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import Facts, children_of, environment, kill, until, until_gone, workers_of

CELL = """
import dataclasses, functools, os, sys
import durable_bus

@dataclasses.dataclass
class Doc:
    words: int

@functools.cache
def factor(): return FACTOR

def scored(doc):
    with open("runs", "a") as runs: print(doc.words, file=runs)
    if doc.words == 500 and not os.path.exists("door"): os.read(os.pipe()[0], 1)
    return Doc(doc.words * factor())

values = list(durable_bus.map(scored, [Doc(n) for n in range(TOTAL)], journal="journal.db", workers=2))
print(values == [Doc(n * FACTOR) for n in range(TOTAL)], type(values[0]) is Doc)
"""


def cell(total: int, factor: int = 2) -> str:
    return CELL.replace("TOTAL", str(total)).replace("FACTOR", str(factor))


def session(folder: Path, how: list[str], source: str) -> "subprocess.Popen[str]":
    at = subprocess.Popen(
        [sys.executable, *how, *([source] if how == ["-c"] else [])],
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert at.stdin is not None
    if how != ["-c"]:
        at.stdin.write(source.replace("\n\n", "\n\n\n") if "-i" in how else source)
    at.stdin.close()
    at.stdin = None
    return at


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("how", [["-c"], ["-"], ["-i", "-q"]], ids=["-c", "stdin", "prompt"])
def test_functions_and_classes_of_a_prompt_are_sent_and_known_again(tmp_path: Path, how: list[str]) -> None:
    for factor, after in ((2, 200), (2, 200), (3, 400)):
        out, err = session(tmp_path, how, cell(200, factor)).communicate(timeout=60)
        assert out.endswith("True True\n"), err
        assert runs(tmp_path) == after
    buffers = Facts(tmp_path / "journal.db").rows("SELECT state, total FROM buffers")
    assert buffers == [("complete", 200)] * 2, "a function that does something else has another buffer"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["session", "supervisor", "worker"])
def test_whoever_is_killed_the_next_session_goes_on(tmp_path: Path, victim: str) -> None:
    facts = Facts(tmp_path / "journal.db")
    first = session(tmp_path, ["-"], cell(1_000))
    facts.until("SELECT max(completed) >= 400 FROM buffers")
    (supervisor,) = children_of(first.pid)
    below = workers_of(supervisor)
    kill({"session": first.pid, "supervisor": supervisor, "worker": below[0]}[victim])
    if victim == "worker":
        (tmp_path / "door").touch()
        until(
            lambda: facts.value("SELECT sum(completed) FROM buffers") > 900, "another worker has the function"
        )
    first.kill()
    first.communicate()
    for pid in (supervisor, *below):
        until_gone(pid)
    done, before = facts.value("SELECT count(*) FROM results"), runs(tmp_path)
    (tmp_path / "door").touch()
    out, err = session(tmp_path, ["-"], cell(1_000)).communicate(timeout=60)
    assert out == "True True\n", err
    assert runs(tmp_path) - before == 1_000 - done
    facts.assert_whole(facts.value("SELECT buffer_id FROM buffers"), 1_000)


SCRIPT = """
import functools, durable_bus
class Shape:
    def __init__(self, k): self.k = k
    def of(self, x): return x * self.k
def mapped(function): return list(durable_bus.map(function, range(3), workers=1))
print(mapped(lambda x: x + 1), mapped(functools.partial(pow, 2)), mapped(Shape(5).of), mapped(Shape(6).of))
"""


@pytest.mark.slow
def test_a_script_sends_lambdas_partials_and_methods_and_needs_no_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.stdout == "[1, 2, 3] [1, 2, 4] [0, 5, 10] [0, 6, 12]\n", done.stderr
    assert Facts(tmp_path / "journal.db").value("SELECT count(*) FROM buffers") == 4


TYPED = """
def f(x): return x + 2

print(mapped(f))
"""


@pytest.mark.slow
def test_what_is_typed_after_a_script_is_sent(tmp_path: Path) -> None:
    """Python forgets then where the script was: it is not what workers import."""
    (tmp_path / "script.py").write_text(f"def f(x): return x\n{SCRIPT}")
    out, err = session(tmp_path, ["-i", "-q", "script.py"], TYPED).communicate(timeout=60)
    assert out.endswith("[2, 3, 4]\n"), err


LONG = """
import durable_bus, os, subprocess, sys
secret = "k3y" * 100_000
def f(n):
    lines = [open(f"/proc/{pid}/cmdline").read() for pid in (os.getpid(), os.getppid())]
    return secret[:3], [("k3y" in line, len(line) < 4096) for line in lines]
print(list(durable_bus.map(f, [1], workers=1)))
"""


def test_what_it_uses_may_be_long_and_nobody_sees_it(tmp_path: Path) -> None:
    """Linux takes 128 KiB as an argument, and shows it to everybody."""
    out, err = session(tmp_path, ["-c"], LONG).communicate(timeout=60)
    assert out == "[('k3y', [(False, True), (False, True)])]\n", err


def test_what_cannot_be_sent_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    source = "import durable_bus, threading\nlock = threading.Lock()\ndef f(n): lock.acquire()\n"
    _, err = session(tmp_path, ["-c"], f"{source}durable_bus.map(f, [1])").communicate(timeout=60)
    assert "UsageError: no worker could import f, and it cannot be sent to them, as it uses lock: " in err
    assert not (tmp_path / "journal.db").exists()
