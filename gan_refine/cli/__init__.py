"""The companions of run_refine.py: `python -m gan_refine COMMAND`, one file a command."""

import sys

import click

from gan_refine.cli.convert import convert
from gan_refine.cli.evaluate import evaluate
from gan_refine.cli.generate import generate
from gan_refine.cli.inspect import inspect_file
from gan_refine.cli.running import run_command

COMMANDS: list[click.Command] = [convert, evaluate, generate, inspect_file]


@click.group(commands={str(command.name): command for command in COMMANDS}, invoke_without_command=True)
@click.pass_context
def cli(context: click.Context) -> None:
    """Companions of run_refine.py. Results go to standard output, everything else to standard error."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Runs the command named on the command line and exits with its code."""
    sys.exit(run_command(cli))
