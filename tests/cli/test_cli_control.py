"""The commands that steer a daemon, as somebody types them: what they print, and how they end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command, Ran, durable_bus
from services import Service, connected
from support import Facts, RunLog, environment, outcome, until

COMMANDS = [
    "cancel b",
    "pause b",
    "resume b",
    "retry b",
    "prune --older-than 1d",
    "send echo hello",
    "receive cli",
]


class Shell:
    """Runs `durable-bus` on one journal."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal

    def start(self, *arguments: str, **options: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            [sys.executable, "-m", "durable_bus", *arguments],
            env=environment(DURABLE_BUS_JOURNAL=str(self.journal)),
            text=True,
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **options,
            },
        )

    def run(self, *arguments: str) -> Ran:
        return durable_bus(*arguments, cwd=self.journal.parent, DURABLE_BUS_JOURNAL=str(self.journal))

    def says(self, *arguments: str) -> str:
        """What a command that succeeds prints."""
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return out


@pytest.fixture
def shell(journal: Path) -> Shell:
    return Shell(journal)


@pytest.fixture
def service(journal: Path) -> Iterator[Service]:
    with Service(journal) as service:
        yield service


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_daemon_each_says_how_to_start_one(shell: Shell, command: str) -> None:
    patience = ["--wait-daemon", "0"] if command.split()[0] in ("send", "receive") else []
    code, out, err = shell.run(*command.split(), *patience)
    assert (code, out) == (5, "")
    assert f"durable-bus serve APP --journal {shell.journal}" in err
    assert err.count("\n") == 1
    assert not shell.journal.exists()


@pytest.mark.slow
def test_submit_waits_for_a_daemon_that_is_not_there_yet(journal: Path, tmp_path: Path) -> None:
    items = tmp_path / "items"
    items.write_text("a\nb\n")
    early = Command(
        "submit", "echo", "--items", items, "--wait", "--wait-daemon", 60, "--journal", journal, cwd=tmp_path
    )
    assert early.process.stderr is not None
    assert b"nobody serves" in early.process.stderr.readline()
    with Service(journal):
        assert early.ended().code == 0
    assert Facts(journal).rows("SELECT state, successful FROM buffers") == [("complete", 2)]


@pytest.mark.parametrize("command", [command.split()[0] for command in [*COMMANDS, "top"]])
def test_each_explains_itself_with_an_example(shell: Shell, command: str) -> None:
    assert f"  durable-bus {command}" in shell.says(command, "--help")


def test_cancel_pause_and_resume_print_the_state(service: Service, shell: Shell, facts: Facts) -> None:
    with service.client() as client:
        client.start("sleep", ["0.01"] * 1000, buffer_id="b")
        assert shell.says("pause", "b") == "paused\n"
        assert json.loads(shell.says("pause", "b", "--json")) == {
            "buffer_id": "b",
            "state": "open",
            "paused": True,
        }
        assert facts.value("SELECT paused FROM buffers") == 1
        assert shell.says("resume", "b") == "open\n"
        assert json.loads(shell.says("resume", "b", "--json")) == {
            "buffer_id": "b",
            "state": "open",
            "paused": False,
        }
        assert shell.says("cancel", "b") == shell.says("cancel", "b") == "cancelled\n"
        assert json.loads(shell.says("cancel", "b", "--json"))["state"] == "cancelled"
        assert shell.says("pause", "b") == "cancelled\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["cancel", "pause", "resume", "retry"])
def test_a_buffer_that_is_not_there_is_exit_code_3(service: Service, shell: Shell, command: str) -> None:
    code, out, err = shell.run(command, "nothing")
    assert (code, out) == (3, "")
    assert err.startswith("durable-bus: no buffer 'nothing'")


def test_retry_prints_the_new_buffers_id(journal: Path, shell: Shell, facts: Facts) -> None:
    with Service(journal, "apps.unruly:bus") as service, service.client() as client:
        client.start("misbehave", ["raise", "good"], buffer_id="b").wait(60)
        assert shell.says("retry", "b") == "b.retry1\n"
        assert json.loads(shell.says("retry", "b", "--json")) == {"buffer_id": "b.retry1", "existed": True}
        assert client.buffer("b.retry1").wait(60).total == 1
        client.start("misbehave", ["good"], buffer_id="c").wait(60)
        code, _, err = shell.run("retry", "c")
        assert code == 2
        assert "every item has succeeded" in err


