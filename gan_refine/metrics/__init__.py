"""Metrics of image streams, chosen by name from METRICS, in the features of a detector, chosen by name from DETECTORS."""

from gan_refine.metrics.collection import MetricCollection, metric_name
from gan_refine.metrics.detectors import Detector, Outputs, load_detector
from gan_refine.metrics.extra_detectors import ModuleDetector
from gan_refine.metrics.frechet import FrechetDistance, frechet_distance
from gan_refine.metrics.image_files import OnProgress, count_images, ignore_progress, read_images, reference_of_images
from gan_refine.metrics.inception import NAME as INCEPTION
from gan_refine.metrics.metric import Metric, Result
from gan_refine.metrics.moments import Moments
from gan_refine.metrics.precision_recall import Neighbors
from gan_refine.metrics.references import Reference, load_reference, reference_of, save_reference
from gan_refine.metrics.statistics import FeatureStatistics, Requirements
from gan_refine.metrics.tables import (
    DETECTORS,
    EMBEDDED_DETECTORS,
    METRICS,
    PIXELS,
    choose_detectors,
    only_reports,
    open_detector,
    parse_metrics,
    role,
)

__all__ = [
    "DETECTORS",
    "EMBEDDED_DETECTORS",
    "INCEPTION",
    "METRICS",
    "PIXELS",
    "Detector",
    "FeatureStatistics",
    "FrechetDistance",
    "Metric",
    "MetricCollection",
    "ModuleDetector",
    "Moments",
    "Neighbors",
    "OnProgress",
    "Outputs",
    "Reference",
    "Requirements",
    "Result",
    "choose_detectors",
    "count_images",
    "frechet_distance",
    "ignore_progress",
    "load_detector",
    "load_reference",
    "metric_name",
    "only_reports",
    "open_detector",
    "parse_metrics",
    "read_images",
    "reference_of",
    "reference_of_images",
    "role",
    "save_reference",
]
