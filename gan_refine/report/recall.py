"""Recall against the teacher's own samples: how much of them a generator still covers. Needs no data."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gan_refine.interfaces import ImageSpec
from gan_refine.metrics import Panel, Recall, fitting_detector
from gan_refine.report.panel import spell_out
from gan_refine.report.reference import TeacherFile, TeacherReference, teacher_reference

STEPS = 20  # calls of the teacher for each of its samples


@dataclass(frozen=True)
class RecallMeter:
    """A panel of `Recall` alone against teacher samples; `teacher_value` is the recall of as many other teacher samples."""

    panel: Panel
    teacher_value: float


def open_recall(
    num_images: int,
    metrics: str,
    detector: str,
    spec: ImageSpec,
    teacher: TeacherFile,
    device: str = "cpu",
    tick: Callable[[int], object] = lambda n: None,
) -> RecallMeter:
    """Of `num_images` on each side, in the detector that --metrics and --detector imply; the samples come from the cache
    if they were made before. Raises UserError."""
    found = fitting_detector(spell_out(metrics, detector)[1], spec, device)
    wanted = TeacherReference(STEPS, num_images, sampler="multistep")
    reference, others = (
        teacher_reference(teacher, found, options, tick) for options in (wanted, replace(wanted, seed=wanted.seed + 1))
    )
    figure = Recall()
    return RecallMeter(Panel(found, reference, num_images, [figure]), figure.of_samples(others, reference))
