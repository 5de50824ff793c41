"""What a run tells about itself: figures of generator and teacher with their noise, pictures, the final summary."""

from gan_refine.report.evaluation import (
    distance_of_generator,
    distance_of_teacher,
    grid_latents,
    render,
    show_generator,
)
from gan_refine.report.panel import measure, open_panel
from gan_refine.report.recall import RecallMeter, open_recall
from gan_refine.report.reference import TeacherFile, TeacherReference, open_reference
from gan_refine.report.summary import RecallSummary, Summary
from gan_refine.report.uncertainty import Estimate, Paired, estimate

__all__ = ["Estimate", "Paired", "RecallMeter", "RecallSummary", "Summary", "TeacherFile", "TeacherReference"]
__all__ += [
    "distance_of_generator",
    "distance_of_teacher",
    "estimate",
    "grid_latents",
    "measure",
    "open_panel",
    "open_recall",
    "open_reference",
    "render",
    "show_generator",
]
