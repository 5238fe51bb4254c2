"""`unit`: a systemd unit that serves a journal as `serve` would here and now. Each line of it says why."""

from __future__ import annotations

import math
import os
import pwd
import re
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from durable_bus import __version__
from durable_bus.cli.options import AGE
from durable_bus.cli.serve import daemon_config, serve_options
from durable_bus.errors import UsageError

_STOP_S = 15
"""Beyond --grace: an engine takes leave for 3 s, a checkpoint waits for readers, and a disk may be slow."""
_FOLDERS_OF_SYSTEM = ("/usr", "/boot", "/efi", "/etc")
_PLAIN = re.compile(r"[\w@+=:,./-]+", re.ASCII).fullmatch


@click.command("unit")
@serve_options
@click.pass_context
def unit_command(context: click.Context, /, **options: Any) -> int:
    """Print a systemd unit that serves the journal for APP. The options are those of serve.

    It runs this Python, in this folder, as this user, with absolute paths. Its comments say why each line is
    there.

    \b
    durable-bus unit audit:bus --journal audit.db > audit.service
    sudo cp audit.service /etc/systemd/system/ && sudo systemctl daemon-reload
    sudo systemctl enable --now audit
    """
    config = daemon_config(**options)  # what serve would refuse is refused now
    journal = os.path.abspath(config.journal)
    click.echo(unit_text(_command(context, journal), config.app_name, config.grace_s, journal), nl=False)
    return 0


def _command(context: click.Context, journal: str) -> list[str]:
    """What starts the daemon: what was said here. What only the file of --config says is left to the file."""
    # -P: the current folder would come before Python's own modules. The app's come from there all the same.
    command = [sys.executable, "-P", "-m", "durable_bus", "serve"]
    for parameter in context.command.params:
        assert parameter.name is not None
        source = context.get_parameter_source(parameter.name)
        value = context.params[parameter.name]
        if parameter.name == "journal" and source is ParameterSource.DEFAULT:
            source, value = ParameterSource.COMMANDLINE, journal  # so that nobody has to know the default
        if source not in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT) or value is None:
            continue
        if isinstance(parameter, click.Option):
            command.append(max(parameter.opts, key=len))
        if isinstance(value, Path):
            value = os.path.abspath(value)
        elif parameter.type is AGE:
            value = f"{value // 1000}s"
        command.append(str(value))
    return command


def unit_text(command: list[str], app_name: str, grace_s: float, journal: str) -> str:
    """The unit. Raises UsageError when a path cannot stand in one."""
    folder, journals = os.getcwd(), os.path.dirname(journal)
    stop = "infinity" if math.isinf(grace_s) else math.ceil(grace_s) + _STOP_S
    start = " ".join([_quoted(command[0]), *(_quoted(word).replace("$", "$$") for word in command[1:])])
    protect = """\
# Nobody but packages writes to /usr, /boot and /etc.
ProtectSystem=full
"""
    if any(Path(used).is_relative_to(top) for used in (journals, folder) for top in _FOLDERS_OF_SYSTEM):
        protect = ""
    return f"""\
# Written by `durable-bus unit`, version {__version__}. As a service of a user (systemctl --user), leave out
# User= and the lines from NoNewPrivileges= on, and say WantedBy=default.target.

[Unit]
Description=durable_bus serves {_as_text(app_name)}
# Ten failed starts in five minutes: what is wrong does not pass by itself, such as a damaged journal.
StartLimitIntervalSec=300
StartLimitBurst=10
# The disk of the journal is there before it.
RequiresMountsFor={_quoted(journals)}

[Service]
# It says READY=1 when clients can connect, and is started only then.
Type=notify
NotifyAccess=main
# A journal's files belong to the one user who serves it.
User={_user()}
# Modules of this folder can be imported, as where this unit was made.
WorkingDirectory={_as_text(folder)}
{_environment()}ExecStart={start}
# A start takes in what a crash has left in the log, however long that is.
TimeoutStartSec=10min
# New workers load the new code; what runs is finished by the old ones.
ExecReload=/bin/kill -HUP $MAINPID
# Whatever ends it, the next start goes on where it was.
Restart=on-failure
RestartSec=2
# Wrong options, or an app or engine by a wrong name: a restart cannot help. 5 (journal or storage) is not
# here: a disk has failed, or another process has the journal still, and that may pass.
RestartPreventExitStatus=2
# SIGTERM to the supervisor alone: it lets its workers finish. What is left when it has ended is killed, also
# what handlers have started.
KillMode=mixed
# More than --grace, after which a stop waits for nothing more.
TimeoutStopSec={stop}
# Its loop says twice in this time that it turns. A turn takes milliseconds, on a disk that stalls seconds.
WatchdogSec=60
# A worker that takes too much memory costs its own item. The default would end the daemon with it.
OOMPolicy=continue
SyslogIdentifier=durable-bus
# From here on: what handlers hardly need. Not here, as it would break some: PrivateTmp, ProtectHome,
# PrivateDevices and ProtectClock (GPUs), MemoryDenyWriteExecute (compilers), RestrictNamespaces (browsers).
# No sudo, and no other program that changes its user. If handlers call one, leave these two out.
NoNewPrivileges=yes
RestrictSUIDSGID=yes
{protect}# Settings and modules of the kernel, and other services' resources.
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes

[Install]
WantedBy=multi-user.target
"""


def _environment() -> str:
    """PYTHONPATH with absolute paths, where it is set."""
    python_path = os.environ.get("PYTHONPATH")
    if not python_path:
        return ""
    folders = os.pathsep.join(os.path.abspath(one) for one in python_path.split(os.pathsep) if one)
    return f"""\
# As it is set in this shell: handlers are found by it.
Environment={_quoted(f"PYTHONPATH={folders}")}
"""


def _user() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _as_text(text: str) -> str:
    """Where systemd takes the rest of a line as it is, but for `%`."""
    if not text.isprintable() or text != text.strip() or text.endswith("\\"):
        raise UsageError(f"{text!r} cannot stand in a systemd unit")
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """A word of a command or a list: quotes keep spaces together, `%` and backslashes are doubled."""
    if _PLAIN(word):
        return word
    if not word.isprintable():
        raise UsageError(f"{word!r} cannot stand in a systemd unit")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
