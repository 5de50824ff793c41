"""`python -m gan_refine inspect FILE`: what is in a network file, without running anything in it."""

from pathlib import Path

import click

from gan_refine.cli.options import PATH


@click.command("inspect")
@click.argument("file", metavar="FILE", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def inspect_file(file: str, as_json: bool) -> None:
    """Show what is in a network pickle or state dict: networks, arguments, sizes, sources, and names that are unknown here.

    Nothing in FILE is run and no network is built, so it may come from anywhere. The exit code is 0 even if the file is not
    safe to open; the text says so.
    """
    from gan_refine.assets import refuse_name
    from gan_refine.run.inspect import description

    refuse_name(file)
    print(description(Path(file), as_json))
