"""From the options of a run to its objects: generator, teacher, objective and metrics."""

import copy
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import torch
from tqdm import tqdm

from gan_refine import assets
from gan_refine.config import build_options, choose, parse_spec
from gan_refine.errors import MismatchError, OptionError
from gan_refine.evaluation import (
    RecallMeter,
    Teacher,
    check_first_is_distance,
    measure,
    open_metrics,
    open_recall,
    resolve_detector,
)
from gan_refine.generators import BridgeOptions, PretrainedGenerator, bridge, can_bridge
from gan_refine.interfaces import Generator, ImageSpec, Objective
from gan_refine.labels import UNIFORM, parse_frequencies
from gan_refine.metrics import EMBEDDED_DETECTORS, MetricCollection, Result
from gan_refine.objectives import GanFile, build_objective, complete_spec, objective_class
from gan_refine.refine import trainable_groups
from gan_refine.run.networks import Gan, open_gan, open_teacher
from gan_refine.run.options import AUTO, RunOptions, absolute
from gan_refine.teachers import recompute_activations

CHECKPOINT_FORMAT = 2


class Header(TypedDict):
    """The head of a checkpoint."""

    format: int
    sha256: dict[str, str]
    torch: str


@dataclass
class Run:
    """The objects of a run, and its resolved options. Each network file was opened, parsed and hashed once for it."""

    options: RunOptions
    gan: Gan
    generator: Generator
    original: (
        Generator | None
    )  # a copy of the generator before refinement, if --fid-seeds wants to measure it at the end
    teacher: Teacher
    objective: Objective
    metric: MetricCollection | None
    recall: RecallMeter | None
    full_size: bool  # whether the metric measures full-size images of a bridged generator; False without a bridge

    @property
    def header(self) -> Header:
        """What each checkpoint says of its format and of the files that the run started from."""
        digests = {"gan": self.options.gan_sha256, "teacher": self.options.teacher_sha256}
        return {"format": CHECKPOINT_FORMAT, "sha256": digests, "torch": str(torch.__version__)}

    @property
    def bridged(self) -> bool:
        return self.generator.full_size() is not self.generator

    @property
    def measured_spec(self) -> ImageSpec:
        """The images that the metric measures."""
        return self.generator.full_size().spec if self.full_size else self.generator.spec

    def load_refined(self, path: Path) -> Generator:
        """A refined pickle of this run, on its device, whose latents are drawn as this run draws them."""
        return prepare(type(self.gan.generator).load(path, self.options.which), self.options)

    def measure(self, generator: Generator, seed: int | None = None) -> list[Result]:
        """All metrics, with the latents of the run's seed by default; none without a metric."""
        if self.metric is None:
            return []
        shown = generator.full_size() if self.full_size else self._at_teacher_size(generator)
        return measure(shown, self.metric, self.options.refine.seed if seed is None else seed)

    def measure_recall(self, generator: Generator) -> list[Result]:
        """The recall of the teacher's samples by the generator; empty without --recall."""
        if self.recall is None:
            return []
        return measure(self._at_teacher_size(generator), self.recall.metrics, self.options.refine.seed)

    def _at_teacher_size(self, generator: Generator) -> Generator:
        return self.generator.with_full_size(generator.full_size())


def build(options: RunOptions, automatic: Collection[str] = (), dry_run: bool = False) -> Run:
    """Reads both networks and builds the objective and the metrics. Raises UserError.

    `automatic` are the fields of `options.refine` that the objective's class decides (pool_images, glr). Writes nothing, except
    that a reference of teacher samples goes to the cache; a dry run leaves that out.
    """
    opened = open_teacher(options.teacher, options.trust_pickle, options.device)
    gan = open_gan(options.gan, options.which, options.trust_pickle, opened)
    denoiser, generator = opened.denoiser, prepare(gan.generator, options)
    frequencies = parse_frequencies(options.labels, generator.spec)
    teacher = replace(opened, frequencies=frequencies)
    options = resolve(options, automatic, gan, teacher, generator)
    bridging = bridge_options(options.bridge)
    if bridging is not None:
        generator = bridge(generator, denoiser.spec, bridging)
    check_match(generator.spec, denoiser.spec)
    trainable_groups(generator, options.refine.train)  # raises before anything is written
    objective = build_objective(options.objective, denoiser, GanFile(generator.discriminator, frequencies))
    if options.recompute and recompute_activations(objective) == 0:
        raise OptionError("--recompute is for EDM's U-Nets and this teacher has none; leave it out")
    recall = None if dry_run else make_recall(options, generator.spec, teacher)
    metric, full_size = None, False
    if not (dry_run and options.fid_ref.startswith("teacher")):
        metric, full_size = choose_metric(options, generator, bridging, teacher)
    original = copy.deepcopy(generator) if options.fid_seeds and metric is not None else None
    options = resolve_metric(options, metric, recall)
    return Run(options, gan, generator, original, teacher, objective, metric, recall, full_size)


