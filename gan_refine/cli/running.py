"""How every command of the project ends: user errors in one line with exit code 2, an interruption with 130."""

import sys

import click

from gan_refine.errors import UserError


def run_command(command: click.Command) -> int:
    """Runs `command` on the process's arguments; returns the exit code. Only bugs end in a traceback."""
    try:
        command(standalone_mode=False)
    except UserError as error:
        return _complain(str(error))
    except click.ClickException as error:
        return _complain(error.format_message())
    except (click.exceptions.Abort, KeyboardInterrupt):
        return 130
    return 0


def _complain(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2
