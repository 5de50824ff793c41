"""Figures of merit over streams of images, chosen by name from METRICS."""

from gan_refine.metrics.detectors import Detector, load_detector
from gan_refine.metrics.distance import FrechetMetric, to_uint8
from gan_refine.metrics.frechet import frechet_distance
from gan_refine.metrics.moments import Moments
from gan_refine.metrics.references import Reference, load_reference

METRICS: dict[str, type[FrechetMetric]] = {"frechet": FrechetMetric}

__all__ = ["METRICS", "Detector", "FrechetMetric", "Moments", "Reference"]
__all__ += ["frechet_distance", "load_detector", "load_reference", "to_uint8"]
