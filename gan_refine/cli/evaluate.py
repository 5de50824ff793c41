"""`python -m gan_refine evaluate`: figures of one or more generators on the same latents."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from tqdm import tqdm

from gan_refine import assets
from gan_refine.cli.trusting import family, trust_pickle_option
from gan_refine.config import require
from gan_refine.errors import MismatchError, OptionError, UserError
from gan_refine.generators import GENERATORS
from gan_refine.interfaces import Generator
from gan_refine.metrics import Panel, Result
from gan_refine.report.panel import measure, open_panel
from gan_refine.report.reference import TeacherFile
from gan_refine.report.uncertainty import Paired, estimate
from gan_refine.teachers import TEACHERS
from torch_utils import distributed

HIGHER_IS_BETTER = ("is", "pr", "dc")


@dataclass(frozen=True)
class Measured:
    """One generator's figures with one set of latents, and how long they took."""

    gan: str
    seed: int
    results: list[Result]
    seconds: float


@click.command("evaluate", context_settings={"show_default": True, "max_content_width": 120})
@click.option(
    "--gan",
    "gans",
    multiple=True,
    required=True,
    help="Network pickle or embedded name; repeat to compare with the first.",
)
@click.option(
    "--teacher", default=None, help="EDM network pickle, or the name of an embedded one; for --fid-ref=teacher."
)
@click.option("--metrics", default="fd", help="fd, kd, is, pr, dc and their options: fd,infinity=true,kd,subsets=50")
@click.option(
    "--detector", default="auto", help="auto, an embedded one, inception, efficientnet-lite0, torchscript,path=FILE"
)
@click.option(
    "--fid-ref", default="auto", help="auto, teacher[,steps=18,images=10000], an .npz file, a folder or zip of images."
)
@click.option("--images", type=int, default=10_000, help="Images of each generator; 50000 for the field's FID.")
@click.option("--seed", type=int, default=0, help="Of the latents.")
@click.option("--fid-seeds", type=int, default=1, help="Repeat with so many sets of latents: seed, seed + 1, ...")
@click.option("--outdir", default=None, help="Append the results to metric-NAME.jsonl in this folder.")
@click.option("--device", default=None, help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
@trust_pickle_option
def evaluate(
    gans: tuple[str, ...],
    teacher: str | None,
    metrics: str,
    detector: str,
    fid_ref: str,
    images: int,
    seed: int,
    fid_seeds: int,
    outdir: str | None,
    device: str | None,
    trust_pickle: bool,
) -> None:
    """Measure generators: JSON lines on standard output, a table on standard error. torchrun shares the work."""
    require("images", images, images >= 2, "at least 2")
    require("fid_seeds", fid_seeds, fid_seeds >= 1, "at least 1")
    distributed.init()
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    generators = [_generator(gan, place, trust_pickle) for gan in gans]
    for gan, generator in zip(gans, generators, strict=True):
        if str(generator.spec).split(",")[0] != str(generators[0].spec).split(",")[0]:
            raise MismatchError(f"{gans[0]} makes {generators[0].spec} but {gan} {generator.spec}; compare equal ones")
    source = None if teacher is None else _teacher(teacher, place, trust_pickle)
    with tqdm(unit="img", file=sys.stderr, desc="sampling the teacher", disable=None, leave=False) as bar:
        panel = open_panel(metrics, detector, fid_ref, generators[0].spec, images, source, place, bar.update)
    runs = []
    for k in range(fid_seeds):
        for gan, generator in zip(gans, generators, strict=True):
            started = time.time()
            results = measure(generator, panel, seed + k)
            runs.append(Measured(gan, seed + k, results, time.time() - started))
            if distributed.is_rank0():
                _write(runs[-1], panel, fid_ref, outdir)
    if distributed.is_rank0():
        click.echo(report(gans, runs), err=True)


def _generator(text: str, device: str, trust: bool) -> Generator:
    path = assets.resolve("gan", text)
    try:
        return GENERATORS[family("stylegan2", text, path, trust)](path).to(device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"--device={device} cannot be used here; give cpu, or cuda on a machine with a GPU"
        ) from error


def _teacher(text: str, device: str, trust: bool) -> TeacherFile:
    path = assets.resolve("teacher", text)
    return TeacherFile(path, TEACHERS[family("edm", text, path, trust)](path).to(device))


def _write(run: Measured, panel: Panel, fid_ref: str, outdir: str | None) -> None:
    """One JSON line a metric, in the form of StyleGAN's tools, with the convention added."""
    for result in run.results:
        minutes, seconds = divmod(round(run.seconds), 60)
        record = {
            "results": result.values,
            "metric": result.metric,
            "total_time": round(run.seconds, 3),
            "total_time_str": f"{minutes}m {seconds:02d}s",
            "num_gpus": distributed.get_world_size(),
            "snapshot_pkl": run.gan,
            "snapshot": Path(run.gan).stem,
            "timestamp": time.time(),
            "seed": run.seed,
            "detector": panel.detector.name,
            "reference": fid_ref,
            "convention": result.facts,
        }
        line = json.dumps(record)
        click.echo(line)
        if outdir is not None:
            _append(Path(outdir), f"metric-{result.metric}.jsonl", line)


def _append(folder: Path, name: str, line: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / name, "a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write to --outdir={folder} ({error.strerror}); choose a folder that you may write to"
        ) from error


def report(gans: tuple[str, ...], runs: list[Measured]) -> str:
    """The table: each figure of each generator with its standard error; below it, changes from the first in words."""
    lines = []
    for number, result in enumerate(runs[0].results):
        for name in result.values:
            values = [
                [run.results[number].values[name] for run in runs if run.gan == gan] for gan in dict.fromkeys(gans)
            ]
            for gan, found in zip(dict.fromkeys(gans), values, strict=True):
                lines.append(f"  {name:<32} {estimate(found)!s:<20} {gan}")
            if name.endswith("_std"):  # the noise of a figure is no figure to compare
                continue
            higher = name.startswith(HIGHER_IS_BETTER)
            for gan, found in list(zip(dict.fromkeys(gans), values, strict=True))[1:]:
                lines.append(f"    {gan}: {Paired(values[0], found).words(higher)}")
        lines.append(f"    convention: {', '.join(f'{key} {value}' for key, value in result.facts.items())}")
    return "\n".join(lines)
