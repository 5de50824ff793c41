"""`gan-refine report RUN...`: report.html of each run, and one page that compares several."""

from pathlib import Path

import click

from gan_refine.cli.options import PATH, SETTINGS, trust_pickle_option
from gan_refine.errors import OptionError, UserError
from gan_refine.files import require_writable

COMPARISON = "comparison.html"


@click.command("report", context_settings=SETTINGS)
@click.argument("runs", metavar="RUN...", type=PATH, nargs=-1, required=True)
@click.option(
    "--out",
    metavar="FILE",
    type=PATH,
    default=None,
    show_default=COMPARISON,
    help="The page that compares several runs.",
)
@trust_pickle_option("Networks")
def report(runs: tuple[str, ...], out: str | None, trust_pickle: bool) -> None:
    """Make report.html of each run folder again, and of several runs also a page that compares them. Prints the pages' names.

    A page is one file without requests to anywhere, and works while its run goes on.
    """
    from gan_refine.run.page import write_comparison, write_report

    folders = [Path(run) for run in runs]
    if out is not None and len(runs) == 1:
        raise OptionError(f"--out={out} is the page of several runs; give more than one run, or leave it out")
    page = Path(out or COMPARISON)
    if len(runs) > 1:
        require_writable("--out", page.parent)
        if page.is_dir():
            raise OptionError(f"--out={page} is a folder; give the name of a file")
    try:
        pages = [write_report(folder, trust_pickle) for folder in folders]
        if len(runs) > 1:
            pages.append(write_comparison(folders, page))
    except OSError as error:
        raise UserError(
            f"the page cannot be written ({error.strerror}); choose a folder that you may write to"
        ) from error
    for written in pages:
        click.echo(written)
