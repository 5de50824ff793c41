"""`gan-refine export RUN`: the refined generator of a run in the formats of other tools, with its model card."""

from pathlib import Path

import click

from gan_refine.cli.options import PATH, SETTINGS, trust_pickle_option
from gan_refine.errors import FileFormatError, OptionError
from gan_refine.files import require_writable

FORMATS = ("pkl", "safetensors", "onnx")


@click.command("export", context_settings=SETTINGS)
@click.argument("run", metavar="RUN", type=PATH)
@click.option(
    "--outdir", metavar="DIR", type=PATH, default=None, show_default="RUN/export", help="Where to write the files."
)
@click.option(
    "--formats",
    metavar="LIST",
    default="pkl,safetensors",
    help=f"A list of {', '.join(FORMATS)}; onnx needs the extra of that name and is checked against onnxruntime.",
)
@trust_pickle_option("Networks")
def export(run: str, outdir: str | None, formats: str, trust_pickle: bool) -> None:
    """Export the best pickle of a run folder as refined.pkl, .safetensors, .onnx, with a model card. Prints the files' names."""
    from gan_refine.run.export import export_run
    from gan_refine.run.records import read_run

    chosen = parse_formats(formats)
    record = read_run(Path(run))
    if not record.best_pickle.is_file():
        raise FileFormatError(f"{run} has no {record.best_pickle.name} yet; wait for the run's first evaluation")
    folder = Path(outdir) if outdir is not None else Path(run) / "export"
    require_writable("--outdir", folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in export_run(record, folder, chosen, trust_pickle):
        click.echo(path)


def parse_formats(text: str) -> list[str]:
    """The formats of a list. Raises OptionError."""
    chosen = text.split(",")
    if not set(chosen) <= set(FORMATS) or len(set(chosen)) < len(chosen):
        raise OptionError(f"--formats={text} is not understood; give a list of {', '.join(FORMATS)}, each once")
    return [ending for ending in FORMATS if ending in chosen]
