"""What `gan-refine evaluate` does: metrics of one or more generators on the same latents."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gan_refine.config import IMAGES, SEED, SETS, STEPS, require_ranges
from gan_refine.errors import MismatchError, OptionError, UserError
from gan_refine.evaluation import (
    Measured,
    Sources,
    Teacher,
    YardstickOptions,
    Yardsticks,
    baselines,
    find_sources,
    tabulate,
    verdict,
)
from gan_refine.files import atomic_file
from gan_refine.foundation import distributed
from gan_refine.generators import bridge
from gan_refine.interfaces import Generator
from gan_refine.labels import parse_frequencies
from gan_refine.metrics import OnProgress
from gan_refine.run.build import TO_MEASURE, bridge_options
from gan_refine.run.clock import Clock, Phase, say
from gan_refine.run.networks import open_gan, open_teacher
from gan_refine.run.plan import EVALUATION, sampling_phases
from gan_refine.run.timing import seconds_of_evaluation

RANGES = {"images": IMAGES, "seed": SEED, "fid_seeds": SETS, "teacher_steps": replace(STEPS, or_0=True)}


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of the command, which --help describes. Raises OptionError for values that are not allowed."""

    gans: tuple[str, ...]
    teacher: str | None
    bridge: str
    teacher_steps: int
    metrics: str
    detector: tuple[str, ...]
    fid_ref: str
    images: int
    seed: int
    fid_seeds: int
    baselines: bool
    outdir: str | None
    device: str
    trust_pickle: bool
    labels: str
    noise_mode: str

    def __post_init__(self) -> None:
        require_ranges(self, RANGES)
        if len(set(self.gans)) < len(self.gans):
            raise OptionError(f"--gan is given the same name twice: {', '.join(self.gans)}; give each once")

    @property
    def folder(self) -> Path:
        assert self.outdir is not None, "asked for with --outdir only"
        return Path(self.outdir)

    @property
    def yardsticks(self) -> YardstickOptions:
        return YardstickOptions(self.metrics, self.detector, self.fid_ref, self.images, self.teacher_steps)


def evaluate(options: EvaluateOptions) -> None:
    """Prints the results as JSON lines, the last of which is the table, and the table on standard error. Raises UserError."""
    distributed.init()
    generators = {gan: open_generator(gan, options) for gan in options.gans}
    check_comparable(generators)
    teacher = teacher_to_sample(options, next(iter(generators.values())))
    generators = at_teachers_size(generators, teacher, options.bridge)
    first = next(iter(generators.values()))
    sources = find_sources(options.yardsticks, first.spec, teacher, options.device)
    for text in sources.few_images("--images"):
        say(f"NOTE: {text}.")
    if options.baselines:
        generators |= {f"{options.gans[0]}, {name}": baseline for name, baseline in baselines(first).items()}
    runs = []
    with clock_of(options, generators, sources).running() as clock:
        found = sources.open(clock.enter(TO_MEASURE if TO_MEASURE in clock.phases else "references"))
        yardsticks = found.for_table() if options.metrics == "auto" else found
        if options.outdir is not None:
            with _writing(options.folder):
                options.folder.mkdir(parents=True, exist_ok=True)
        for run in measure_all(options, generators, yardsticks, clock.enter(EVALUATION)):
            runs.append(run)
            if distributed.is_rank0():
                write_results(run, options)
        tables = tabulate(yardsticks, runs)
    if distributed.is_rank0():
        write_table(json.dumps({"table": [table.record() for table in tables]}), options)
        told = [verdict(tables, name, name) for name in list(generators)[1:]]
        print("\n".join([*(line for table in tables for line in [*table.lines(), ""]), *told]), file=sys.stderr)


def open_generator(text: str, options: EvaluateOptions) -> Generator:
    """The generator of a --gan option on the device, with latents drawn by --labels and --noise-mode. Raises UserError."""
    generator = open_gan(text, trust=options.trust_pickle).generator
    generator.set_latent_options(options.labels, options.noise_mode)
    return generator.to(options.device)


def check_comparable(generators: dict[str, Generator]) -> None:
    """Raises MismatchError unless all generators make images of one size and number of channels."""
    name, first = next((name, generator.spec) for name, generator in generators.items())
    for gan, generator in generators.items():
        if (generator.spec.channels, generator.spec.resolution) != (first.channels, first.resolution):
            raise MismatchError(
                f"{name} makes {first} images but {gan} {generator.spec}; compare generators of one image size"
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


def at_teachers_size(generators: dict[str, Generator], teacher: Teacher | None, text: str) -> dict[str, Generator]:
    """The generators as --bridge makes the teacher see them. Raises UserError."""
    bridging = bridge_options(text)
    if bridging is None:
        return generators
    if bridging.measure == "full":
        raise OptionError(f"--bridge={text} measures images at full size, as evaluate does without it; leave it out")
    if teacher is None:
        raise OptionError(f"--bridge={text} resizes to the size of a teacher; give --teacher")
    return {name: bridge(generator, teacher.denoiser.spec, bridging) for name, generator in generators.items()}


def clock_of(options: EvaluateOptions, generators: dict[str, Generator], sources: Sources) -> Clock:
    """A clock that expects all images to take as long as a few of them take now."""
    seconds = seconds_of_evaluation(next(iter(generators.values())), sources.detectors)
    images = options.fid_seeds * len(generators) * options.images
    return Clock(
        say, sampling_phases(sources.teacher, {TO_MEASURE: sources.sampling}) | {EVALUATION: Phase(images, seconds)}
    )


def measure_all(
    options: EvaluateOptions, generators: dict[str, Generator], yardsticks: Yardsticks, progress: OnProgress
) -> Iterator[Measured]:
    """For each set of latents the results of every generator."""
    for seed in range(options.seed, options.seed + options.fid_seeds):
        for name, generator in generators.items():
            started = time.time()
            results = yardsticks.measure(generator, seed, progress)
            yield Measured(name, seed, results, time.time() - started)


def write_results(run: Measured, options: EvaluateOptions) -> None:
    """One JSON line for each metric, with the fields of StyleGAN's metric-*.jsonl and some more. Raises UserError."""
    minutes, seconds = divmod(round(run.seconds), 60)
    for result in run.results:
        record = {
            "results": result.values,
            "metric": result.metric,
            "better": result.better,
            "total_time": round(run.seconds, 3),
            "total_time_str": f"{minutes}m {seconds:02d}s",
            "num_gpus": distributed.get_world_size(),
            "snapshot_pkl": run.name,
            "snapshot": Path(run.name).stem if run.name in options.gans else run.name,
            "timestamp": time.time(),
            "seed": run.seed,
            "reference": result.source,
            "labels": options.labels,
            "noise_mode": options.noise_mode,
            "convention": result.convention,
        }
        line = json.dumps(record)
        print(line, flush=True)
        if options.outdir is not None:
            path = options.folder / f"metric-{result.metric}.jsonl"
            with _writing(options.folder), open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")


def write_table(text: str, options: EvaluateOptions) -> None:
    """The tables as one JSON line. Raises UserError."""
    print(text, flush=True)
    if options.outdir is not None:
        with _writing(options.folder), atomic_file(options.folder / "table.json") as file:
            file.write(text.encode() + b"\n")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to --outdir={folder} ({error.strerror}); choose a folder that is writable"
        ) from error
