"""Figures of merit over streams of images, chosen by name from METRICS, in features of detectors, from DETECTORS."""

from gan_refine.metrics.choosing import DETECTORS, METRICS, fitting_detector, open_detector, parse_metrics
from gan_refine.metrics.detectors import Detector, Outputs, load_detector
from gan_refine.metrics.distance import FrechetMetric, Panel, Result, metric_name, to_uint8
from gan_refine.metrics.frechet import Frechet, frechet_distance
from gan_refine.metrics.image_files import read_images, reference_of_images
from gan_refine.metrics.moments import Moments
from gan_refine.metrics.references import Reference, load_reference, save_reference
from gan_refine.metrics.statistics import Needs, Statistics

__all__ = ["DETECTORS", "METRICS", "Detector", "Frechet", "FrechetMetric", "Moments", "Needs", "Outputs", "Panel"]
__all__ += [
    "Reference",
    "Result",
    "Statistics",
    "fitting_detector",
    "frechet_distance",
    "load_detector",
    "load_reference",
]
__all__ += ["metric_name", "open_detector", "parse_metrics", "read_images", "reference_of_images", "save_reference"]
__all__ += ["to_uint8"]
