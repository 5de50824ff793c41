"""Generators and teachers measured with the metrics, the detector and the reference that the user names."""

from pathlib import Path

import torch

from gan_refine import assets
from gan_refine.config import require
from gan_refine.errors import MismatchError, OptionError
from gan_refine.evaluation.images import IndexedImages, generator_images, teacher_images
from gan_refine.evaluation.references import Teacher, open_reference
from gan_refine.interfaces import Denoiser, Generator, ImageSpec
from gan_refine.metrics import (
    INCEPTION,
    MetricCollection,
    OnProgress,
    Result,
    choose_detector,
    ignore_progress,
    parse_metrics,
)
from gan_refine.teachers import load_edm


def evaluate(
    generator: Generator,
    *,
    metrics: str = "fd",
    detector: str = "auto",
    reference: str | Path = "auto",
    teacher: Teacher | Denoiser | str | Path | None = None,
    images: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Metrics of `images` images of a generator, on its device: {"fd10k-fashion16": 8.66}.

    The texts are those of the options --metrics, --detector and --fid-ref. `reference="teacher"` compares with samples of
    `teacher`: an EDM pickle by name, path or URL, or a denoiser on the same device. The samples are cached unless it is
    a bare denoiser. The same seed gives the same latents. Under torchrun every process must call it. Raises UserError.
    """
    require("seed", seed, seed >= 0, "at least 0")
    if teacher is not None and not str(reference).startswith("teacher"):
        raise OptionError(f"a teacher has no use with reference={reference}; give reference='teacher'")
    device = next(generator.parameters()).device
    opened = None if teacher is None else _open_teacher(teacher, device)
    chosen = open_metrics(metrics, detector, str(reference), generator.spec, images, opened, device)
    return {name: value for result in measure(generator, chosen, seed) for name, value in result.values.items()}


def _open_teacher(teacher: Teacher | Denoiser | str | Path, device: torch.device) -> Teacher:
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, Denoiser):
        return Teacher(None, teacher)
    path = assets.resolve("teacher", str(teacher))
    return Teacher(path, load_edm(path).to(device))


def open_metrics(
    metrics: str,
    detector: str,
    fid_ref: str,
    spec: ImageSpec,
    num_images: int,
    teacher: Teacher | None = None,
    device: torch.device | str = "cpu",
    progress: OnProgress = ignore_progress,
) -> MetricCollection:
    """The metrics that --metrics, --detector and --fid-ref name, for `num_images` images of `spec`. Raises UserError.

    A reference is opened only if a metric needs one or `fid_ref` is not `auto`.
    """
    if teacher is not None:
        theirs = teacher.denoiser.spec
        if (theirs.channels, theirs.resolution) != (spec.channels, spec.resolution):
            raise MismatchError(
                f"the GAN makes {spec} images but the teacher {theirs}; choose a teacher of the GAN's size"
            )
    metrics, detector = resolve_detector(metrics, detector)
    chosen = parse_metrics(metrics)
    found = choose_detector(detector, spec, device)
    reference = None
    if fid_ref != "auto" or any(metric.requirements.reference for metric in chosen):
        reference = open_reference(fid_ref, found, teacher, progress)
    return MetricCollection(found, reference, num_images, chosen)


def resolve_detector(metrics: str, detector: str) -> tuple[str, str]:
    """--metrics without a detector's name, and the detector that both options mean.

    `auto` and `fd-NAME` are `fd`, the latter in the detector NAME. `fid` and `kid` mean Inception unless a detector is
    given. Raises OptionError if both options name a detector.
    """
    if metrics == "auto":
        return "fd", detector
    head, _, rest = metrics.partition("-")
    if head == "fd" and rest:
        if detector != "auto":
            raise OptionError(f"--metrics={metrics} names a detector, and --detector={detector} another; give one")
        return head, rest
    if detector == "auto" and {"fid", "kid"} & set(metrics.split(",")):
        return metrics, INCEPTION
    return metrics, detector


def check_first_is_distance(metrics: MetricCollection) -> None:
    """Raises OptionError unless lower values of the first metric are better: the first selects a run's best snapshot."""
    if metrics.metrics[0].higher_is_better:
        raise OptionError(
            f"--metrics starts with {metrics.metrics[0].kind}, but the first metric selects the best snapshot; "
            "give fd or kd first"
        )


def measure(
    generator: Generator, metrics: MetricCollection, seed: int, progress: OnProgress = ignore_progress
) -> list[Result]:
    """All metrics of the generator's images; `metrics` itself stays as it is. Every process must call it."""
    return _results(metrics, generator_images(generator, metrics.num_images, seed, progress))


def measure_teacher(
    teacher: Teacher, metrics: MetricCollection, steps: int, seed: int, progress: OnProgress = ignore_progress
) -> list[Result]:
    """All metrics of the teacher's own samples, with `steps` calls for each image."""
    samples = teacher_images(teacher.denoiser, metrics.num_images, steps, seed, progress, teacher.frequencies)
    return _results(metrics, samples)


def _results(metrics: MetricCollection, stream: IndexedImages) -> list[Result]:
    measured = metrics.empty_copy()
    for first, images in stream:
        measured.update(images, first)
    return measured.results()
