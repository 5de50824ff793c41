"""Figures of merit over streams of images, chosen by name from METRICS, in features of detectors, from DETECTORS."""

from gan_refine.metrics.choosing import (
    DETECTORS,
    EMBEDDED,
    METRICS,
    fitting_detector,
    open_detector,
    parse_metrics,
)
from gan_refine.metrics.detectors import Detector, Outputs, load_detector
from gan_refine.metrics.distance import Panel, Result, metric_name, to_uint8
from gan_refine.metrics.frechet import Frechet, frechet_distance
from gan_refine.metrics.image_files import read_images, reference_of_images
from gan_refine.metrics.inception import NAME as INCEPTION
from gan_refine.metrics.moments import Moments
from gan_refine.metrics.neighbours import Recall
from gan_refine.metrics.references import Reference, load_reference, reference_of, save_reference
from gan_refine.metrics.second_opinions import ModuleDetector
from gan_refine.metrics.statistics import Needs, Statistics

__all__ = [
    "DETECTORS",
    "EMBEDDED",
    "INCEPTION",
    "METRICS",
    "Detector",
    "Frechet",
    "ModuleDetector",
    "Moments",
    "Needs",
    "Outputs",
    "Panel",
    "Recall",
    "Reference",
    "Result",
    "Statistics",
    "fitting_detector",
    "frechet_distance",
    "load_detector",
    "load_reference",
    "metric_name",
    "open_detector",
    "parse_metrics",
    "read_images",
    "reference_of",
    "reference_of_images",
    "save_reference",
    "to_uint8",
]
