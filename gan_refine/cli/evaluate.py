"""`python -m gan_refine evaluate`: figures of one or more generators on the same latents."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from tqdm import tqdm

from gan_refine import assets
from gan_refine.cli.drawing_options import labels_option, noise_mode_option, set_drawing, spell_out
from gan_refine.cli.gans import find_gan
from gan_refine.cli.trusting import family, trust_pickle_option
from gan_refine.config import parse_spec, require
from gan_refine.errors import MismatchError, OptionError, UserError
from gan_refine.interfaces import Generator
from gan_refine.labels import parse_frequencies
from gan_refine.metrics import Panel, Result
from gan_refine.report.panel import measure, measure_teacher, open_panel
from gan_refine.report.reference import TeacherFile
from gan_refine.report.uncertainty import Paired, estimate, gap_closed
from gan_refine.teachers import TEACHERS
from torch_utils import distributed


@dataclass(frozen=True)
class Measured:
    """One generator's figures with one set of latents, and how long they took."""

    gan: str
    seed: int
    results: list[Result]
    seconds: float


@dataclass(frozen=True)
class EvaluateOptions:
    """What the command was asked for, as its --help describes it."""

    gans: tuple[str, ...]
    teacher: str | None
    teacher_steps: int
    metrics: str
    detector: str
    fid_ref: str
    images: int
    seed: int
    fid_seeds: int
    outdir: Path | None
    device: str
    trust_pickle: bool
    labels: str
    noise_mode: str

    def __post_init__(self) -> None:
        require("images", self.images, self.images >= 2, "at least 2")
        require("seed", self.seed, self.seed >= 0, "at least 0")
        require("fid_seeds", self.fid_seeds, self.fid_seeds >= 1, "at least 1")
        if len(set(self.gans)) < len(self.gans):
            raise OptionError(f"--gan is given the same name twice: {', '.join(self.gans)}; give each once")
        steps = self.teacher_steps
        require("teacher_steps", steps, steps == 0 or steps >= 2, "0 or at least 2")
        if self.teacher is None and steps:
            raise OptionError(f"--teacher-steps={steps} measures a teacher; give --teacher=FILE")
        if self.teacher is not None and not steps and parse_spec(self.fid_ref)[0] != "teacher":
            raise OptionError(
                f"--teacher={self.teacher} has no use without --fid-ref=teacher or --teacher-steps=18; give one of them"
            )

    @property
    def shown(self) -> tuple[str, ...]:
        """What the results are listed under: the generators' names, and at the end the teacher's if it is measured."""
        return (*self.gans, f"{self.teacher} in {self.teacher_steps} steps") if self.teacher_steps else self.gans


@click.command("evaluate", context_settings={"show_default": True, "max_content_width": 120})
@click.option(
    "--gan",
    "gans",
    multiple=True,
    required=True,
    help="Network pickle or embedded name; repeat to compare with the first.",
)
@click.option(
    "--teacher",
    default=None,
    help="EDM network pickle, or the name of an embedded one; for --fid-ref=teacher and --teacher-steps.",
)
@click.option(
    "--teacher-steps",
    type=int,
    default=0,
    help="Measure the teacher's own samples too, by Heun's sampler in so many steps, and the share of the gap that is closed.",
)
@click.option(
    "--metrics",
    default="fd",
    help="fd, kd, is, pr, dc and their options: fd,infinity=true,kd,subsets=50; fid and kid are fd and kd in Inception's features.",
)
@click.option(
    "--detector", default="auto", help="auto, an embedded one, inception, efficientnet-lite0, torchscript,path=FILE"
)
@click.option(
    "--fid-ref", default="auto", help="auto, teacher[,steps=18,images=10000], an .npz file, a folder or zip of images."
)
@click.option("--images", type=int, default=10_000, help="Images of each generator; 50000 for the field's FID.")
@click.option("--seed", type=int, default=0, help="Of the latents.")
@click.option("--fid-seeds", type=int, default=1, help="Repeat with so many sets of latents: seed, seed + 1, ...")
@labels_option
@noise_mode_option
@click.option(
    "--outdir", type=click.Path(path_type=Path), help="Append the results to metric-NAME.jsonl in this folder."
)
@click.option("--device", default=None, help="cpu, cuda, cuda:1 ... [default: a GPU if any]")
@trust_pickle_option
def evaluate(device: str | None, labels: str, **given) -> None:
    """Measure generators: JSON lines on standard output, a table on standard error. torchrun shares the work."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = EvaluateOptions(device=device, labels=spell_out(labels), **given)
    check_device(options.device)
    distributed.init()
    generators = [open_generator(gan, options) for gan in options.gans]
    check_comparable(options.gans, generators)
    teacher = open_teacher(options, generators[0])
    panel = make_panel(options, generators[0], teacher)
    if options.outdir is not None:
        with _writing(options.outdir):  # known before the measuring, not after it
            options.outdir.mkdir(parents=True, exist_ok=True)
    runs = []
    for run in measure_all(options, generators, panel, teacher):
        runs.append(run)
        if distributed.is_rank0():
            write_results(run, panel, options)
    if distributed.is_rank0():
        click.echo("\n".join(report(options, runs)), err=True)


def check_device(name: str) -> None:
    """Raises OptionError for a device that torch does not know or cannot use."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"--device={name} cannot be used here; give cpu, or cuda on a machine with a GPU") from error


