"""`gan-refine report RUN...`: report.html of each run, and one page that compares several."""

from pathlib import Path

import click

from gan_refine.cli.options import SETTINGS, trust_pickle_option
from gan_refine.errors import UserError
from gan_refine.run.page import write_comparison, write_report

COMPARISON = "comparison.html"


@click.command("report", context_settings=SETTINGS)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--out", metavar="FILE", default=COMPARISON, help="The page that compares several runs.")
@trust_pickle_option("Networks")
def report(runs: tuple[str, ...], out: str, trust_pickle: bool) -> None:
    """Make report.html of each run folder again, and of several runs also a page that compares them. Prints the pages' names.

    A page is one file without requests to anywhere, and works while its run goes on.
    """
    try:
        for run in runs:
            click.echo(write_report(Path(run), trust_pickle))
        if len(runs) > 1:
            click.echo(write_comparison([Path(run) for run in runs], Path(out)))
    except OSError as error:
        raise UserError(
            f"the page cannot be written ({error.strerror}); choose a folder that you may write to"
        ) from error
