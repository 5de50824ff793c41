"""Generators and teachers measured: metrics against a reference, recall of the teacher, uncertainty, picture grids."""

from gan_refine.evaluation.evaluate import (
    check_first_is_distance,
    evaluate,
    measure,
    measure_teacher,
    open_metrics,
    resolve_detector,
)
from gan_refine.evaluation.images import generator_images, grid_latents, render
from gan_refine.evaluation.recall import RecallMeter, open_recall
from gan_refine.evaluation.references import SamplingOptions, Teacher, open_reference
from gan_refine.evaluation.statistics import Estimate, PairedComparison, estimate, gap_closed

__all__ = [
    "Estimate",
    "PairedComparison",
    "RecallMeter",
    "SamplingOptions",
    "Teacher",
    "check_first_is_distance",
    "estimate",
    "evaluate",
    "gap_closed",
    "generator_images",
    "grid_latents",
    "measure",
    "measure_teacher",
    "open_metrics",
    "open_recall",
    "open_reference",
    "render",
    "resolve_detector",
]
