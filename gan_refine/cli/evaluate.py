"""`gan-refine evaluate`: metrics of one or more generators on the same latents."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from tqdm import tqdm

from gan_refine.cli.options import (
    GAN,
    SETTINGS,
    TEACHER,
    GroupedCommand,
    check_device,
    detector_option,
    device_option,
    fid_ref_option,
    labels_option,
    noise_mode_option,
    option,
    spell_out,
    trust_pickle_option,
)
from gan_refine.config import parse_spec, require
from gan_refine.errors import MismatchError, OptionError, UserError
from gan_refine.evaluation import (
    PairedComparison,
    Teacher,
    estimate,
    gap_closed,
    measure,
    measure_teacher,
    open_metrics,
)
from gan_refine.foundation import distributed
from gan_refine.interfaces import Generator
from gan_refine.labels import parse_frequencies
from gan_refine.metrics import MetricCollection, Result
from gan_refine.run.networks import open_gan, open_teacher

NETWORKS, EVALUATION, OUTPUT = "Networks", "Evaluation", "Output"


@dataclass(frozen=True)
class Measured:
    """The results of one generator, or of the teacher, with one set of latents; `seconds` is what they took."""

    name: str
    seed: int
    results: list[Result]
    seconds: float


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of the command, which --help describes. Raises OptionError for values that are not allowed."""

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
    def names(self) -> tuple[str, ...]:
        """The names of everything that is measured: the generators and, last, the teacher with its steps."""
        return (*self.gans, f"{self.teacher} in {self.teacher_steps} steps") if self.teacher_steps else self.gans


# fmt: off
@click.command("evaluate", cls=GroupedCommand, context_settings=SETTINGS)
@option(NETWORKS, "--gan", "gans", metavar="PKL|URL|NAME", multiple=True, required=True,
        help=GAN + " Repeat it to compare others with the first.")
@option(NETWORKS, "--teacher", metavar="PKL|URL|NAME", default=None,
        help=TEACHER + " For --fid-ref=teacher and --teacher-steps.")
@labels_option(NETWORKS)
@noise_mode_option(NETWORKS)
@trust_pickle_option(NETWORKS)
@option(EVALUATION, "--metrics", metavar="LIST", default="fd",
        help="Any of fd, kd, is, pr, dc, each with its options: fd,infinity=true,kd,subsets=50. fid and kid are fd and kd in "
        "Inception features.")
@detector_option(EVALUATION)
@fid_ref_option(EVALUATION)
@option(EVALUATION, "--images", metavar="INT", type=int, default=10_000,
        help="Images of each generator, at least 2; 50000 to compare with published FIDs.")
@option(EVALUATION, "--seed", metavar="INT", type=int, default=0, help="Random seed of the latents; at least 0.")
@option(EVALUATION, "--fid-seeds", metavar="INT", type=int, default=1,
        help="Sets of latents, with the seeds seed, seed + 1, ...; two or more give confidence intervals.")
@option(EVALUATION, "--teacher-steps", metavar="INT", type=int, default=0,
        help="Measure samples of the teacher too, with this many calls for each, and the share of the gap to it that is "
        "closed; 0 = off.")
@option(OUTPUT, "--outdir", metavar="DIR", type=click.Path(path_type=Path), default=None,
        help="Append the results to metric-NAME.jsonl in this folder.")
@device_option(OUTPUT)
def evaluate(labels: str, **given) -> None:
    """Measure generators. Results go to standard output as JSON lines, a table to standard error. torchrun shares the work."""
    options = EvaluateOptions(labels=spell_out(labels), **given)
    check_device(options.device)
    distributed.init()
    generators = [open_generator(gan, options) for gan in options.gans]
    check_comparable(options.gans, generators)
    teacher = teacher_to_sample(options, generators[0])
    metrics = make_metrics(options, generators[0], teacher)
    if options.outdir is not None:
        with _writing(options.outdir):  # before the measurements, so that an error costs no time
            options.outdir.mkdir(parents=True, exist_ok=True)
    runs = []
    for run in measure_all(options, generators, metrics, teacher):
        runs.append(run)
        if distributed.is_rank0():
            write_results(run, metrics, options)
    if distributed.is_rank0():
        click.echo("\n".join(report(options, runs)), err=True)
# fmt: on


def open_generator(text: str, options: EvaluateOptions) -> Generator:
    """The generator of a --gan option on the device, with latents drawn by --labels and --noise-mode. Raises UserError."""
    generator = open_gan(text, trust=options.trust_pickle).generator
    generator.set_latent_options(options.labels, options.noise_mode)
    return generator.to(options.device)


def check_comparable(gans: tuple[str, ...], generators: Sequence[Generator]) -> None:
    """Raises MismatchError unless all generators make images of one size and number of channels."""
    first = generators[0].spec
    for gan, generator in zip(gans, generators, strict=True):
        if (generator.spec.channels, generator.spec.resolution) != (first.channels, first.resolution):
            raise MismatchError(
                f"{gans[0]} makes {first} images but {gan} {generator.spec}; compare generators of one image size"
            )


