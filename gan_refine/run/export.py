"""What `gan-refine export` writes: the refined generator of a run in the formats of other tools, with its model card."""

import re
from pathlib import Path

import click

from gan_refine import assets
from gan_refine.errors import MismatchError
from gan_refine.files import atomic_file, copy_atomic
from gan_refine.generators.onnx_file import write_onnx
from gan_refine.pickles import write_state_dict
from gan_refine.run.model_card import model_card
from gan_refine.run.networks import open_gan
from gan_refine.run.records import RunRecord

CARD = "MODEL_CARD.md"
# A line of a card for a file and its SHA-256.
LISTED = re.compile(r"^\| `(refined\.(?:pkl|json|safetensors|onnx))` \| `([0-9a-f]{64})` \|$", re.MULTILINE)


def export_run(record: RunRecord, folder: Path, formats: list[str], trust: bool = False) -> list[Path]:
    """Writes the files and then the card, each atomically; returns their paths. Raises UserError."""
    generator = open_gan(str(record.best_pickle), trust=trust).generator
    written: list[Path] = []
    for ending in formats:
        path = folder / f"refined.{ending}"
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
    _remove_former(card, set(digests))
    with atomic_file(card) as stream:
        stream.write(model_card(record, generator.spec, digests).encode())
    return [*sorted(written), card]


def _remove_former(card: Path, written: set[str]) -> None:
    """Removes what the former export, whose card this is, wrote and this one did not; a file that was changed since stays."""
    listed = dict(LISTED.findall(card.read_text(errors="replace"))) if card.is_file() else {}
    for name, digest in listed.items():
        path = card.with_name(name)
        if name in written or not path.is_file():
            continue
        if assets.sha256(path) == digest:
            path.unlink()
            click.echo(f"{path}, which a former export wrote, was removed: it is not of this one.", err=True)
        else:
            click.echo(f"{path} is not of this export and was changed since a former one: it stays.", err=True)
