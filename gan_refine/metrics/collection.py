"""Several metrics of one stream of images from one pass of the detector."""

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import replace

from gan_refine.errors import MismatchError, NonFiniteError
from gan_refine.interfaces import PixelBytes
from gan_refine.metrics.detectors import Detector, Outputs
from gan_refine.metrics.frechet import FrechetDistance
from gan_refine.metrics.inception import NAME as INCEPTION
from gan_refine.metrics.metric import Metric, Result
from gan_refine.metrics.references import Reference
from gan_refine.metrics.statistics import NUM_BLOCKS, FeatureStatistics, Requirements


class MetricCollection:
    """Metrics of the first `num_images` images of a stream. `name` is the name of the first metric.

    With `left_out` the first one's result tells its uncertainty, if it can and there are two images for each block.
    Raises MismatchError if the reference was made with another detector, or if there are too few images for a metric.
    """

    def __init__(
        self,
        detector: Detector,
        reference: Reference | None,
        num_images: int,
        metrics: Sequence[Metric] = (FrechetDistance(),),
        left_out: bool = False,
    ) -> None:
        requirements = functools.reduce(operator.or_, (metric.requirements for metric in metrics))
        self.left_out = left_out and num_images >= 2 * NUM_BLOCKS
        if self.left_out:
            requirements |= Requirements(blocks=True)
        if reference is not None:
            reference.check(detector)
        elif requirements.reference:
            raise MismatchError("every metric except is needs a reference; give --fid-ref")
        if num_images < 2:
            raise MismatchError(f"metrics need at least 2 images, got {num_images}")
        self.detector = detector
        self.reference = reference
        self.num_images = num_images
        self.metrics = tuple(metrics)
        for metric in metrics:  # from here on the reference is None only if no metric needs one
            metric.check(num_images, reference)  # type: ignore[arg-type]
        self.source = "data" if reference is None else reference.source
        self.names = [metric_name(detector.name, num_images, metric.kind, self.source) for metric in metrics]
        self.name = self.names[0]
        self._statistics = FeatureStatistics(detector, num_images, requirements)
        self._next = 0

    def empty_copy(self) -> "MetricCollection":
        """The same metrics, detector and reference, with no image seen."""
        return MetricCollection(self.detector, self.reference, self.num_images, self.metrics, self.left_out)

    def update(self, images_uint8: PixelBytes, first: int | None = None) -> None:
        """Adds images [N, C, H, W]; `first` is the index in the stream of the first, by default the next index.

        Images with index `num_images` or larger are ignored. Each index must come once, on one of the processes.
        """
        first = self._next if first is None else first
        wanted = images_uint8[: max(self.num_images - first, 0)]
        if len(wanted):
            self.update_outputs(self.detector.outputs(wanted), first)
        self._next = first + len(images_uint8)

    def update_outputs(self, outputs: Outputs, first: int) -> None:
        """Adds what the detector gives for the images with the indices `first`, `first` + 1, ... below `num_images`."""
        self._statistics.update(outputs, first)

    def result(self) -> dict[str, float]:
        """{name: value} of all metrics. Raises MismatchError before `num_images` images have come."""
        return {name: value for result in self.results() for name, value in result.values.items()}

    def results(self) -> list[Result]:
        """One record for each metric, over the images of all processes. Every process must call it.

        Raises MismatchError before `num_images` images have come.
        """
        whole = self._statistics.across_processes()
        if whole.moments.count != self.num_images:
            raise MismatchError(f"{self.name} needs {self.num_images} images and has seen {whole.moments.count}")
        found = [self._result(metric, name, whole) for metric, name in zip(self.metrics, self.names, strict=True)]
        if self.left_out:
            found[0] = replace(found[0], left_out=self.metrics[0].left_out(whole, self.reference))  # type: ignore[arg-type]
        return found

    def _result(self, metric: Metric, name: str, whole: FeatureStatistics) -> Result:
        values = metric(whole, self.reference)  # type: ignore[arg-type]
        convention = metric.convention(whole, self.reference)  # type: ignore[arg-type]
        if self.reference is not None and self.reference.images_read is not None:
            convention |= {"reference_read": self.reference.images_read}
        named = {name + suffix: value for suffix, value in values.items()}
        for label, value in named.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"{label} is {value}, which is no figure; check the images and the reference")
        better = {name + suffix: direction for suffix, direction in metric.better.items() if suffix in values}
        return Result(name, metric.kind, self.source, named, convention, better)


def metric_name(detector_name: str, num_images: int, kind: str = "fd", source: str = "data") -> str:
    """`fd10k-fashion16`: kind, number of images, detector, and the source of the reference unless it is data.

    fd and kd are called fid and kid only in Inception's last features and against data: `fid10k-inception`. The FID of
    50,000 images is `fid50k_full`, as in StyleGAN.
    """
    count = f"{num_images // 1000}k" if num_images % 1000 == 0 else str(num_images)
    if detector_name == INCEPTION and source == "data":
        kind = {"fd": "fid", "kd": "kid"}.get(kind, kind)
        if num_images == 50_000 and kind == "fid":
            return "fid50k_full"
    suffix = f"-{source}" if source != "data" and kind != "is" else ""
    return f"{kind}{count}-{detector_name}{suffix}"