def teacher_to_sample(options: EvaluateOptions, generator: Generator) -> Teacher | None:
    """The teacher of --teacher on the device, with the class frequencies of --labels; None without one. Raises UserError."""
    if options.teacher is None:
        return None
    opened = open_teacher(options.teacher, options.trust_pickle, options.device)
    denoiser = opened.denoiser
    frequencies = parse_frequencies(options.labels, generator.spec)
    if frequencies is not None and denoiser.spec.num_classes not in (0, len(frequencies)):
        raise MismatchError(
            f"--labels has {len(frequencies)} frequencies, but the teacher knows {denoiser.spec.num_classes} classes; "
            "choose a teacher of the GAN's classes"
        )
    return replace(opened, frequencies=frequencies)


def make_metrics(options: EvaluateOptions, generator: Generator, teacher: Teacher | None) -> MetricCollection:
    """The metrics with their reference, which is sampled from the teacher or read. Raises UserError."""
    with _progress("reference") as bar:
        specs = options.metrics, options.detector, options.fid_ref
        return open_metrics(*specs, generator.spec, options.images, teacher, options.device, bar.update)


def measure_all(
    options: EvaluateOptions, generators: Sequence[Generator], metrics: MetricCollection, teacher: Teacher | None
) -> Iterator[Measured]:
    """For each set of latents the results of every generator, and of the teacher with --teacher-steps."""
    names = options.names
    with _progress("measuring", options.fid_seeds * len(names) * options.images) as bar:
        for seed in range(options.seed, options.seed + options.fid_seeds):
            for gan, generator in zip(options.gans, generators, strict=True):
                started = time.time()
                results = measure(generator, metrics, seed, bar.update)
                yield Measured(gan, seed, results, time.time() - started)
            if teacher is not None and options.teacher_steps:
                started = time.time()
                results = measure_teacher(teacher, metrics, options.teacher_steps, seed, bar.update)
                yield Measured(names[-1], seed, results, time.time() - started)


def _progress(what: str, total: int | None = None) -> tqdm:
    hidden = None if distributed.is_rank0() else True  # None: hidden unless standard error is a terminal
    return tqdm(desc=what, total=total, unit="img", file=sys.stderr, disable=hidden, leave=False)


def write_results(run: Measured, metrics: MetricCollection, options: EvaluateOptions) -> None:
    """One JSON line for each metric, with the fields of StyleGAN's metric-*.jsonl and some more. Raises UserError."""
    minutes, seconds = divmod(round(run.seconds), 60)
    is_generator = run.name in options.gans
    for result in run.results:
        record = {
            "results": result.values,
            "metric": result.metric,
            "total_time": round(run.seconds, 3),
            "total_time_str": f"{minutes}m {seconds:02d}s",
            "num_gpus": distributed.get_world_size(),
            "snapshot_pkl": run.name if is_generator else options.teacher,
            "snapshot": Path(run.name).stem if is_generator else run.name,
            "timestamp": time.time(),
            "seed": run.seed,
            "detector": metrics.detector.name,
            "reference": options.fid_ref,
            "labels": options.labels,
            "noise_mode": options.noise_mode,
            "convention": result.convention,
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
            f"cannot write to --outdir={folder} ({error.strerror}); choose a folder that is writable"
        ) from error


def report(options: EvaluateOptions, runs: list[Measured]) -> list[str]:
    """The lines of the table: every value with its standard error, and how each generator differs from the first."""
    lines = []
    width = max(len(name) for result in runs[0].results for name in result.values)
    for number, result in enumerate(runs[0].results):
        for name in result.values:
            values = {
                each: [run.results[number].values[name] for run in runs if run.name == each] for each in options.names
            }
            lines += [f"  {name:<{width}} {estimate(found)!s:<20} {each}" for each, found in values.items()]
            if not name.endswith("_std"):  # the spread of a metric is not compared
                lines += comparisons(options, values, result.higher_is_better)
        lines.append(f"    convention: {', '.join(f'{key} {value}' for key, value in result.convention.items())}")
    return lines


def comparisons(options: EvaluateOptions, values: dict[str, list[float]], higher_is_better: bool) -> Iterator[str]:
    """How the values of one metric differ from the first generator's, and the share of its gap to the teacher that is closed."""
    original, *others = options.gans
    for gan in others:
        yield f"    {gan}: {PairedComparison(values[original], values[gan]).describe(higher_is_better)}"
        if options.teacher_steps and not higher_is_better:
            means = [estimate(values[name]).mean for name in (original, gan, options.names[-1])]
            share = gap_closed(*means)
            closed = "no gap to close, the teacher is not better" if share is None else f"gap closed {share:.1%}"
            yield f"    {gan}: {closed}"
