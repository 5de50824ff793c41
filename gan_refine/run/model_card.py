"""The model card of a refined generator, in Markdown: origin, digests, licences, figures, options, limits."""

from dataclasses import replace

from gan_refine import assets
from gan_refine.config import parse_spec
from gan_refine.interfaces import ImageSpec
from gan_refine.run.command import command_line
from gan_refine.run.figures import LEGEND, TextTable, snapshot_table, summary_tables
from gan_refine.run.options import RunOptions
from gan_refine.run.records import RunRecord
from gan_refine.version import VERSION

UNKNOWN = "not known to this program; ask whoever published the file"
CHOSEN = (
    "In brackets: what was chosen by the yardstick. One that chose the default settings or selected the snapshot is no independent "
    "judge; one that only reports is."
)
SELECTED = "The run selected the best snapshot by the first figure, on the same latents, which makes it look better than it is."


def model_card(record: RunRecord, spec: ImageSpec, written: dict[str, str]) -> str:
    """The card of a run's best pickle; `written` are the exported files with their SHA-256."""
    options = record.options
    files = "\n".join(f"| `{name}` | `{digest}` |" for name, digest in written.items())
    return f"""# {record.folder.name}

A generator of {spec} images: a pretrained GAN that was refined with a pretrained diffusion model and no data set
(objective `{parse_spec(options.objective)[0]}`, after Diff-Instruct, arXiv:2305.18455), by gan_refine {VERSION}.

## Origin

| | file | SHA-256 | licence |
|---|---|---|---|
{_parent("GAN", options.gan, options.gan_sha256)}
{_parent("teacher", options.teacher, options.teacher_sha256)}

The weights derive from both files: use and pass them on only as both licences allow.

## Files

| file | SHA-256 |
|---|---|
{files}

The pickle and the ONNX file take latents z ~ N(0, I); ONNX has the constant noise of
the file and psi as input, and clamps images to [-1, 1]; the pickle's G does not.

## Figures

{_figures(record)}

## Made with

```
{command_line(replace(options, outdir=RunOptions().outdir))}
```

## Limits

The refined generator shows what the teacher knows: its faults, its biases and the people in its training data carry over. Figures
are of the yardsticks above alone; look at images before you use it.
"""


def _parent(role: str, text: str, digest: str) -> str:
    return f"| {role} | `{text}` | `{digest or 'unknown'}` | {licence(text, digest)} |"


def licence(text: str, digest: str) -> str:
    """The licence of a parent by its digest or public name, as the catalogs have it."""
    found = assets.licence_of(text, digest)
    return UNKNOWN if found is None else found


def _figures(record: RunRecord) -> str:
    snapshots = snapshot_table(record)
    if snapshots is None:
        return "Nothing was measured in this run."
    found = summary_tables(record)
    ended = "" if record.summary.get("complete") else "The run has not come to its end."
    parts = [LEGEND, CHOSEN] if found else [ended, LEGEND]
    parts += [_markdown(table) for table in (*found, snapshots)]
    return "\n\n".join(part for part in (*parts, SELECTED) if part)


def _markdown(table: TextTable) -> str:
    lines = [table.headings, ["---"] * len(table.headings), *table.rows]
    rows = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    return "\n\n".join([f"### {table.title}", rows, *table.notes])
