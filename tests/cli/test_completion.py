"""`completion`: a real bash completes commands, options, buffer ids and listeners."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from command_line import durable_bus, write_items
from support import environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `durable-bus` as a command, and a journal with two buffers of an app."""
    tmp_path = tmp_path_factory.mktemp("completion")
    command = tmp_path / "bin" / "durable-bus"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m durable_bus "$@"\n')
    command.chmod(0o755)
    items = write_items(tmp_path, "x")
    for buffer_id in ("monday", "tuesday"):
        arguments = ("run", "apps.plain:bus", "echo", "--items", items, "--buffer-id", buffer_id, "--quiet")
        assert durable_bus(*arguments, cwd=tmp_path).code == 0
    return tmp_path


def completed(folder: Path, *words: str, cwd: Path | None = None) -> list[str]:
    """What bash offers for the last word."""
    script = """
    eval "$(durable-bus completion bash)" || exit
    COMP_WORDS=(durable-bus "$@") COMP_CWORD=$#
    $(complete -p durable-bus | sed 's/.*-F \\([^ ]*\\) .*/\\1/') durable-bus
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words],
        cwd=cwd or folder,
        env=environment(PATH=f"{folder / 'bin'}:{sysconfig.get_path('scripts')}:/usr/bin:/bin"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_commands_and_options(folder: Path) -> None:
    assert completed(folder, "re") == ["results", "resume", "retry", "receive", "replay"]
    assert completed(folder, "replay", "re") == ["rerun"]
    assert "--timeout" in completed(folder, "wait", "--")
    assert completed(folder, "results", "--format", "j") == ["jsonl"]


@pytest.mark.slow
def test_bash_completes_buffer_ids_and_listeners_from_the_journal(folder: Path) -> None:
    assert completed(folder, "wait", "") == ["tuesday", "monday"]
    assert completed(folder, "results", "m") == ["monday"]
    assert completed(folder, "replay", "emit", "t") == ["tuesday"]
    assert completed(folder, "submit", "ec") == ["echo"]
    assert completed(folder, "send", "ec") == ["echo"]


@pytest.mark.slow
def test_the_journal_that_is_named_is_asked_and_one_that_is_not_there_offers_nothing(
    folder: Path, tmp_path: Path
) -> None:
    assert completed(folder, "wait", "", cwd=tmp_path) == []
    assert completed(folder, "wait", "--journal", str(folder / "journal.db"), "m", cwd=tmp_path) == ["monday"]
    assert completed(folder, "submit", "--journal", "none.db", "", cwd=tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_for_this_command(tmp_path: Path, shell: str) -> None:
    ran = durable_bus("completion", shell, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert f"_DURABLE_BUS_COMPLETE={shell}_complete" in ran.out
    assert durable_bus("completion", "cmd", cwd=tmp_path).code == 2
