"""Drives one run: evaluates, refines, saves, keeps the best pickle, reports."""

import math
import sys
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tqdm import tqdm

from gan_refine import assets
from gan_refine.checkpoint import Checkpoints
from gan_refine.cli.reporting import summarise, teacher_value
from gan_refine.cli.saving import Story, check_replicas, needed_space, restore_best
from gan_refine.cli.signals import Signals, StopWish
from gan_refine.cli.wiring import Run, what_is_matched, what_is_unseen, whole
from gan_refine.errors import NonFiniteError
from gan_refine.files import copy_atomic, require_space
from gan_refine.generators import Bridged
from gan_refine.interfaces import Generator
from gan_refine.noise import rng_for
from gan_refine.refine import PREPARE_STREAM, Progress, RefineState, advance, diagnose
from gan_refine.report import Summary, grid_latents, render
from gan_refine.runlog import RunLog, table
from torch_utils import distributed

TELL_SECONDS = 30


@dataclass(frozen=True)
class Wish:
    """What is asked for after a step, by any process."""

    stop: bool
    save: bool


class Figures(NamedTuple):
    """What is known of one generator: the metric, by which runs are ranked, and the recall; None where not asked for."""

    value: float | None
    recall: float | None


class Driver:
    """One run, from the state before refinement to the summary. With several processes each has one; the first one writes."""

    def __init__(self, run: Run, log: RunLog, signals: Signals) -> None:
        self.run = run
        self.log = log
        self.signals = signals
        self.story = Story()
        self.state = RefineState(run.generator, run.objective, run.options.refine, frozen=run.frozen)
        self.checkpoints = Checkpoints(log.folder, run.options.keep)
        self.saved_at = time.monotonic()
        self.told_at = time.monotonic()
        self.collapsed = False
        self.grid = grid_latents(run.generator, run.options.refine.seed)
        self.best_path = log.folder / "network-refined-best.pkl"
        self.last_path = log.folder / "network-refined-last.pkl"

    def start(self) -> None:
        """The state before refinement: the original is the best pickle so far. Ends with the first checkpoint."""
        if self.log.writes:
            require_space(self.log.folder, needed_space(self.run, self.state, self.run.options.keep + 2), "this run")
            self.run.gan.write_original(self.best_path)
            self.story.best_digest = assets.sha256(self.best_path)
        matched = what_is_matched(self.run.generator.spec, self.run.teacher.spec, self.run.options.labels)
        for said in (matched, what_is_unseen(self.run.objective)):
            if said is not None:
                self.log.say(said)
        if self.run.bridged and self.run.metric is not None:
            self.log.say(f"{self.run.metric.name} looks at {self.run.looks_at} images.")
        self.log.save_grid("fakes_init.png", render(whole(self.run.generator), self.grid))
        with self.signals.raising(alone=distributed.get_world_size() == 1):
            value, recall = self._measure(self.run.generator, "original")
            self.story.before = self.story.best = value
            self.story.recall_before = self.story.recall = recall
            self.story.teacher_value = teacher_value(self.run, self.log)
            rng = rng_for(self.run.options.refine.seed, 0, 0, PREPARE_STREAM)
            for done, total in self.run.objective.prepare(rng):
                if done == total or done % 1024 == 0:
                    self.log.say(f"{done} of {total} teacher samples ({self.log.seconds:.0f} s)")
        self._save()

    def restore(self, content: dict, name: str) -> None:
        """Goes back to a checkpoint, whose later lines and pickles are taken back too. Raises MismatchError."""
        self.state.load(content["state"])
        self.story = Story(**content["story"])
        self.log.started = time.time() - self.story.seconds
        self.log.forget_after(self.story.kimg)
        self.log.say(f"Goes on from {name}, {self.state.phase}.")
        if self.log.writes:
            restore_best(self.run, self.story, self.checkpoints, self.best_path, self.log.say)

    def refine(self) -> bool:
        """Runs the loop and returns True at its end or collapse, False if asked to stop before; saved it is in every case."""
        options = self.run.options
        quiet = None if self.log.writes else True
        with tqdm(
            total=options.refine.total_images,
            unit="img",
            file=sys.stderr,
            desc="refining",
            smoothing=0.1,
            disable=quiet,
        ) as bar:
            try:
                if self.story.pending:
                    self._snapshot()
                    self._save()
                for progress in advance(self.state):
                    bar.update(self.state.images - bar.n)
                    if self._after_step(progress, bar):
                        return self.collapsed
            except StopWish:
                self._save()
                return False
            except NonFiniteError:
                self._save()
                raise
        return True

    def _after_step(self, progress: Progress | None, bar: tqdm) -> bool:
        """Records, evaluates and saves what is due; whether the run shall end here."""
        due = False
        if progress is None:
            self._tell_phase()
        else:
            nats = progress.health.remaining_nats()
            self.told_at = time.monotonic()
            bar.set_postfix_str("" if nats is None else f"data-free gap {nats:.2f} nats")
            self._record(progress)
            if self.run.metric is None and nats is not None:
                self.log.say(f"{self.story.kimg:8.3f} kimg  data-free gap {nats:.3f} nats  ({self.log.seconds:.0f} s)")
            if nats is not None and self.story.first_nats is not None:
                self.story.last_nats = nats
            due = self.story.ticks % self.run.options.snap == 0 or self.state.finished
            value = self._snapshot() if due else None
            self.collapsed = self._collapsed(value, nats)
        wish = self._wish()
        if due or self.collapsed or wish.stop or wish.save:
            self._save()
        return self.collapsed or (wish.stop and not self.state.finished)

    def _tell_phase(self) -> None:
        """A line now and then between ticks: warm-up and pool are most of a short run."""
        if time.monotonic() - self.told_at > TELL_SECONDS:
            self.log.say(f"{self.state.phase} ({self.log.seconds:.0f} s)")
            self.told_at = time.monotonic()

    def _wish(self) -> Wish:
        """Signals and the clock of the first process, agreed on by all."""
        minutes = self.run.options.snap_minutes
        timer = bool(minutes) and distributed.is_rank0() and time.monotonic() - self.saved_at > minutes * 60
        asked = distributed.sum_across(torch.tensor([self.signals.received is not None, timer], dtype=torch.int64))
        return Wish(*(bool(count) for count in asked))

    def finish(self, complete: bool = True) -> Summary:
        """Writes summary.json and shows the table; the repeated evaluation is for runs that came to their end."""
        summary = summarise(self.run, self.story, self.state.images / 1000, self.best_path, self.log.seconds, complete)
        self.log.write_text("summary.json", summary.to_json())
        self.log.say("\n" + table(summary.rows()))
        if summary.improved:
            self.log.say(f"{summary.metric}: {summary.verdict}")
        elif self.run.metric is not None and complete:
            self.log.say("Nothing improved: the best pickle is the original.")
        self.log.say(f"Run folder: {self.log.folder}")
        return summary

    def _record(self, progress: Progress) -> None:
        self.story.ticks += 1
        self.story.kimg = progress.images / 1000
        record = {"kimg": self.story.kimg, "seconds": round(self.log.seconds, 2), "glr": progress.glr}
        self.log.append("stats.jsonl", record | progress.health.summary())

    def _save(self) -> None:
        """A checkpoint of the state as it is; weights that are not finite are left to the last one that was."""
        if not self.state.is_finite():
            self.log.say("The weights are not finite and were not saved; the last good checkpoint stays.")
            return
        self.story.seconds = self.log.seconds
        content = {**self.run.header, "story": vars(self.story), "state": self.state.record()}
        if self.log.writes:
            require_space(self.log.folder, needed_space(self.run, self.state, 1), "the next checkpoint")
            self.checkpoints.save(self.state.steps, content, self.story.best_step)
        self.saved_at = time.monotonic()

    def _snapshot(self) -> float | None:
        """Evaluates the average and keeps its pickle if it is the best; returns the figure."""
        self.story.pending = True  # if this is interrupted, the run goes on with it
        check_replicas(self.state)
        if not self.state.is_finite():
            raise NonFiniteError(diagnose(self.state))
        average = self.state.average.module
        name = f"fakes{self.state.images // 1000:06d}.png"
        self.log.save_grid(name, render(whole(average), self.grid))
        if self.log.writes:
            average.export(self.last_path)
        with self.signals.raising(alone=distributed.get_world_size() == 1):
            value, recall = self._measure(average, name.removesuffix(".png"))
        self._record_change(average)
        best = self.story.best
        if self.run.metric is None or (value is not None and best is not None and value < best):
            self.story.best, self.story.best_kimg, self.story.best_step = value, self.story.kimg, self.state.steps
            self.story.recall = recall
            if self.log.writes:
                copy_atomic(self.last_path, self.best_path)
                self.story.best_digest = assets.sha256(self.best_path)
        self.story.pending = False
        return value

    def _record_change(self, average: Generator) -> None:
        """How far a bridged generator has moved, where its teacher sees it and where not."""
        if isinstance(average, Bridged):
            change = average.change(self.grid)
            self.log.append("bridge.jsonl", {"kimg": self.story.kimg, **change})
            seen, unseen = change["seen"], change["unseen"]
            self.log.say(
                f"{self.story.kimg:8.3f} kimg  changed by {seen:.4f} where the teacher sees, {unseen:.4f} where not"
            )

    def _collapsed(self, value: float | None, nats: float | None) -> bool:
        """Whether --stop-on-collapse says that this run is lost; the figure counts, without one the data-free estimate."""
        self.story.first_nats = nats if self.story.first_nats is None else self.story.first_nats
        start, now, what = self.story.before, value, "the metric"
        if self.run.metric is None:
            start, now, what = self.story.first_nats, nats, "the data-free estimate"
        factor = self.run.options.stop_on_collapse
        if not factor or start is None or now is None or (math.isfinite(now) and now <= factor * start):
            return False
        self.log.say(f"Stopped: {what} went from {start:.3f} to {now:.3f}, beyond --stop-on-collapse={factor:g}.")
        return True

    def _measure(self, generator: Generator, snapshot: str) -> Figures:
        started = time.time()
        results, recalls = self.run.measure(generator), self.run.measure_recall(generator)
        looks = [(result, self.run.looks_at) for result in results] + [(r, self.run.generator.spec) for r in recalls]
        for result, looked_at in looks:  # only now: a signal may come while either is measured
            record = {
                "results": result.values,
                "metric": result.metric,
                "total_time": round(time.time() - started, 2),
                "snapshot": snapshot,
                "kimg": self.story.kimg,
                "convention": result.facts | ({"images": str(looked_at)} if self.run.bridged else {}),
            }
            self.log.append(f"metric-{result.metric}.jsonl", record)
            figures = "  ".join(f"{name} {value:.3f}" for name, value in result.values.items())
            self.log.say(f"{self.story.kimg:8.3f} kimg  {figures}  ({self.log.seconds:.0f} s)")
        return Figures(*(found[0].values[found[0].metric] if found else None for found in (results, recalls)))
