"""What is known of a run at its end, and of its teacher at its start."""

import sys
from pathlib import Path

from tqdm import tqdm

from gan_refine import assets
from gan_refine.cli.saving import Story
from gan_refine.cli.wiring import Run
from gan_refine.generators import GENERATORS
from gan_refine.report import Paired, RecallMeter, RecallSummary, Summary, distance_of_teacher
from gan_refine.runlog import RunLog


def summarise(run: Run, story: Story, kimg: float, best_path: Path, seconds: float, complete: bool) -> Summary:
    """The run after `kimg` thousand images in one record; the repeated evaluation is for runs that are `complete`."""
    return Summary(
        gan=run.options.gan,
        teacher=run.options.teacher,
        metric=None if run.metric is None else run.metric.name,
        before=story.before,
        after=story.best,
        teacher_value=story.teacher_value,
        kimg=kimg,
        seconds=round(seconds, 1),
        refined=str(best_path),
        repeated=repeated(run, story, best_path) if complete else None,
        recall=None if run.recall is None else recalled(run.recall, story),
        data_free_gap=(story.first_nats, story.last_nats),
        complete=complete,
    )


def recalled(meter: RecallMeter, story: Story) -> RecallSummary:
    """Recall of the original and of the best pickle."""
    return RecallSummary(meter.panel.name, story.recall_before, story.recall, meter.teacher_value)


def repeated(run: Run, story: Story, best_path: Path) -> Paired | None:
    """Original and best pickle with --fid-seeds sets of latents that chose nothing."""
    options = run.options
    if run.metric is None or options.fid_seeds == 0 or story.best_kimg == 0:
        return None
    values = []
    refined = lambda: GENERATORS[run.gan.family](best_path, options.which)  # noqa: E731
    for load in (run.gan.load, refined):
        generator = run.open_generator(load)
        seeds = range(options.refine.seed + 1, options.refine.seed + 1 + options.fid_seeds)
        values.append([run.measure(generator, seed)[0].values[run.metric.name] for seed in seeds])
    return Paired(*values)


def teacher_value(run: Run, log: RunLog) -> float | None:
    """The metric of the teacher's own samples, recorded or measured; None where nobody asked or its images do not fit."""
    steps, metric = run.options.teacher_steps, run.metric
    if metric is None or steps == 0:
        return None
    if run.full_size:
        log.say(f"The teacher's {metric.name} is not measured: its images are smaller than the metric's.")
        return None
    recorded = assets.recorded_teacher_value(run.teacher_path, metric.name, steps)
    if recorded is not None and run.options.fid_ref == "auto" and run.frequencies is None:
        log.say(f"teacher's {metric.name} {recorded:.3f} ({steps} steps, recorded in pretrained/catalog.json)")
        return recorded
    images = run.options.eval_images
    title, quiet = f"sampling the teacher, {steps} steps", None if log.writes else True
    with tqdm(total=images, unit="img", file=sys.stderr, desc=title, disable=quiet) as bar:
        chosen = images, steps, run.options.refine.seed
        value = distance_of_teacher(run.teacher, metric.fresh, *chosen, bar.update, run.frequencies)
    log.say(f"teacher's {metric.name} {value:.3f} ({steps} steps)")
    return value
