"""Several yardsticks at once: each a detector, with the teacher's samples and the data as references. One pass feeds all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from gan_refine.config import DEFAULT_STEPS, NUM_IMAGES
from gan_refine.errors import MismatchError, OptionError
from gan_refine.evaluation.images import IndexedImages, generator_images, stored_images
from gan_refine.evaluation.references import DataSource, data_sources
from gan_refine.evaluation.samples import SamplingOptions, Teacher, teacher_samples
from gan_refine.generators import can_bridge
from gan_refine.interfaces import Generator, ImageSpec, PixelBytes
from gan_refine.metrics import (
    INCEPTION,
    Detector,
    FeatureStatistics,
    Metric,
    MetricCollection,
    Neighbors,
    OnProgress,
    Reference,
    Requirements,
    Result,
    choose_detectors,
    count_images,
    ignore_progress,
    parse_metrics,
    reference_of,
    reference_of_images,
)
from gan_refine.metrics.statistics import SAMPLE_SIZE

AUTO = "auto"
RANKING = "fd"  # what --metrics=auto means


@dataclass(frozen=True)
class Yardstick:
    """A detector with the references in its features: the teacher's samples first, then the data; at least one of them."""

    detector: Detector
    given: tuple[Reference, ...]
    samples: PixelBytes | None = None  # of the teacher, before those that are given

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """All. The features of `samples` are computed when they are first asked for, which every process must do."""
        return self.given if self.samples is None else (_reference_of_samples(self.detector, self.samples), *self.given)

    def collections(self, metrics: Sequence[Metric], num_images: int, ranking: bool = False) -> list[MetricCollection]:
        """The metrics against each reference; with `ranking` the very first tells its uncertainty if it can.

        One that needs more than the moments of the data is left to the teacher's samples.
        """
        found = []
        for number, reference in enumerate(self.references):
            chosen = metrics
            if number:
                chosen = [m for m in metrics if m.requirements.reference]
            if number and reference.features is None:
                chosen = [m for m in chosen if not m.requirements.sample]
            if chosen:
                first = ranking and number == 0
                found.append(MetricCollection(self.detector, reference, num_images, chosen, left_out=first))
        return found


@dataclass(frozen=True)
class Yardsticks:
    """What generators are measured by. The first metric of the first yardstick ranks; `others` are samples for the floor."""

    all: tuple[Yardstick, ...]
    metrics: tuple[Metric, ...]
    num_images: int
    others: PixelBytes | None = None
    ranking: bool = False  # whether the first metric tells its uncertainty
    draft: bool = False  # the references have the sizes of those to come, and nothing else: nothing can be measured

    def __post_init__(self) -> None:
        for yardstick in self.all:  # raises MismatchError before any image is made
            if yardstick.samples is None:
                yardstick.collections(self.metrics, self.num_images)

    def first(self) -> "Yardsticks":
        """The first yardstick alone, which ranks."""
        return replace(self, all=self.all[:1], ranking=True)

    def for_table(self) -> "Yardsticks":
        """The same with recall, precision, coverage and nearest neighbors too, if the first references have enough features."""
        nearest = Neighbors()
        sides = [
            self.num_images,
            *(0 if r.features is None else len(r.features) for r in (y.references[0] for y in self.all)),
        ]
        known = any(metric.kind == nearest.kind for metric in self.metrics)
        return self if known or min(sides) <= nearest.k else replace(self, metrics=(*self.metrics, nearest))

    @property
    def name(self) -> str:
        """The name of the metric that ranks."""
        return self.all[0].collections(self.metrics, self.num_images)[0].name

    @cached_property
    def floor(self) -> list[Result]:
        """All metrics of other samples of the teacher, as many as of a generator; empty without a teacher."""
        return [] if self.others is None else self.measure_images(stored_images(self.others))

    def measure(self, generator: Generator, seed: int, progress: OnProgress = ignore_progress) -> list[Result]:
        """All metrics of a generator's images. Every process must call it."""
        return self.measure_images(generator_images(generator, self.num_images, seed, progress))

    def measure_images(self, stream: IndexedImages) -> list[Result]:
        """All metrics of a stream of `num_images` images, which each detector sees once."""
        assert not self.draft, "Sources.open makes the references"
        fed = [(each.detector, each.collections(self.metrics, self.num_images, self.ranking)) for each in self.all]
        for first, images in stream:
            for detector, collections in fed:
                outputs = detector.outputs(images)
                for collection in collections:
                    collection.update_outputs(outputs, first)
        return [result for _, collections in fed for collection in collections for result in collection.results()]


@dataclass(frozen=True)
class YardstickOptions:
    """What --metrics, --detector, --fid-ref, --eval-images and --teacher-steps say; 0 steps leave the teacher's samples out."""

    metrics: str = AUTO
    detectors: tuple[str, ...] = (AUTO,)
    fid_ref: str = AUTO
    num_images: int = NUM_IMAGES
    teacher_steps: int = DEFAULT_STEPS


