"""`gan-refine export RUN`: the refined generator of a run in the formats of other tools, with its model card."""

from pathlib import Path

import click

from gan_refine import assets
from gan_refine.cli.options import PATH, SETTINGS, trust_pickle_option
from gan_refine.errors import FileFormatError, MismatchError, OptionError
from gan_refine.files import atomic_file, copy_atomic, require_writable
from gan_refine.generators.onnx_file import write_onnx
from gan_refine.pickles import write_state_dict
from gan_refine.run.model_card import model_card
from gan_refine.run.networks import open_gan
from gan_refine.run.records import RunRecord, read_run

FORMATS = ("pkl", "safetensors", "onnx")
CARD = "MODEL_CARD.md"


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
    return chosen


def export_run(record: RunRecord, folder: Path, formats: list[str], trust: bool = False) -> list[Path]:
    """Writes the files and then the card, each atomically; returns their paths. Raises UserError."""
    generator = open_gan(str(record.best_pickle), trust=trust).generator
    written: list[Path] = []
    for ending in FORMATS:
        path = folder / f"refined.{ending}"
        if ending not in formats:
            continue
        if ending == "pkl":
            copy_atomic(record.best_pickle, path)
        elif ending == "safetensors":
            if generator.family == "trusted":
                raise MismatchError("a state dict is written of known networks only; give --formats=pkl")
            write_state_dict(path, generator.net)
            written.append(path.with_suffix(".json"))
        else:
            difference = write_onnx(generator, path)
            click.echo(f"onnxruntime's images differ from torch's by at most {difference:.1g}.", err=True)
        written.append(path)
    digests = {path.name: assets.sha256(path) for path in sorted(written)}
    card = folder / CARD
    with atomic_file(card) as stream:
        stream.write(model_card(record, generator.spec, digests).encode())
    return [*sorted(written), card]
