"""`serve --config FILE`: the file says what the command line would, and what does not fit is refused."""

import json
import signal
from pathlib import Path

import click
import pytest
from command_line import Command, durable_bus
from support import Facts, until

from durable_bus.cli.serve import daemon_config, serve_command
from durable_bus.errors import UsageError
from durable_bus.supervisor.process import DaemonConfig

ALL = """
app = "apps.plain:bus"
journal = "data/journal.db"
workers = 3
durability = "normal"
socket = "bus.sock"
grace = 2
log-format = "json"
max-items-per-worker = 7
retain = "30d"
"""


def parsed(*arguments: str) -> DaemonConfig:
    """What `serve` would run."""
    context = serve_command.make_context("serve", [*arguments])
    return daemon_config(**context.params)


def written(folder: Path, text: str) -> str:
    path = folder / "serve.toml"
    path.write_text(text)
    return str(path)


def test_every_option_may_stand_in_the_file_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    config = parsed("--config", written(tmp_path, ALL))
    assert (config.app_name, config.workers, config.durability) == ("apps.plain:bus", 3, "normal")
    assert (config.journal, config.socket) == (tmp_path / "data" / "journal.db", tmp_path / "bus.sock")
    assert (config.grace_s, config.log_format) == (2.0, "json")
    assert (config.items_per_worker_max, config.retain_ms) == (7, 30 * 86_400_000)
    engine = parsed("a:bus", "--config", written(tmp_path, 'engine = "process:2"\nengine-workers = 5')).engine
    assert engine is not None
    assert (engine.name, engine.places) == ("process:2", 5)


def test_all_of_the_options_of_serve_are_tried_here() -> None:
    options = {max(one.opts, key=len).removeprefix("--") for one in serve_command.params}
    tried = {line.partition(" = ")[0] for line in ALL.split("\n") if line}
    assert options - {"config", "engine", "engine-workers"} == tried


def test_the_command_line_and_then_variables_go_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ALL)
    config = parsed("other:bus", "--workers", "1", "--config", path, "--grace", "10", "--journal", "j.db")
    assert (config.app_name, config.workers, config.grace_s) == ("other:bus", 1, 10.0)
    assert config.journal == Path("j.db")  # of the command line: of the current folder
    assert config.log_format == "json"
    monkeypatch.setenv("DURABLE_BUS_JOURNAL", "of-a-variable.db")
    assert parsed("--config", path).journal == Path("of-a-variable.db")


@pytest.mark.parametrize(
    ("line", "key", "why"),
    [
        ("wrokers = 2", "wrokers", "unknown key"),
        ("max_items_per_worker = 2", "max_items_per_worker", "unknown key"),
        ("[serve]\nworkers = 2", "serve", "unknown key"),
        ("config = 'other.toml'", "config", "unknown key"),
        ("workers = '2'", "workers", "a whole number is wanted"),
        ("workers = 2.0", "workers", "a whole number is wanted"),
        ("workers = true", "workers", "a whole number is wanted"),
        ("workers = 0", "workers", "0 is not in the range"),
        ("grace = '10'", "grace", "a number is wanted"),
        ("grace = nan", "grace", "no number of seconds"),
        ("grace = -1", "grace", "-1.0 is not in the range"),
        ("retain = 30", "retain", "a text is wanted"),
        ("retain = '30 days'", "retain", "no age such as 30d"),
        ("durability = 'none'", "durability", "'none' is not one of"),
        ("journal = ['a', 'b']", "journal", "a text is wanted"),
        ("app = 7", "app", "a text is wanted"),
    ],
)
def test_what_does_not_fit_is_refused_and_key_and_file_are_named(
    tmp_path: Path, line: str, key: str, why: str
) -> None:
    path = written(tmp_path, line)
    with pytest.raises(UsageError) as refused:
        parsed("apps.plain:bus", "--config", path)
    message = str(refused.value)
    assert message.startswith(path)
    assert key in message
    assert why in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("workers = ")
    (tmp_path / "latin.toml").write_bytes(b"app = '\xe9'")
    for name, why in (
        ("none.toml", "No such file"),
        ("broken.toml", "Invalid value"),
        ("latin.toml", "utf-8"),
    ):
        ran = durable_bus("serve", "--config", name, cwd=tmp_path)
        assert (ran.code, ran.out) == (2, "")
        assert name in ran.error
        assert why in ran.error


def test_without_an_app_it_is_said_where_one_may_stand(tmp_path: Path) -> None:
    ran = durable_bus("serve", "--config", written(tmp_path, "workers = 1"), cwd=tmp_path)
    assert ran.code == 2
    assert "APP" in ran.error
    assert "app = " in ran.error


def test_the_help_says_what_paths_are_relative_to_and_that_a_reload_does_not_read_it_again() -> None:
    said = " ".join(serve_command.get_help(click.Context(serve_command)).split())
    assert "Paths in it are relative to the file" in said
    assert "SIGHUP does not read it again" in said


@pytest.mark.slow
def test_a_daemon_is_served_from_a_file_of_another_folder(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    path = written(folder, 'app = "apps.plain:bus"\njournal = "j.db"\nworkers = 1\nlog-format = "json"')
    command = Command("serve", "--config", path, cwd=tmp_path)
    facts = Facts(folder / "j.db")
    until(lambda: (folder / "j.db").exists() and facts.value("SELECT count(*) FROM runs"), "it serves")
    command.process.send_signal(signal.SIGTERM)
    ended = command.ended()
    assert ended.code == 0
    assert {json.loads(line)["event"] for line in ended.err.splitlines()} >= {"run started", "stopped"}
