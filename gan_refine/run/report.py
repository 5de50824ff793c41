"""What is known of a run at its end, and of its teacher at its start."""

import sys
from pathlib import Path

from tqdm import tqdm

from gan_refine import assets
from gan_refine.evaluation import PairedComparison, RecallMeter, measure_teacher
from gan_refine.run.build import Run
from gan_refine.run.folder import RunFolder
from gan_refine.run.history import RunHistory
from gan_refine.run.summary import RecallSummary, Summary
from gan_refine.sampling import DEFAULT_STEPS


def summarize(run: Run, history: RunHistory, kimg: float, best_path: Path, seconds: float, complete: bool) -> Summary:
    """The run after `kimg` thousand images in one record; the repeated evaluation is for runs that are `complete`."""
    return Summary(
        gan=run.options.gan,
        teacher=run.options.teacher,
        metric=None if run.metric is None else run.metric.name,
        before=history.before,
        after=history.best,
        teacher_value=history.teacher_value,
        kimg=kimg,
        seconds=round(seconds, 1),
        refined=str(best_path),
        repeated=repeat_evaluation(run, history, best_path) if complete else None,
        recall=None if run.recall is None else _recall(run.recall, history),
        data_free_gap=(history.first_nats, history.last_nats),
        complete=complete,
    )


def _recall(meter: RecallMeter, history: RunHistory) -> RecallSummary:
    return RecallSummary(meter.metrics.name, history.recall_before, history.recall, meter.teacher_value)


def repeat_evaluation(run: Run, history: RunHistory, best_path: Path) -> PairedComparison | None:
    """Original and best pickle with --fid-seeds sets of latents that selected nothing; None if the original is the best."""
    options = run.options
    if run.metric is None or run.original is None or history.best_kimg == 0:
        return None
    refined = run.load_refined(best_path)
    values = []
    for generator in (run.original, refined):
        seeds = range(options.refine.seed + 1, options.refine.seed + 1 + options.fid_seeds)
        values.append([run.measure(generator, seed)[0].value for seed in seeds])
    return PairedComparison(*values)


def measure_teacher_samples(run: Run, folder: RunFolder) -> float | None:
    """The metric of the teacher's own samples, recorded or measured; None with --teacher-steps=0 or if their size does not fit."""
    steps, metric, teacher = run.options.teacher_steps, run.metric, run.teacher
    if metric is None or steps == 0:
        return None
    if run.full_size:
        folder.say(f"The teacher's {metric.name} is not measured: its images are smaller than the metric's.")
        return None
    recorded = assets.recorded_measurement(run.options.teacher_sha256, metric.name)
    usual = steps == DEFAULT_STEPS and run.options.fid_ref == metric.detector.name and teacher.frequencies is None
    if recorded is not None and usual:
        how = f"{recorded.steps} steps of {recorded.sampler}, recorded in pretrained/catalog.json"
        folder.say(f"teacher's {metric.name} {recorded.value:.3f} ({how})")
        return recorded.value
    images = run.options.eval_images
    title, quiet = f"sampling the teacher, {steps} steps", None if folder.writes else True
    with tqdm(total=images, unit="img", file=sys.stderr, desc=title, disable=quiet) as bar:
        value = measure_teacher(teacher, metric, steps, run.options.refine.seed, bar.update)[0].value
    folder.say(f"teacher's {metric.name} {value:.3f} ({steps} steps)")
    return value
