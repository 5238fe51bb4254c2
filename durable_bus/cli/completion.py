"""`completion`: the script by which a shell completes commands, options, buffer ids and listeners."""

import click

COMPLETE_VARIABLE = "_DURABLE_BUS_COMPLETE"
"""Set by that script: then `durable-bus` only prints what the words so far may become."""


@click.command("completion")
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> int:
    """Print the script that completes durable-bus in SHELL: bash (4.4 or newer), zsh or fish.

    Commands and options are completed, and from the journal buffer ids and the names of listeners. For every
    new shell:

    \b
    eval "$(durable-bus completion bash)"  # in ~/.bashrc
    eval "$(durable-bus completion zsh)"   # in ~/.zshrc
    durable-bus completion fish | source   # in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from durable_bus.cli import commands

    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(commands, {}, "durable-bus", COMPLETE_VARIABLE).source())
    return 0