@pytest.mark.slow
def test_prune_says_how_many(service: Service, shell: Shell, facts: Facts) -> None:
    with service.client() as client:
        for number in range(3):
            client.start("echo", ["a"], buffer_id=f"b{number}").wait(60)
    assert shell.says("prune", "--older-than", "1h") == "0 buffers pruned\n"
    until(lambda: shell.says("prune", "--older-than", "0s", "--json"), "time has passed")
    facts.until("SELECT count(*) = 3 FROM buffers WHERE state = 'pruned'")
    assert json.loads(shell.says("prune", "--older-than", "0s", "--json")) == {"pruned": 0}
    code, _, err = shell.run("prune", "--older-than", "soon")
    assert code == 2
    assert "'soon' is no age such as 30d" in err


# Messages


def test_a_message_goes_to_a_listener_and_its_answer_comes_to_the_mailbox(
    service: Service, shell: Shell
) -> None:
    message_id = shell.says("send", "describe", "hello").strip()
    described = shell.says("receive", "cli", "--timeout", "60").strip().split("|")
    assert described[1:3] == ["cli", "describe"]
    assert described[4] == message_id
    assert shell.run("receive", "cli", "--timeout", "0.1")[0] == 6


@pytest.mark.slow
@pytest.mark.parametrize("timeout", ["1e12", "inf"])
def test_a_very_long_timeout_is_just_that(service: Service, shell: Shell, facts: Facts, timeout: str) -> None:
    receiving = shell.start("receive", "you", "--timeout", timeout)
    facts.until("SELECT count(*) = 1 FROM mailbox")
    with service.client("me") as client:
        client.send("you", "x")
    assert outcome(receiving) == (0, "x\n", "")
    with service.client() as client:
        client.pause(client.start("sleep", ["0"] * 20_000, buffer_id="b").buffer_id)
        waiting = shell.start("wait", "b", "--quiet", "--timeout", timeout)
        client.resume("b")
        assert outcome(waiting)[0] == 0


def test_a_timeout_below_zero_or_that_is_no_number_is_wrong_usage(shell: Shell) -> None:
    for command in (["receive", "you"], ["wait", "b"]):
        for timeout in ("-1", "-inf", "nan", "soon"):
            code, out, err = shell.run(*command, "--timeout", timeout)
            assert (code, out) == (2, "")
            assert err.startswith("durable-bus: Invalid value for '--timeout': ")
            assert err.count("\n") == 1


@pytest.mark.slow
def test_a_payload_comes_from_stdin_and_back_as_it_was(service: Service, shell: Shell) -> None:
    payload = "<a>é\n <b/></a>"
    sending = shell.start("send", "you", "-", "--name", "me", stdin=subprocess.PIPE)
    code, _, err = shell.run("receive", "you", "--timeout", "0.1")
    assert code == 6, err
    sending.communicate(payload)
    if sending.returncode != 0:  # it came before there was such a mailbox
        sending = shell.start("send", "you", "-", "--name", "me", "--json", stdin=subprocess.PIPE)
        assert json.loads(sending.communicate(payload)[0]).keys() == {"message_id"}
    told = json.loads(shell.says("receive", "you", "--timeout", "60", "--json"))
    assert (told["payload"], told["is_xml"], told["kind"], told["from_id"]) == (payload, True, "a", "me")


@pytest.mark.slow
def test_a_payload_that_looks_like_xml_and_is_not_is_wrong_usage(
    service: Service, shell: Shell, facts: Facts
) -> None:
    for payload in ("<a>", "<!DOCTYPE a><a/>"):
        code, out, err = shell.run("send", "echo", payload)
        assert (code, out) == (2, "")
        assert err.startswith("durable-bus: the message is not one XML element: ")
        assert err.count("\n") == 1
    assert facts.rows("SELECT * FROM messages") == []


@pytest.mark.slow
@pytest.mark.parametrize("io_encoding", ["utf-8:strict", "ascii:surrogateescape"])
def test_a_payload_from_stdin_is_utf_8_whatever_the_locale(
    service: Service, shell: Shell, facts: Facts, io_encoding: str
) -> None:
    with service.client("you"):
        pass

    def sent(data: bytes) -> tuple[int, str]:
        variables = environment(DURABLE_BUS_JOURNAL=str(shell.journal), PYTHONIOENCODING=io_encoding)
        command = [sys.executable, "-m", "durable_bus", "send", "you", "-"]
        done = subprocess.run(command, env=variables, input=data, capture_output=True, timeout=60)
        return done.returncode, done.stderr.decode()

    assert sent("hé\r\n".encode()) == (0, "")
    assert sent(b"h\xe9") == (2, "durable-bus: stdin is not UTF-8: byte 2\n")
    code, err = sent(b"x" * (8 * 1024 * 1024 + 1))
    assert (code, err) == (2, "durable-bus: stdin is over the limit of 8388608 bytes a payload\n")
    assert facts.rows("SELECT payload FROM messages") == [("hé\r\n",)]


