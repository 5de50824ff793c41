"""How every command of the project ends: user errors in one line with exit code 2, an interruption with 130, lost peers with 1."""

import sys

import click

from gan_refine.errors import UserError
from gan_refine.foundation import distributed


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
    except distributed.PeerLostError as error:
        return _complain(str(error), code=1)
    return 0


def _complain(message: str, code: int = 2) -> int:
    where = "" if distributed.is_rank0() else f" (process {distributed.get_rank()})"
    print(f"error{where}: " + " ".join(message.split()), file=sys.stderr)
    return code