@dataclass(frozen=True)
class Sources:
    """Detectors, and what their references will be made of. All that can be checked before the work is checked."""

    options: YardstickOptions
    metrics: tuple[Metric, ...]
    detectors: tuple[Detector, ...]
    data: tuple[DataSource, ...]  # for each detector
    teacher: Teacher | None  # whose samples are references; None without them

    @property
    def sampling(self) -> SamplingOptions:
        return SamplingOptions(self.options.num_images, self.options.teacher_steps)

    @property
    def too_few(self) -> list[tuple[str, str, int]]:
        """Each metric and detector, with its number of features, for which the images are too few to mean much."""
        return [
            (metric.kind, detector.name, detector.num_features)
            for detector in self.detectors
            for metric in self.metrics
            if self.options.num_images < metric.least_images(detector.num_features)
        ]

    def few_images(self, option: str) -> list[str]:
        """Which figures have so few images that the small sample dominates them; `option` gives the number."""
        given, few = self.options.num_images, self.too_few
        if not few:
            return []
        named = ", ".join(f"{metric} in the {features} features of {detector}" for (metric, detector, features) in few)
        return [
            f"{option}={given} is few for {named}: with fewer images than twice the features the small sample "
            f"dominates the distance; give {option}={2 * max(features for _, _, features in few)}"
        ]

    @cached_property
    def draft(self) -> Yardsticks:
        """The yardsticks before any image is made or read. Raises MismatchError if there will be too few images for a metric."""
        num = self.options.num_images
        theirs = [None if self.teacher is None else _draft_reference(each, num, "teacher") for each in self.detectors]
        ours = [
            _draft_reference(detector, count_images(data), "data") if isinstance(data, Path) else data
            for detector, data in zip(self.detectors, self.data, strict=True)
        ]
        both = [tuple(r for r in pair if r is not None) for pair in zip(theirs, ours, strict=True)]
        yardsticks = tuple(Yardstick(d, references) for d, references in zip(self.detectors, both, strict=True))
        return Yardsticks(yardsticks, self.metrics, num, draft=True)

    def open(self, progress: OnProgress = ignore_progress) -> Yardsticks:
        """Reads the data, and samples the teacher or reads its samples. Every process must call it. Raises UserError."""
        ours = [
            reference_of_images(data, detector, progress) if isinstance(data, Path) else data
            for detector, data in zip(self.detectors, self.data, strict=True)
        ]
        samples = None if self.teacher is None else teacher_samples(self.teacher, self.sampling, progress)
        reference, others = (None, None) if samples is None else (samples.reference, samples.others)
        yardsticks = tuple(
            Yardstick(detector, () if data is None else (data,), reference)
            for detector, data in zip(self.detectors, ours, strict=True)
        )
        return Yardsticks(yardsticks, self.metrics, self.options.num_images, others)


def find_sources(
    options: YardstickOptions, spec: ImageSpec, teacher: Teacher | None = None, device: torch.device | str = "cpu"
) -> Sources:
    """What generators of `spec` images will be measured by. Raises UserError.

    With `auto` a detector without any reference is left out; one that is named is an error then.
    """
    _check_size(teacher, spec)
    metrics, detectors = resolve_metrics(options)
    chosen = tuple(parse_metrics(metrics))
    denoiser = None if teacher is None else teacher.denoiser
    found = choose_detectors(detectors, spec, denoiser, device)
    sampled = teacher if options.teacher_steps else None
    pairs = []
    for detector, data in zip(found, data_sources(options.fid_ref, found), strict=True):
        if sampled is not None or data is not None:
            pairs.append((detector, data))
        elif AUTO not in detectors:
            raise OptionError(f"{NOTHING} for detector {detector.name}; {WAY_OUT}")
    if not pairs:
        raise OptionError(f"{NOTHING}; {WAY_OUT}")
    sources = Sources(options, chosen, tuple(d for d, _ in pairs), tuple(data for _, data in pairs), sampled)
    _ = sources.draft  # raises before anything that takes time
    return sources


def open_yardsticks(
    options: YardstickOptions,
    spec: ImageSpec,
    teacher: Teacher | None = None,
    device: torch.device | str = "cpu",
    progress: OnProgress = ignore_progress,
) -> Yardsticks:
    """`find_sources` and `Sources.open` in one."""
    return find_sources(options, spec, teacher, device).open(progress)


def _draft_reference(detector: Detector, images: int, source: str) -> Reference:
    """A reference of the right sizes, without memory of its own."""
    d, zero = detector.num_features, torch.zeros([], dtype=torch.float64)
    features = zero.to(torch.float32).expand(min(images, SAMPLE_SIZE), d)
    return Reference(zero.expand(d), zero.expand(d, d), images, 1, detector.name, features, source)


NOTHING = "there is nothing to measure against"
WAY_OUT = "give a teacher with --teacher-steps above 0, or data with --fid-ref"


def _check_size(teacher: Teacher | None, spec: ImageSpec) -> None:
    if teacher is None:
        return
    theirs = teacher.denoiser.spec
    if (theirs.channels, theirs.resolution) != (spec.channels, spec.resolution):
        way_out = ", or measure what it sees with --bridge=resize" if can_bridge(spec, theirs) else ""
        raise MismatchError(
            f"the GAN makes {spec} images but the teacher {theirs}; choose a teacher of the GAN's size{way_out}"
        )


def _reference_of_samples(detector: Detector, samples: PixelBytes) -> Reference:
    statistics = FeatureStatistics(detector, len(samples), Requirements(sample=True))
    for first, images in stored_images(samples):
        statistics.update(detector.outputs(images), first)
    return reference_of(statistics.across_processes(), source="teacher")


def resolve_metrics(options: YardstickOptions) -> tuple[str, tuple[str, ...]]:
    """--metrics without `auto`, and the detectors: `fid` and `kid` mean Inception unless a detector is given."""
    metrics = RANKING if options.metrics == AUTO else options.metrics
    if options.detectors == (AUTO,) and {"fid", "kid"} & set(metrics.split(",")):
        return metrics, (INCEPTION,)
    return metrics, options.detectors
