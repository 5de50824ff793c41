"""Drives one run: evaluates, refines, keeps the best pickle, reports."""

import shutil
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from gan_refine import assets
from gan_refine.cli.run_options import RunOptions, description
from gan_refine.cli.wiring import Run, wire
from gan_refine.config import to_json
from gan_refine.generators import GENERATORS, ORIGINALS
from gan_refine.interfaces import Generator
from gan_refine.noise import rng_for
from gan_refine.refine import PREPARE_STREAM, Progress, refine
from gan_refine.report import Paired, Summary, distance_of_teacher, grid_latents, render
from gan_refine.runlog import RunLog, table


class Driver:
    """One run, from the state before refinement to the summary."""

    def __init__(self, run: Run, log: RunLog) -> None:
        self.run = run
        self.log = log
        self.kimg = 0.0
        self.before: float | None = None
        self.best: float | None = None
        self.best_kimg = 0.0
        self.teacher_value: float | None = None
        self.grid = grid_latents(run.generator, run.options.refine.seed)
        self.best_path = log.folder / "network-refined-best.pkl"
        self.last_path = log.folder / "network-refined-last.pkl"

    def start(self) -> None:
        """The state before refinement: the original is the best pickle so far."""
        self.log.write_text("options.json", to_json(self.run.options))
        ORIGINALS[self.run.gan_family](self.run.gan_path, self.best_path, self.run.options.which)
        self.log.save_grid("fakes_init.png", render(self.run.generator, self.grid))
        self.before = self.best = self._measure(self.run.generator, "original")
        self.teacher_value = self._teacher_value()

    def refine(self) -> None:
        """Runs the loop to its end, with a snapshot every `snap` ticks and at the end."""
        options = self.run.options.refine
        rng = rng_for(options.seed, 0, 0, PREPARE_STREAM)
        for done, total in self.run.objective.prepare(rng):
            if done == total or done % 1024 == 0:
                self.log.say(f"{done} of {total} teacher samples ({self.log.seconds:.0f} s)")
        with tqdm(total=options.total_images, unit="img", file=sys.stderr, desc="refining", smoothing=0.1) as bar:
            for tick, progress in enumerate(refine(self.run.generator, self.run.objective, options), start=1):
                bar.update(progress.images - bar.n)
                nats = progress.health.remaining_nats()
                bar.set_postfix_str("" if nats is None else f"data-free gap {nats:.2f} nats")
                self._record(progress)
                if tick % self.run.options.snap == 0 or progress.images >= options.total_images:
                    self._snapshot(progress)

    def finish(self, complete: bool = True) -> Summary:
        """Writes summary.json and shows the table; the repeated evaluation is for runs that came to their end."""
        summary = Summary(
            gan=self.run.options.gan,
            teacher=self.run.options.teacher,
            metric=None if self.run.metric is None else self.run.metric.name,
            before=self.before,
            after=self.best,
            teacher_value=self.teacher_value,
            kimg=self.kimg,
            seconds=round(self.log.seconds, 1),
            refined=str(self.best_path),
            repeated=self._repeated() if complete else None,
        )
        self.log.write_text("summary.json", summary.to_json())
        self.log.say("\n" + table(summary.rows()))
        if summary.improved:
            self.log.say(f"{summary.metric}: {summary.verdict}")
        elif self.run.metric is not None:
            self.log.say("Nothing improved: the best pickle is the original.")
        self.log.say(f"Run folder: {self.log.folder}")
        return summary

    def _record(self, progress: Progress) -> None:
        self.kimg = progress.images / 1000
        record = {"kimg": self.kimg, "seconds": round(self.log.seconds, 2), "glr": progress.glr}
        self.log.append("stats.jsonl", record | progress.health.summary())

    def _snapshot(self, progress: Progress) -> None:
        name = f"fakes{progress.images // 1000:06d}.png"
        self.log.save_grid(name, render(progress.average, self.grid))
        progress.average.export(self.last_path)
        value = self._measure(progress.average, name.removesuffix(".png"))
        if self.run.metric is None or (value is not None and self.best is not None and value < self.best):
            self.best, self.best_kimg = value, self.kimg
            shutil.copyfile(self.last_path, self.best_path.with_suffix(".tmp"))
            self.best_path.with_suffix(".tmp").replace(self.best_path)

    def _measure(self, generator: Generator, snapshot: str) -> float | None:
        started = time.time()
        results = self.run.measure(generator)
        for result in results:
            record = {
                "results": result.values,
                "metric": result.metric,
                "total_time": round(time.time() - started, 2),
                "snapshot": snapshot,
                "kimg": self.kimg,
                "convention": result.facts,
            }
            self.log.append(f"metric-{result.metric}.jsonl", record)
            figures = "  ".join(f"{name} {value:.3f}" for name, value in result.values.items())
            self.log.say(f"{self.kimg:8.3f} kimg  {figures}  ({self.log.seconds:.0f} s)")
        return results[0].values[results[0].metric] if results else None

    def _repeated(self) -> Paired | None:
        """Original and best pickle with --fid-seeds sets of latents that chose nothing."""
        options = self.run.options
        if self.run.metric is None or options.fid_seeds == 0 or self.best_kimg == 0:
            return None
        name, values = self.run.metric.name, []
        for path in (self.run.gan_path, self.best_path):
            generator = GENERATORS[self.run.gan_family](path, options.which).to(torch.device(options.device))
            seeds = range(options.refine.seed + 1, options.refine.seed + 1 + options.fid_seeds)
            values.append([self.run.measure(generator, seed)[0].values[name] for seed in seeds])
        return Paired(*values)

    def _teacher_value(self) -> float | None:
        steps, metric = self.run.options.teacher_steps, self.run.metric
        if metric is None or steps == 0:
            return None
        recorded = assets.recorded_teacher_value(self.run.teacher_path, metric.name, steps)
        if recorded is not None and self.run.options.fid_ref == "auto":
            self.log.say(f"teacher's {metric.name} {recorded:.3f} ({steps} steps, recorded in pretrained/catalog.json)")
            return recorded
        images = self.run.options.eval_images
        with tqdm(total=images, unit="img", file=sys.stderr, desc=f"sampling the teacher, {steps} steps") as bar:
            value = distance_of_teacher(
                self.run.teacher, metric.fresh, images, steps, self.run.options.refine.seed, bar.update
            )
        self.log.say(f"teacher's {metric.name} {value:.3f} ({steps} steps)")
        return value


def launch(options: RunOptions, dry_run: bool) -> Summary | None:
    """One run from its options. Raises UserError before anything is written if they are not right."""
    run = wire(options, dry_run)
    tqdm.write(
        f"GAN: {options.gan}, {run.generator.spec}. Teacher: {options.teacher}, {run.teacher.spec}.", file=sys.stderr
    )
    if dry_run:
        tqdm.write(to_json(options) + "\nDry run: nothing was written.", file=sys.stderr)
        return None
    log = RunLog(Path(options.outdir), options.desc or description(options))
    driver = Driver(run, log)
    try:
        driver.start()
        driver.refine()
    except KeyboardInterrupt:
        log.say(f"\nInterrupted after {driver.kimg:g} kimg.")
        driver.finish(complete=False)
        raise
    return driver.finish()
