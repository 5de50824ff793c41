"""Generators measured: yardsticks with the teacher's samples and the data as references, the table, baselines, picture grids."""

from gan_refine.evaluation.baselines import baselines
from gan_refine.evaluation.evaluate import evaluate
from gan_refine.evaluation.images import CHUNK, generator_images, grid_latents, render
from gan_refine.evaluation.sampled_teacher import SampledTeacher
from gan_refine.evaluation.samples import (
    SamplingOptions,
    Teacher,
    TeacherSamples,
    are_cached,
    cached_images,
    labels_of,
    teacher_samples,
)
from gan_refine.evaluation.statistics import Estimate, Interval, PairedComparison, estimate, gap_closed, interval
from gan_refine.evaluation.table import FLOOR, Measured, Table, tabulate, verdict
from gan_refine.evaluation.yardsticks import (
    NUM_IMAGES,
    RANKING,
    Sources,
    Yardstick,
    YardstickOptions,
    Yardsticks,
    find_sources,
    open_yardsticks,
)

__all__ = [
    "CHUNK",
    "FLOOR",
    "NUM_IMAGES",
    "RANKING",
    "Estimate",
    "Interval",
    "Measured",
    "PairedComparison",
    "SampledTeacher",
    "SamplingOptions",
    "Sources",
    "Table",
    "Teacher",
    "TeacherSamples",
    "Yardstick",
    "YardstickOptions",
    "Yardsticks",
    "are_cached",
    "baselines",
    "cached_images",
    "estimate",
    "evaluate",
    "find_sources",
    "gap_closed",
    "generator_images",
    "grid_latents",
    "interval",
    "labels_of",
    "open_yardsticks",
    "render",
    "tabulate",
    "teacher_samples",
    "verdict",
]
