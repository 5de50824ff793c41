"""Recall of a teacher's own samples: the share of them that a generator covers. Needs no data."""

from dataclasses import dataclass, replace

from gan_refine.evaluation.evaluate import resolve_detector
from gan_refine.evaluation.references import SamplingOptions, Teacher, teacher_reference
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics import MetricCollection, OnProgress, Recall, choose_detector, ignore_progress


@dataclass(frozen=True)
class RecallMeter:
    """The metric `Recall` against teacher samples. `teacher_value` is the recall of as many other teacher samples."""

    metrics: MetricCollection
    teacher_value: float


def open_recall(
    num_images: int,
    metrics: str,
    detector: str,
    spec: ImageSpec,
    teacher: Teacher,
    device: str = "cpu",
    progress: OnProgress = ignore_progress,
) -> RecallMeter:
    """Recall with `num_images` images on each side, in the detector that --metrics and --detector name.

    The teacher's samples are read from the cache if they were made before. Raises UserError.
    """
    chosen = choose_detector(resolve_detector(metrics, detector)[1], spec, device)
    options = SamplingOptions(images=num_images)
    other_options = replace(options, seed=options.seed + 1)
    reference, others = (teacher_reference(teacher, chosen, each, progress) for each in (options, other_options))
    recall = Recall()
    return RecallMeter(MetricCollection(chosen, reference, num_images, [recall]), recall.of_samples(others, reference))
