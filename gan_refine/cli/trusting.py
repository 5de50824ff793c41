"""--trust-pickle: which files may run, and the warning before one does."""

from pathlib import Path

import click

from gan_refine import assets
from gan_refine.errors import OptionError
from gan_refine.pickles import is_state_dict

TRUSTED = "trusted"  # the name in GENERATORS and TEACHERS of what runs a file's own code

trust_pickle_option = click.option(
    "--trust-pickle",
    is_flag=True,
    help="RUN the programs inside pickles given by path or URL. Only for files of networks that are not known here, "
    "from people you would let use your account.",
)


def family(default: str, text: str, path: Path, trust: bool) -> str:
    """The name in GENERATORS or TEACHERS of what opens `path`, which the user called `text`: `default` unless it is trusted.

    Embedded and public names, and files that hold data alone, are read without running anything even then. Warns on
    standard error before a file runs. Raises OptionError for one that came over an unprotected connection.
    """
    named = text in assets.catalog() or text in assets.public_files()
    if not trust or named or is_state_dict(path):
        return default
    if text.lower().startswith("http:"):
        raise OptionError(f"{text} came over http, where anyone could change it; --trust-pickle takes https and paths")
    click.echo(warning(path), err=True)
    return TRUSTED


def warning(path: Path) -> str:
    """What trusting means, for this file."""
    return (
        f"WARNING: --trust-pickle RUNS THE PROGRAM INSIDE {path}\n"
        "WARNING: with all your rights: it can read, change, delete and send whatever you can, now and later.\n"
        f"WARNING: Its SHA-256 is {assets.sha256(path)}; compare it with what its author published."
    )
