"""The command `gan-refine COMMAND`, also `python -m gan_refine COMMAND`: one file per command.

What needs torch is imported when a command runs, so that --help is quick.
"""

import sys

from gan_refine.cli.process import prepare_process

prepare_process()  # before anything imports torch, whose thread pool reads its settings once

import click

from gan_refine.cli.convert import convert
from gan_refine.cli.doctor import doctor
from gan_refine.cli.evaluate import evaluate
from gan_refine.cli.export import export
from gan_refine.cli.generate import generate
from gan_refine.cli.inspect import inspect_file
from gan_refine.cli.main import run_command
from gan_refine.cli.refine import refine
from gan_refine.cli.report import report
from gan_refine.version import VERSION

COMMANDS: list[click.Command] = [refine, evaluate, generate, inspect_file, convert, export, report, doctor]

__all__ = ["COMMANDS", "cli", "main", "run_command"]


class OrderedGroup(click.Group):
    """A group that lists its commands in the order of COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [str(command.name) for command in COMMANDS]


@click.group(
    cls=OrderedGroup, commands={str(command.name): command for command in COMMANDS}, invoke_without_command=True
)
@click.version_option(VERSION, prog_name="gan-refine")
@click.pass_context
def cli(context: click.Context) -> None:
    """Refine GAN generators with diffusion teachers. Results go to standard output, progress to standard error."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Runs the command named on the command line and exits with its code."""
    sys.exit(run_command(cli))
