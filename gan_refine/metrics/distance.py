"""Several metrics of one stream of images: the detector looks at each image once."""

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from gan_refine.errors import MismatchError
from gan_refine.interfaces import Images, PixelBytes
from gan_refine.metrics.detectors import Detector
from gan_refine.metrics.frechet import Frechet
from gan_refine.metrics.inception import NAME as INCEPTION
from gan_refine.metrics.references import Reference
from gan_refine.metrics.statistics import Needs, Statistics


@runtime_checkable
class Figure(Protocol):
    """One metric as a function of what was kept of the stream: suffix -> value, with "" for its main figure.

    The reference is None only where `needs.reference` is False. `facts` are the convention that the values follow.
    """

    @property
    def kind(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    @property
    def needs(self) -> Needs: ...

    def check(self, num_images: int, reference: Reference) -> None:
        """Raises MismatchError where so many images, or those of the reference, are too few: before any is looked at."""

    def __call__(self, fake: Statistics, reference: Reference) -> dict[str, float]: ...

    def facts(self, fake: Statistics, reference: Reference) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class Result:
    """The figures of one metric by their full names, and the convention that they follow."""

    metric: str
    values: dict[str, float]
    facts: dict[str, object]
    higher_is_better: bool


def to_uint8(images: Images) -> PixelBytes:
    """Images in [-1, 1] as bytes by the convention of StyleGAN: x * 127.5 + 128, clamped and truncated."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


class Panel:
    """A Metric of exactly `num_images` images: all `figures` from one pass, each named with its detector.

    Its own name is that of the first figure.
    """

    def __init__(
        self, detector: Detector, reference: Reference | None, num_images: int, figures: Sequence[Figure] = (Frechet(),)
    ) -> None:
        needs = functools.reduce(operator.or_, (figure.needs for figure in figures))
        if reference is not None:
            reference.check(detector)
        elif needs.reference:
            raise MismatchError("all metrics but is compare with a reference; give --fid-ref")
        if num_images < 2:
            raise MismatchError(f"metrics need at least 2 images, got {num_images}")
        for figure in figures:
            # A figure that compares has a reference, by the check above; the others ignore it.
            figure.check(num_images, reference)  # type: ignore[arg-type]
        self.detector = detector
        self.reference = reference
        self.num_images = num_images
        self.figures = tuple(figures)
        source = "data" if reference is None else reference.source
        self.names = [metric_name(detector.name, num_images, figure.kind, source) for figure in figures]
        self.name = self.names[0]
        self._statistics = Statistics(detector, num_images, needs)
        self._next = 0

    def fresh(self) -> "Panel":
        """The same for another stream."""
        return Panel(self.detector, self.reference, self.num_images, self.figures)

    def update(self, images_uint8: PixelBytes, first: int | None = None) -> None:
        """Takes in images; those numbered `num_images` and beyond (the rest of a last batch) are left out."""
        first = self._next if first is None else first
        wanted = images_uint8[: max(self.num_images - first, 0)]
        if len(wanted):
            self._statistics.update(self.detector.outputs(wanted), first)
        self._next = first + len(images_uint8)

    def result(self) -> dict[str, float]:
        """{name: value} of every figure. Raises MismatchError before `num_images` images have come."""
        return {name: value for result in self.results() for name, value in result.values.items()}

    def results(self) -> list[Result]:
        """The same, one record a metric. With several processes each must call it, and all get the whole."""
        whole = self._statistics.across_processes()
        if whole.moments.count != self.num_images:
            raise MismatchError(f"{self.name} needs {self.num_images} images and has seen {whole.moments.count}")
        return [self._evaluate(figure, name, whole) for figure, name in zip(self.figures, self.names, strict=True)]

    def _evaluate(self, figure: Figure, name: str, whole: Statistics) -> Result:
        values = figure(whole, self.reference)  # type: ignore[arg-type]
        facts = figure.facts(whole, self.reference)  # type: ignore[arg-type]
        named = {name + suffix: value for suffix, value in values.items()}
        return Result(name, named, dict(facts), figure.higher_is_better)


def metric_name(detector_name: str, num_images: int, kind: str = "fd", source: str = "data") -> str:
    """`fd10k-fashion16`. FID and KID are names in Inception's last features and against data alone: `fid10k-inception`.

    Of 50,000 images the former is the field's `fid50k_full`.
    """
    count = f"{num_images // 1000}k" if num_images % 1000 == 0 else str(num_images)
    if detector_name == INCEPTION and source == "data":
        kind = {"fd": "fid", "kd": "kid"}.get(kind, kind)
        if num_images == 50_000 and kind == "fid":
            return "fid50k_full"
    suffix = f"-{source}" if source != "data" and kind != "is" else ""
    return f"{kind}{count}-{detector_name}{suffix}"
