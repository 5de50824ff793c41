"""From the options of a run to its objects: generator, teacher, objective and metrics."""

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import torch

from gan_refine import assets
from gan_refine.config import (
    LEARNING_SAMPLES,
    LEAST_LEARNING_SAMPLES,
    MOST_LEARNING_SAMPLES,
    RefineOptions,
    build_options,
    choose,
    parse_parts,
    parse_spec,
)
from gan_refine.errors import MismatchError, OptionError
from gan_refine.evaluation import (
    RANKING,
    SamplingOptions,
    Sources,
    Teacher,
    YardstickOptions,
    Yardsticks,
    find_sources,
    labels_of,
    teacher_samples,
)
from gan_refine.foundation import distributed
from gan_refine.generators import BridgeOptions, PretrainedGenerator, bridge, can_bridge
from gan_refine.interfaces import Generator, ImageSpec, Objective, SampleRequest
from gan_refine.labels import UNIFORM, parse_frequencies
from gan_refine.metrics import OnProgress, Result, ignore_progress, only_reports
from gan_refine.objectives import GanFile, build_objective, complete_spec
from gan_refine.precision import resolve_precision
from gan_refine.refine import resolve_glr, resolve_train, trainable_groups
from gan_refine.run.networks import Gan, open_gan, open_teacher
from gan_refine.run.options import AUTO, DEFAULT_PAIR, RunOptions, absolute, file_digest
from gan_refine.run.presets import PRESETS
from gan_refine.run.trackers import check_trackers
from gan_refine.teachers import in_precision, recompute_activations

CHECKPOINT_FORMAT = 5
TO_MEASURE, TO_LEARN = "teacher samples to measure against", "teacher samples to learn from"
LARGE = 10**6  # parameters of a generator for which a preset for GPUs pays
LEARNING_SEED = 7_000_002  # plus --objective's sample_seed: of the teacher's samples that the objective learns from


class Header(TypedDict):
    """The head of a checkpoint."""

    format: int
    sha256: dict[str, str]
    torch: str
    threads: int  # of torch


@dataclass
class Run:
    """The objects of a run, and its resolved options. Each network file was opened, parsed and hashed once for it."""

    options: RunOptions
    gan: Gan
    generator: Generator
    preset_reason: str  # why --preset=auto chose what it chose; empty where it was named
    original: Generator | None  # a copy of the generator before refinement, which is measured; None with --metrics=none
    teacher: Teacher
    objective: Objective
    sources: Sources | None  # what it is measured by; None with --metrics=none
    yardsticks: Yardsticks | None  # a draft until `open_references`
    full_size: bool  # whether they measure full-size images of a bridged generator; False without a bridge

    @property
    def header(self) -> Header:
        """What each checkpoint says of its format and of the files that the run started from."""
        digests = {"gan": self.options.gan_sha256, "teacher": self.options.teacher_sha256}
        return {
            "format": CHECKPOINT_FORMAT,
            "sha256": digests,
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
        }

    @property
    def bridged(self) -> bool:
        return self.generator.full_size() is not self.generator

    @property
    def measured_spec(self) -> ImageSpec:
        """The images that are measured."""
        return self.generator.full_size().spec if self.full_size else self.generator.spec

    def load_refined(self, path: Path) -> Generator:
        """A refined pickle of this run, on its device, whose latents are drawn as this run draws them."""
        return prepare(type(self.gan.generator).load(path, self.options.which), self.options)

    @property
    def sampling(self) -> dict[str, SamplingOptions]:
        """The samples of the teacher that the run needs, by what they are for."""
        measured = None if self.sources is None or self.sources.teacher is None else self.sources.sampling
        wanted = self.objective.wanted_samples
        learned = None if wanted is None else learning_samples(wanted, self.options.refine.total_images)
        both = {TO_MEASURE: measured, TO_LEARN: learned}
        return {name: options for name, options in both.items() if options is not None}

    def open_references(self, progress: OnProgress) -> None:
        """Makes what generators are measured against. Every process must call it, once, before `measure`."""
        if self.sources is not None:
            self.yardsticks = self.sources.open(progress)

    def measure(
        self, generator: Generator, progress: OnProgress, seed: int | None = None, table: bool = False
    ) -> list[Result]:
        """The metrics of the first yardstick, or with `table` those of all, with the latents of the run's seed by default.

        None with --metrics=none.
        """
        if self.yardsticks is None:
            return []
        chosen = self.table_yardsticks if table else self.yardsticks.first()
        return chosen.measure(self.shown(generator), self.options.refine.seed if seed is None else seed, progress)

    @cached_property
    def table_yardsticks(self) -> Yardsticks:
        """The yardsticks of the summary's tables, whose floor is measured once."""
        assert self.yardsticks is not None, "used only where something is measured"
        return self.yardsticks.for_table()

    def shown(self, generator: Generator) -> Generator:
        """The generator whose images are measured: of full size, or as the teacher sees them."""
        return generator.full_size() if self.full_size else self.generator.with_full_size(generator.full_size())