def prepare(generator: PretrainedGenerator, options: RunOptions) -> Generator:
    """The generator on the run's device, drawing its latents as --labels and --noise-mode say. Raises OptionError."""
    generator.set_latent_options(options.labels, options.noise_mode)
    return generator.to(torch.device(options.device))


def resolve(
    options: RunOptions, automatic: Collection[str], gan: Gan, teacher: Teacher, generator: Generator
) -> RunOptions:
    """The options without `auto` in the objective and its rates, with absolute paths, and with the digests of both files."""
    assert teacher.path is not None, "the teacher of a run comes from a file"
    refine, objective = options.refine, options.objective
    if objective == AUTO:
        alternating = "pool_images" not in automatic and refine.pool_images == 0
        objective = "diff-instruct" if alternating else "di-perceptual"
    cls = objective_class(objective)
    if "pool_images" in automatic:
        refine = replace(refine, pool_images=cls.default_pool_images)
    if "glr" in automatic:
        rate = cls.default_pool_lr if refine.pool_images else cls.default_lr
        refine = replace(refine, glr=min(rate, generator.max_default_lr))
    return replace(
        options,
        objective=complete_spec(objective),
        refine=refine,
        gan=absolute(options.gan),
        teacher=absolute(options.teacher),
        outdir=str(Path(options.outdir).resolve()),
        gan_sha256=assets.sha256(gan.path),
        teacher_sha256=assets.sha256(teacher.path),
    )


def resolve_metric(options: RunOptions, metric: MetricCollection | None, recall: RecallMeter | None) -> RunOptions:
    """The options without `auto` in --metrics, --detector and --fid-ref, where something is measured."""
    measured = metric or (recall.metrics if recall is not None else None)
    if measured is None:
        return options
    metrics, detector = resolve_detector(options.metrics, options.detector)
    if detector == AUTO:
        detector = measured.detector.name
    fid_ref = detector if options.fid_ref == AUTO and detector in EMBEDDED_DETECTORS else options.fid_ref
    return replace(options, metrics=metrics, detector=absolute(detector), fid_ref=absolute(fid_ref))


def check_match(gan: ImageSpec, teacher: ImageSpec) -> None:
    """Raises MismatchError unless the teacher denoises images like the generator's."""
    if (gan.resolution, gan.channels) != (teacher.resolution, teacher.channels):
        way_out = ", or refine what it sees with --bridge=resize" if can_bridge(gan, teacher) else ""
        raise MismatchError(
            f"the GAN makes {gan} images but the teacher denoises {teacher}; choose a teacher of the GAN's size{way_out}"
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


def choose_metric(
    options: RunOptions, generator: Generator, bridging: BridgeOptions | None, teacher: Teacher
) -> tuple[MetricCollection | None, bool]:
    """The metric, and whether it measures the full-size images of a bridge: by default where a detector and a reference fit."""
    if bridging is None or bridging.measure == "teacher":
        return make_metric(options, generator.spec, teacher), False
    try:
        return make_metric(options, generator.full_size().spec, None), True
    except (MismatchError, OptionError):
        if bridging.measure == "full":
            raise
        return make_metric(options, generator.spec, teacher), False


def make_metric(options: RunOptions, spec: ImageSpec, teacher: Teacher | None) -> MetricCollection | None:
    """The metrics named by --metrics, or None for 'none'."""
    if options.metrics == "none":
        return None
    with _sampling() as bar:
        chosen = options.metrics, options.detector, options.fid_ref
        metrics = open_metrics(*chosen, spec, options.eval_images, teacher, options.device, bar.update)
    check_first_is_distance(metrics)
    return metrics


def make_recall(options: RunOptions, spec: ImageSpec, teacher: Teacher) -> RecallMeter | None:
    """What --recall asks for, in the detector of the metrics."""
    if options.recall == 0:
        return None
    with _sampling() as bar:
        chosen = options.metrics, options.detector
        return open_recall(options.recall, *chosen, spec, teacher, options.device, bar.update)


def _sampling() -> tqdm:
    return tqdm(unit="img", file=sys.stderr, desc="sampling the teacher", disable=None, leave=False)