def open_generator(text: str, options: EvaluateOptions) -> Generator:
    """The generator of a name, path or URL, on the device, drawing its latents as the options say."""
    generator = find_gan(text, trust=options.trust_pickle).load()
    return set_drawing(generator, options.labels, options.noise_mode).to(options.device)


def check_comparable(gans: tuple[str, ...], generators: Sequence[Generator]) -> None:
    """Raises MismatchError unless all make images of one size and colour."""
    first = generators[0].spec
    for gan, generator in zip(gans, generators, strict=True):
        if (generator.spec.channels, generator.spec.resolution) != (first.channels, first.resolution):
            raise MismatchError(f"{gans[0]} makes {first} images but {gan} {generator.spec}; compare equal ones")


def open_teacher(options: EvaluateOptions, generator: Generator) -> TeacherFile | None:
    """The teacher that was named, on the device, drawing the generator's labels."""
    if options.teacher is None:
        return None
    path = assets.resolve("teacher", options.teacher)
    chosen = family("edm", options.teacher, path, options.trust_pickle)
    denoiser = TEACHERS[chosen](path).to(options.device)
    frequencies = parse_frequencies(options.labels, generator.spec)
    if frequencies is not None and denoiser.spec.num_classes not in (0, len(frequencies)):
        raise MismatchError(
            f"--labels has {len(frequencies)} frequencies, but the teacher knows {denoiser.spec.num_classes} classes; "
            "choose a teacher of the GAN's classes"
        )
    return TeacherFile(path, denoiser, frequencies)


def make_panel(options: EvaluateOptions, generator: Generator, teacher: TeacherFile | None) -> Panel:
    """The metrics with their reference, which is sampled, read or taken from the cache."""
    with _progress("reference") as bar:
        specs = options.metrics, options.detector, options.fid_ref
        return open_panel(*specs, generator.spec, options.images, teacher, options.device, bar.update)


def measure_all(
    options: EvaluateOptions, generators: Sequence[Generator], panel: Panel, teacher: TeacherFile | None
) -> Iterator[Measured]:
    """Every generator, and the teacher if asked for, with every set of latents, one after the other."""
    names = options.shown
    with _progress("measuring", options.fid_seeds * len(names) * options.images) as bar:
        for seed in range(options.seed, options.seed + options.fid_seeds):
            for gan, generator in zip(options.gans, generators, strict=True):
                started = time.time()
                results = measure(generator, panel, seed, bar.update)
                yield Measured(gan, seed, results, time.time() - started)
            if teacher is not None and options.teacher_steps:
                started = time.time()
                results = measure_teacher(teacher, panel, options.teacher_steps, seed, bar.update)
                yield Measured(names[-1], seed, results, time.time() - started)


def _progress(what: str, total: int | None = None) -> tqdm:
    hidden = None if distributed.is_rank0() else True  # None: shown on a terminal alone
    return tqdm(desc=what, total=total, unit="img", file=sys.stderr, disable=hidden, leave=False)


def write_results(run: Measured, panel: Panel, options: EvaluateOptions) -> None:
    """One JSON line a metric, in the form of StyleGAN's tools, with the convention added."""
    minutes, seconds = divmod(round(run.seconds), 60)
    is_generator = run.gan in options.gans
    for result in run.results:
        record = {
            "results": result.values,
            "metric": result.metric,
            "total_time": round(run.seconds, 3),
            "total_time_str": f"{minutes}m {seconds:02d}s",
            "num_gpus": distributed.get_world_size(),
            "snapshot_pkl": run.gan if is_generator else options.teacher,
            "snapshot": Path(run.gan).stem if is_generator else run.gan,
            "timestamp": time.time(),
            "seed": run.seed,
            "detector": panel.detector.name,
            "reference": options.fid_ref,
            "labels": options.labels,
            "noise_mode": options.noise_mode,
            "convention": result.facts,
        }
        line = json.dumps(record)
        click.echo(line)
        if options.outdir is not None:
            with _writing(options.outdir), open(options.outdir / f"metric-{result.metric}.jsonl", "a") as file:
                file.write(line + "\n")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to --outdir={folder} ({error.strerror}); choose a folder that you may write to"
        ) from error


def report(options: EvaluateOptions, runs: list[Measured]) -> list[str]:
    """Lines of the table: each figure of each generator with its standard error, and changes from the first in words."""
    lines = []
    width = max(len(name) for result in runs[0].results for name in result.values)
    for number, result in enumerate(runs[0].results):
        for name in result.values:
            values = {
                gan: [run.results[number].values[name] for run in runs if run.gan == gan] for gan in options.shown
            }
            lines += [f"  {name:<{width}} {estimate(found)!s:<20} {gan}" for gan, found in values.items()]
            if name.endswith("_std"):  # the noise of a figure is no figure to compare
                continue
            original, *others = options.gans
            for gan in others:
                words = Paired(values[original], values[gan]).words(result.higher_is_better)
                lines.append(f"    {gan}: {words}")
                if options.teacher_steps and not result.higher_is_better:
                    means = [estimate(values[which]).mean for which in (original, gan, options.shown[-1])]
                    share = gap_closed(*means)
                    told = "no gap to close, the teacher is no better" if share is None else f"gap closed {share:.1%}"
                    lines.append(f"    {gan}: {told}")
        lines.append(f"    convention: {', '.join(f'{key} {value}' for key, value in result.facts.items())}")
    return lines
