"""`unit` prints a systemd unit that serves the journal as `serve` would be told here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import durable_bus
from support import Facts, environment, until

from durable_bus.cli.unit import unit_text

pytestmark = pytest.mark.real_start

STRANGE = "a b%h $x \"q' \\y"
COMMAND = [sys.executable, "-P", "-m", "durable_bus", "serve"]


def said(unit: str, name: str) -> list[str]:
    """The values of a setting."""
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


def words(unit: str) -> list[str]:
    """The command that it starts, as systemd splits it."""
    (line,) = said(unit, "ExecStart")
    found = re.findall(r'"((?:\\.|[^"\\])*)"|(\S+)', line)
    plain = [re.sub(r"\\(.)", r"\1", quoted) or bare for quoted, bare in found]
    return [word.replace("%%", "%").replace("$$", "$") for word in plain]


def unit_of(folder: Path, *arguments: object) -> str:
    ran = durable_bus("unit", *arguments, cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def test_it_starts_this_python_with_absolute_paths_and_what_was_said(tmp_path: Path) -> None:
    unit = unit_of(tmp_path, "audit:bus", "--workers", 3, "--retain", "2d", "--socket", "s", "--grace", 2.5)
    assert words(unit) == [
        *COMMAND,
        "audit:bus",
        *("--journal", str(tmp_path / "journal.db")),
        *("--workers", "3"),
        *("--socket", str(tmp_path / "s")),
        *("--grace", "2.5"),
        *("--retain", "172800s"),
    ]
    assert said(unit, "WorkingDirectory") == [str(tmp_path)]
    assert said(unit, "RequiresMountsFor") == [str(tmp_path)]


def test_what_serve_promises_is_what_systemd_is_told(tmp_path: Path) -> None:
    unit = unit_of(tmp_path, "audit:bus")
    for name, value in {
        "Type": "notify",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",
        "KillMode": "mixed",
        "ExecReload": "/bin/kill -HUP $MAINPID",
        "WatchdogSec": "60",
        "OOMPolicy": "continue",
    }.items():
        assert said(unit, name) == [value]


@pytest.mark.parametrize(("grace", "stop"), [("0", "15"), ("2.5", "18"), ("600", "615"), ("inf", "infinity")])
def test_systemd_waits_for_longer_than_a_stop_does(tmp_path: Path, grace: str, stop: str) -> None:
    assert said(unit_of(tmp_path, "audit:bus", "--grace", grace), "TimeoutStopSec") == [stop]


def test_every_setting_of_the_service_has_a_comment_before_it(tmp_path: Path) -> None:
    service = unit_of(tmp_path, "audit:bus").partition("[Service]\n")[2].partition("[Install]")[0]
    blocks = re.findall(r"((?:#.*\n)+)((?:[^#\n].*\n)+)", service)
    assert sum(settings.count("\n") for _, settings in blocks) == len(re.findall(r"^\w", service, re.M))
    assert max(settings.count("\n") for _, settings in blocks) <= 3


def test_a_file_of_options_is_named_and_what_it_says_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "serve.toml").write_text('app = "a:bus"\njournal = "j.db"\nworkers = 2\ngrace = 30')
    unit = unit_of(tmp_path, "--config", "conf/serve.toml", "--durability", "normal")
    config = str(tmp_path / "conf" / "serve.toml")
    assert words(unit) == [*COMMAND, "--config", config, "--durability", "normal"]
    assert said(unit, "Description") == ["durable_bus serves a:bus"]
    assert said(unit, "TimeoutStopSec") == ["45"]
    assert said(unit, "RequiresMountsFor") == [str(tmp_path / "conf")]


def test_a_journal_that_only_a_variable_names_is_in_the_unit(tmp_path: Path) -> None:
    ran = durable_bus("unit", "audit:bus", cwd=tmp_path, DURABLE_BUS_JOURNAL="of-a-variable.db")
    assert words(ran.out)[-2:] == ["--journal", str(tmp_path / "of-a-variable.db")]


def test_what_serve_would_refuse_is_refused(tmp_path: Path) -> None:
    for arguments in (
        ["audit"],
        [],
        ["a:bus", "--engine", "process:2", "--workers", 2],
        ["a:bus", "--grace", "x"],
    ):
        ran = durable_bus("unit", *arguments, cwd=tmp_path)
        assert (ran.code, ran.out) == (2, "")
        assert ran.error


def test_spaces_quotes_percents_and_dollars_of_paths_are_written_as_systemd_reads_them(
    tmp_path: Path,
) -> None:
    folder = tmp_path / STRANGE
    folder.mkdir()
    unit = unit_of(folder, "audit:bus")
    assert words(unit)[-1] == str(folder / "journal.db")
    assert "%%h $$x" in said(unit, "ExecStart")[0]
    assert said(unit, "WorkingDirectory") == [str(folder).replace("%", "%%")]


@pytest.mark.parametrize("name", ["two\nlines", "ends in a space ", "ends in a backslash\\"])
def test_a_folder_that_cannot_stand_in_a_unit_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    ran = durable_bus("unit", "audit:bus", cwd=folder)
    assert (ran.code, ran.out) == (2, "")
    assert "cannot stand in a systemd unit" in ran.error


def test_a_journal_in_the_systems_folders_can_be_written(tmp_path: Path) -> None:
    assert said(unit_text(COMMAND, "a:bus", 10.0, "/srv/j.db"), "ProtectSystem") == ["full"]
    assert said(unit_text(COMMAND, "a:bus", 10.0, "/usr/local/j.db"), "ProtectSystem") == []


def test_systemd_finds_nothing_wrong_and_reads_the_paths_as_they_are(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here: what systemd says of the unit was not looked at")
    folder = tmp_path / STRANGE
    folder.mkdir()
    (tmp_path / "bus.service").write_text(unit_of(folder, "audit:bus", "--grace", 7))
    verify = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "bus.service")]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    loud = {**os.environ, "SYSTEMD_LOG_LEVEL": "debug"}
    dumped = subprocess.run(verify, capture_output=True, text=True, check=True, env=loud).stdout
    assert f"WorkingDirectory: {folder}\n" in dumped
    assert f"RequiresMountsFor: {folder} " in dumped
    # `$$` becomes `$` when the command is run; the dump escapes each for a shell.
    command = shlex.split(re.findall(r"Command Line: (.* serve .*)", dumped)[0])
    read = [word.replace("\\$", "$").replace("$$", "$") for word in command]
    assert read[6:8] == ["--journal", str(folder / "journal.db")]


@pytest.mark.slow
def test_the_command_of_the_unit_serves_the_journal(tmp_path: Path) -> None:
    unit = unit_of(tmp_path, "apps.plain:bus", "--workers", 1, "--journal", "a journal.db")
    facts = Facts(tmp_path / "a journal.db")
    with subprocess.Popen(words(unit), cwd="/", env=environment(), stderr=subprocess.PIPE) as process:
        until(
            lambda: (tmp_path / "a journal.db").exists() and facts.value("SELECT pid FROM runs"), "it serves"
        )
        assert facts.value("SELECT pid FROM runs") == process.pid
        process.terminate()
        assert process.wait(60) == 0