def learning_samples(wanted: SampleRequest, total_images: int) -> SamplingOptions:
    """How they are made: unlike those that generators are measured against, and as many as are wanted.

    Where no number is given, half as many as the run has images, from LEARNING_SAMPLES to MOST_LEARNING_SAMPLES; but in a
    run of a few steps four for each of its images, about as many as it looks at, and LEAST_LEARNING_SAMPLES at least.
    """
    usual = min(max(total_images // 2, LEARNING_SAMPLES), MOST_LEARNING_SAMPLES)
    number = wanted.number or min(usual, max(4 * total_images, LEAST_LEARNING_SAMPLES))
    return SamplingOptions(math.ceil(number / 2), wanted.steps, LEARNING_SEED + wanted.seed)


def give_learning_samples(
    objective: Objective, teacher: Teacher, total_images: int, progress: OnProgress = ignore_progress
) -> None:
    """Makes the samples of the teacher that the objective wants, or reads them from the cache. Every process must call it."""
    if (wanted := objective.wanted_samples) is not None:
        options = learning_samples(wanted, total_images)
        made = teacher_samples(teacher, options, progress)
        images = torch.cat([made.reference, made.others])[: wanted.number]
        objective.give_samples(images, labels_of(teacher, options)[: wanted.number])


def build(options: RunOptions, automatic: Collection[str] = ()) -> Run:
    """Reads both networks and builds the objective and the draft of the metrics. Writes nothing. Raises UserError.

    `automatic` are the fields of `options` and of `options.refine` that --preset=auto decides.
    """
    check_trackers(options)
    opened = open_teacher(options.teacher, options.trust_pickle, options.device)
    gan = open_gan(options.gan, options.which, options.trust_pickle, opened)
    denoiser, generator = opened.denoiser, prepare(gan.generator, options)
    frequencies = parse_frequencies(options.labels, generator.spec)
    teacher = replace(opened, frequencies=frequencies)
    reason = ""
    if options.preset == AUTO:
        preset, reason = choose_preset(generator, options.device)
        options = apply_preset(options, preset, automatic)
    options = resolve(options, gan, teacher, generator)
    bridging = bridge_options(options.bridge)
    if bridging is not None:
        generator = bridge(generator, denoiser.spec, bridging)
    check_match(generator.spec, denoiser.spec, options)
    trainable_groups(generator, options.refine.train)  # raises before anything is written
    trained_with = in_precision(denoiser, options.precision)  # it is sampled, and a detector, in float32
    objective = build_objective(options.objective, trained_with, GanFile(generator.discriminator, frequencies))
    glr = resolve_glr(generator, objective, options.refine.glr)
    whitening = resolve_whitening(gan.generator, objective, options)
    options = replace(options, whiten_w=whitening, refine=replace(options.refine, glr=glr))
    if not objective.accepts_batch(size := options.refine.batch_gpu):
        raise OptionError(
            f"--batch-gpu={size} is not a multiple of {objective.batch_multiple}, the discriminator's group; "
            f"give a multiple, or at most {objective.batch_multiple}"
        )
    if options.recompute and recompute_activations(objective) == 0:
        raise OptionError("--recompute is for EDM's U-Nets and this teacher has none; leave it out")
    full_size = bridging is not None and bridging.measure == "full"
    sources = None if options.metrics == "none" else choose_sources(options, generator, full_size, teacher)
    original, draft = (None, None) if sources is None else (copy.deepcopy(generator), sources.draft)
    if whitening:
        generator = gan.generator.whitened(whitening)
    options = resolve_metrics(options, sources)
    return Run(options, gan, generator, reason, original, teacher, objective, sources, draft, full_size)


def prepare(generator: PretrainedGenerator, options: RunOptions) -> Generator:
    """The generator on the run's device, drawing its latents as --labels and --noise-mode say. Raises OptionError."""
    generator.set_latent_options(options.labels, options.noise_mode)
    return generator.to(torch.device(options.device))


def choose_preset(generator: Generator, device: str) -> tuple[str, str]:
    """The preset for such a generator on such a device, and why."""
    size = sum(parameter.numel() for parameter in generator.parameters())
    if device == "cpu":
        return "demo", "the run is on a CPU"
    if size < LARGE:
        return "demo", f"the generator has only {size:,} parameters"
    return generator.preset, f"the generator has {size / 1e6:.1f} M parameters and the run is on a GPU"


def apply_preset(options: RunOptions, name: str, automatic: Collection[str]) -> RunOptions:
    """The options with the preset's values of the fields that are `automatic`; such a micro-batch is this process's whole share.

    Raises OptionError for a micro-batch that was given and does not divide the preset's batch.
    """
    defaults = vars(RefineOptions()) | PRESETS[name]
    fields = {field: value for field, value in defaults.items() if field in automatic and field != "batch_gpu"}
    objective = str(fields.pop("objective", options.objective))
    if "batch" in fields and "batch_gpu" in automatic:
        fields["batch_gpu"] = max(int(fields["batch"]) // distributed.get_world_size(), 1)
    refine = replace(options.refine, **fields)  # type: ignore[arg-type]
    return replace(options, preset=name, objective=objective, refine=refine)


def resolve(options: RunOptions, gan: Gan, teacher: Teacher, generator: Generator) -> RunOptions:
    """The options without `auto` in the objective and its rates, with absolute paths, and with the digests of both files."""
    assert teacher.path is not None, "the teacher of a run comes from a file"
    refine, objective = options.refine, options.objective
    if objective == AUTO:
        objective = "di-gan"
    refine = replace(refine, train=resolve_train(generator, refine.train))
    return replace(
        options,
        objective=complete_spec(objective),
        refine=refine,
        gan=absolute(options.gan),
        teacher=absolute(options.teacher),
        precision=resolve_precision(options.precision, options.device),
        outdir=str(Path(options.outdir).resolve()),
        gan_sha256=assets.sha256(gan.path),
        teacher_sha256=assets.sha256(teacher.path),
    )


def resolve_whitening(generator: PretrainedGenerator, objective: Objective, options: RunOptions) -> float:
    """The power of the whitening of w: as given, or the objective's default where nothing speaks against it. Raises OptionError."""
    train, refusal = options.refine.train, ""
    if options.bridge != "none":
        refusal = "is not for a bridged GAN, whose details are tied to the original's; leave it out"
    elif options.refine.l2_images:
        refusal = "moves images away from the original's, to which --l2-images ties them; leave that out"
    elif not {"affine", "all"} & set(parse_parts(train)):
        refusal = f"changes the affine layers, and --train={train} keeps them as they are; leave that out"
    if options.whiten_w and refusal:
        raise OptionError(f"--whiten-w {refusal}, or give --whiten-w=0")
    possible = generator.can_be_whitened and not refusal
    return objective.default_whitening * possible if options.whiten_w is None else options.whiten_w


def resolve_metrics(options: RunOptions, sources: Sources | None) -> RunOptions:
    """The options without `auto` in --metrics and --detector, where something is measured."""
    if sources is None:
        return options
    detectors = tuple(absolute(text) for text in options.detector)
    if AUTO in detectors:
        detectors = tuple(each.name for each in sources.detectors)
    metrics = RANKING if options.metrics == AUTO else options.metrics
    fid_ref, digest = absolute(options.fid_ref), file_digest(options.fid_ref)
    return replace(options, metrics=metrics, detector=detectors, fid_ref=fid_ref, fid_ref_sha256=digest)


def check_match(gan: ImageSpec, teacher: ImageSpec, options: RunOptions) -> None:
    """Raises MismatchError unless the teacher denoises images like the generator's."""
    if (gan.resolution, gan.channels) != (teacher.resolution, teacher.channels):
        embedded = [name for name in ("gan", "teacher") if getattr(options, name) == DEFAULT_PAIR]
        default = f" (--{embedded[0]} is the embedded {DEFAULT_PAIR})" if len(embedded) == 1 else ""
        way_out = ", or refine what it sees with --bridge=resize" if can_bridge(gan, teacher) else ""
        raise MismatchError(
            f"the GAN makes {gan} images but the teacher denoises {teacher}{default}; "
            f"choose a teacher of the GAN's size{way_out}"
        )
    if teacher.num_classes and not gan.num_classes:
        raise MismatchError(
            f"the teacher denoises images of {teacher.num_classes} classes and needs the class of each, but the GAN makes {gan} "
            "images without classes; choose an unconditional teacher"
        )
    if teacher.num_classes not in (0, gan.num_classes):
        raise MismatchError(
            f"the GAN makes {gan} but the teacher knows {teacher.num_classes} classes; choose a teacher of the same classes, "
            "or an unconditional one"
        )


def class_notice(gan: ImageSpec, teacher: ImageSpec, labels: str) -> str | None:
    """What an unconditional teacher means for a conditional GAN; None for other pairs."""
    if teacher.num_classes or not gan.num_classes:
        return None
    drawn = "drawn uniformly" if labels == UNIFORM else "drawn with the frequencies of --labels"
    return (
        f"The teacher is unconditional: it refines the mixture of the GAN's {gan.num_classes} classes, {drawn}, "
        "and does not hold an image to its class."
    )


def bridge_options(text: str) -> BridgeOptions | None:
    """What --bridge asks for; None for 'none'. Raises OptionError."""
    name, options = parse_spec(text)
    if name == "none" and not options:
        return None
    return build_options(choose("bridge", name, {"resize": BridgeOptions}), options, "--bridge=resize")


def choose_sources(options: RunOptions, generator: Generator, full_size: bool, teacher: Teacher) -> Sources:
    """What --metrics, --detector and --fid-ref name. Raises UserError.

    The metric and the detector that select the best snapshot must be able and allowed to.
    """
    spec, sampled = (generator.full_size().spec, None) if full_size else (generator.spec, teacher)
    chosen = YardstickOptions(
        options.metrics, options.detector, options.fid_ref, options.eval_images, options.teacher_steps
    )
    sources = find_sources(chosen, spec, sampled, options.device)
    if not (metric := sources.metrics[0]).is_distance:
        raise OptionError(
            f"--metrics starts with {metric.kind}, but the first metric selects the best snapshot; give fd or kd first"
        )
    if only_reports(first := sources.detectors[0].name):
        raise OptionError(
            f"detector {first} only reports, and the first one selects the best snapshot; name another first"
        )
    return sources