@pytest.mark.slow
def test_without_stdin_or_stdout_a_message_is_neither_sent_nor_taken(
    service: Service, shell: Shell, facts: Facts
) -> None:
    """An acknowledgement would say that it was printed."""
    with service.client("you"), service.client("me") as client:
        client.send("you", "hello")

    def closed(how: str, *arguments: str) -> tuple[int, str]:
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, "-m", "durable_bus", *arguments],
            env=environment(DURABLE_BUS_JOURNAL=str(shell.journal)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        code, _, err = outcome(process)
        return code, err

    assert closed(">&-", "receive", "you") == (5, "durable-bus: cannot write to stdout: it is closed\n")
    assert closed("<&-", "send", "you", "-") == (2, "durable-bus: cannot read stdin: it is closed\n")
    assert shell.says("receive", "you") == "hello\n"
    assert facts.rows("SELECT state FROM messages") == [("settled",)]


@pytest.mark.slow
def test_an_unknown_name_is_refused(service: Service, shell: Shell) -> None:
    for command in (
        ["send", "nobody", "x"],
        ["receive", "echo"],
        ["receive", "system.x"],
        ["receive", "a b"],
    ):
        code, out, err = shell.run(*command)
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1


@pytest.mark.slow
def test_a_message_whose_printing_failed_comes_again(
    journal: Path, service: Service, shell: Shell, facts: Facts
) -> None:
    """Nobody reads the pipe any more; the disk behind stdout is full; it is killed while it waits for the
    pipe.
    """
    with service.client("me") as client:
        with service.client("you"):
            pass
        client.send("you", "x" * 200_000)
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    broken = shell.start("receive", "you", stdout=write_fd)
    os.close(write_fd)
    assert outcome(broken)[0] == 141
    with open("/dev/full", "wb") as full:
        code, _, err = outcome(shell.start("receive", "you", stdout=full))
    assert code == 5
    assert err.count("\n") == 1
    blocked = shell.start("receive", "you")
    facts.until("SELECT state = 'delivered' FROM messages WHERE to_id = 'you'")
    blocked.kill()
    outcome(blocked)
    facts.until("SELECT state = 'waiting' FROM messages WHERE to_id = 'you'")
    assert shell.says("receive", "you") == "x" * 200_000 + "\n"
    assert facts.value("SELECT state FROM messages WHERE to_id = 'you'") == "settled"


@pytest.mark.slow
def test_ctrl_c_ends_a_receive_and_takes_nothing_along(service: Service, shell: Shell, facts: Facts) -> None:
    receiving = shell.start("receive", "cli")
    facts.until("SELECT count(*) = 1 FROM mailbox")
    receiving.send_signal(signal.SIGINT)
    code, out, err = outcome(receiving)
    assert (code, out, err) == (4, "", "durable-bus: interrupted\n")
    with connected(shell.journal, "other") as client:
        client.send("cli", "hello")
    assert shell.says("receive", "cli") == "hello\n"


# The others of a daemon


@pytest.mark.slow
def test_submit_wait_and_results_work_while_a_daemon_serves_and_after(
    journal: Path, shell: Shell, run_log: RunLog, tmp_path: Path
) -> None:
    (tmp_path / "items").write_text("a\nb\n")
    with Service(journal):
        assert shell.says("submit", "echo", "--items", str(tmp_path / "items"), "--buffer-id", "b") == "b\n"
        assert shell.says("submit", "echo", "--items", str(tmp_path / "items"), "--buffer-id", "b") == "b\n"
        assert json.loads(shell.says("wait", "b", "--json"))["successful"] == 2
    assert shell.says("wait", "b") == ""
    lines = [
        json.loads(line)["payload"] for line in shell.says("results", "b", "--format", "jsonl").splitlines()
    ]
    assert lines == ["a", "b"]
    assert run_log.times() == {0: 1, 1: 1}
