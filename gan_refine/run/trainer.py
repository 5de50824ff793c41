"""The trainer of one run: measures, refines, saves, keeps the best pickle."""

import sys
import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

from gan_refine import assets
from gan_refine.errors import NonFiniteError
from gan_refine.evaluation import grid_latents, render
from gan_refine.files import copy_atomic, require_space
from gan_refine.foundation import distributed
from gan_refine.interfaces import Generator
from gan_refine.refine import Progress, RefineState, advance, diagnose, load_state, record_state
from gan_refine.run.advice import warnings_of
from gan_refine.run.build import Run
from gan_refine.run.checkpoint import Checkpoints
from gan_refine.run.choice import Ranked
from gan_refine.run.clock import OTHER, Clock
from gan_refine.run.command import evaluate_line
from gan_refine.run.folder import RunFolder
from gan_refine.run.hints import notices
from gan_refine.run.history import RunHistory, check_replicas, needed_space, restore_best
from gan_refine.run.page import write_report
from gan_refine.run.pictures import save_teacher_samples
from gan_refine.run.plan import EVALUATION, TABLES, done_images, next_phase
from gan_refine.run.records import read_run
from gan_refine.run.report import compare, summarize
from gan_refine.run.signals import Signals, StopRequested
from gan_refine.run.summary import Summary


@dataclass(frozen=True)
class StopRequest:
    """What is asked for after a step, by any process: to stop, or to save a checkpoint."""

    stop: bool
    save: bool


class Trainer:
    """One run, from the state before refinement to the summary. Each process has one; rank 0 writes."""

    def __init__(self, run: Run, folder: RunFolder, signals: Signals, clock: Clock) -> None:
        self.run = run
        self.folder = folder
        self.signals = signals
        self.clock = clock
        self.history = RunHistory()
        self.state = RefineState(run.generator, run.objective, run.options.refine)
        self.checkpoints = Checkpoints(folder.path, run.options.keep)
        self.saved_at = time.monotonic()
        self.collapsed = False
        self.warned: set[str] = set()  # the kinds of trouble that this process has told
        self.grid = grid_latents(run.generator, run.options.refine.seed)
        self.best_path = folder.path / "network-refined-best.pkl"
        self.last_path = folder.path / "network-refined-last.pkl"

    def start(self) -> None:
        """Writes the original's pickle, which is the best so far, and pictures of it. Ends with the first checkpoint."""
        run = self.run
        self.clock.enter(OTHER)
        if self.folder.writes:
            require_space(self.folder.path, needed_space(run, self.state, run.options.keep + 2), "this run")
            run.gan.generator.write_original(self.best_path)
            self.history.best_digest = assets.sha256(self.best_path)
        for notice in notices(run):
            self.folder.say(notice)
        if run.bridged and run.yardsticks is not None:
            self.folder.say(f"{run.yardsticks.name} measures {run.measured_spec} images.")
        self.folder.save_grid("fakes_init.png", render(run.gan.generator, self.grid))
        if run.options.teacher_steps and run.options.report:
            known = None if run.yardsticks is None else run.yardsticks.others
            with self.signals.raising(alone=distributed.get_world_size() == 1):
                save_teacher_samples(run.teacher, known, self.folder.path, run.options.refine.seed)
        self._save()

    def restore(self, content: dict, name: str) -> None:
        """Goes back to a checkpoint; lines and pickles of later states are removed. Raises MismatchError."""
        load_state(self.state, content["state"])
        self.history = RunHistory(**content["history"])
        evaluations = (self.history.before is not None) + self.history.ticks // self.run.options.snap
        done = {**done_images(self.state), EVALUATION: evaluations * self.run.options.eval_images}
        self.clock.go_on(self.history.seconds, done, self.history.parts)
        self.folder.forget_after(self.history.kimg)
        if self.history.before is None:
            self.folder.forget_metrics()  # whose first line is that of the original
        self.folder.say(f"Resumed from {name}, {self.state.phase}.")
        if self.folder.writes:
            restore_best(self.run, self.history, self.checkpoints, self.best_path, self.folder.say)

    def refine(self) -> bool:
        """Runs the loop. True at its end or collapse, False if asked to stop before; a checkpoint is saved in either case."""
        total = self.run.options.refine.total_images
        quiet = None if self.folder.writes else True
        with tqdm(total=total, unit="img", file=sys.stderr, desc="refining", smoothing=0.1, disable=quiet) as bar:
            try:
                if self.history.pending:
                    self._snapshot()
                    self._save()
                self._mark()
                for progress in advance(self.state):
                    bar.update(self.state.images - bar.n)
                    if self._after_step(progress, bar):
                        return self.collapsed
            except StopRequested:
                self._save()
                return False
            except NonFiniteError:
                self._save()
                raise
        return True

    def _after_step(self, progress: Progress | None, bar: tqdm) -> bool:
        """Records, measures and saves what is due; returns whether the run is to end here."""
        due = False
        if progress is None:
            self._measure_original()
        self._mark()
        if progress is not None:
            nats = progress.health.remaining_nats()
            bar.set_postfix_str("" if nats is None else f"data-free gap {nats:.2f} nats")
            self._record(progress)
            if self.run.yardsticks is None and nats is not None:
                self._tell(f"data-free gap {nats:.3f} nats")
            if self.history.first_nats is None:
                self.history.first_nats = nats
            elif nats is not None:
                self.history.last_nats = nats
            due = self.history.ticks % self.run.options.snap == 0 or self.state.finished
            value = self._snapshot() if due else None
            self.collapsed = self._collapsed(value)
        request = self._request()
        if due or self.collapsed or request.stop or request.save:
            self._save()
            self.clock.enter(next_phase(self.state)[0], 0)
        return self.collapsed or (request.stop and not self.state.finished)

    def _tell(self, text: str, kimg: float | None = None) -> None:
        self.clock.tell(f"{self.history.kimg if kimg is None else kimg:8.3f} kimg  {text}")

    def _mark(self) -> None:
        """Tells the clock where the loop is."""
        self.clock.reach(done_images(self.state))
        self.clock.enter(*next_phase(self.state))
        self.clock.beat()

    def _request(self) -> StopRequest:
        """Signals of all processes and the clock of rank 0, agreed on by all."""
        minutes = self.run.options.snap_minutes
        timer = bool(minutes) and distributed.is_rank0() and time.monotonic() - self.saved_at > minutes * 60
        asked = distributed.sum_across(torch.tensor([self.signals.received is not None, timer], dtype=torch.int64))
        return StopRequest(*(bool(count) for count in asked))

    def finish(self, complete: bool = True) -> Summary:
        """Writes summary.json and shows the tables, which are for runs that came to their end."""
        tables = compare(self.run, self.history, self.best_path, self.clock.enter(TABLES)) if complete else []
        self.history.seconds, self.history.parts = self.clock.seconds, self.clock.parts
        summary = summarize(self.run, self.history, self.state.images / 1000, self.best_path, complete, tables)
        self.folder.write_text("summary.json", summary.to_json())
        self._report()
        self.folder.say("\n" + "\n".join(summary.lines()))
        if self.run.yardsticks is not None and self.last_path.is_file():  # else there was no snapshot
            refined = self.best_path if self.history.best_kimg else self.last_path  # the best is the original
            line = evaluate_line(self.run.options, str(refined))
            self.folder.say(f"To measure both on other latents:\n  {line}")
        self.folder.say(f"Run folder: {self.folder.path}")
        return summary

    def _record(self, progress: Progress) -> None:
        self.history.ticks += 1
        self.history.kimg = progress.images / 1000
        record = {"kimg": self.history.kimg, "seconds": round(self.clock.seconds, 2), "glr": progress.glr}
        self.folder.append("stats.jsonl", record | progress.health.summary())

    def _save(self) -> None:
        """Saves a checkpoint, unless a weight is not finite: then the last good checkpoint stays."""
        if not self.state.is_finite():
            self.folder.say("The weights are not finite and were not saved; the last good checkpoint stays.")
            return
        self.history.seconds, self.history.parts = self.clock.seconds, self.clock.parts
        content = {**self.run.header, "history": vars(self.history), "state": record_state(self.state)}
        if self.folder.writes:
            require_space(self.folder.path, needed_space(self.run, self.state, 1), "the next checkpoint")
            self.checkpoints.save(self.state.steps, content, self.history.best_step)
        self.saved_at = time.monotonic()

    def _measure_original(self) -> None:
        """Measures the generator before refinement, once: after the first step, so that a run begins at once."""
        if self.run.original is None or self.history.before is not None:
            return
        with self.signals.raising(alone=distributed.get_world_size() == 1):
            found = self._measure(self.run.original, "original", kimg=0.0)
            self.history.before = self.history.best = None if found is None else found.value

    def _snapshot(self) -> float | None:
        """Measures the weight average and keeps its pickle if it is chosen; returns the first metric."""
        history = self.history
        history.pending = True  # if this is interrupted, the resumed run starts with it
        self._measure_original()
        check_replicas(self.state)
        if not self.state.is_finite():
            raise NonFiniteError(diagnose(self.state))
        average = self.state.average.module
        name = f"fakes{self.state.images:08d}.png"
        self.folder.save_grid(name, render(average.full_size(), self.grid))
        if self.folder.writes:
            average.export(self.last_path)
        with self.signals.raising(alone=distributed.get_world_size() == 1):
            found = self._measure(average, name.removesuffix(".png"), history.kimg)
        value = None if found is None else found.value
        self._record_change(average)
        if found is None or history.chooses(found):
            history.best, history.best_kimg, history.best_step = value, history.kimg, self.state.steps
            if self.folder.writes:
                copy_atomic(self.last_path, self.best_path)
                history.best_digest = assets.sha256(self.best_path)
        history.pending = False
        self.clock.enter(OTHER)
        if not self.state.finished:  # `finish` writes the last one
            self._report()
        return value

    def _report(self) -> None:
        """Writes report.html, and says what goes wrong, each trouble once."""
        if not self.folder.writes:
            return
        if self.run.options.report:
            write_report(self.folder.path, self.run.options.trust_pickle, self.run.options.device)
        for kind, text in warnings_of(read_run(self.folder.path)).items():
            if kind not in self.warned:
                self.folder.say(f"WARNING: {text}")
                self.warned.add(kind)

    def _record_change(self, average: Generator) -> None:
        """How far a bridged generator has moved, in the band that its teacher sees and in the rest."""
        change = average.change(self.grid)
        if change:
            self.folder.append("bridge.jsonl", {"kimg": self.history.kimg, **change})
            self._tell(f"changed by {change['seen']:.4f} where the teacher sees, {change['unseen']:.4f} where not")

    def _collapsed(self, value: float | None) -> bool:
        """Whether --stop-on-collapse ends this run; never where nothing is measured."""
        factor, start = self.run.options.stop_on_collapse, self.history.before
        if not factor or start is None or value is None or value <= factor * start:
            return False
        causes = "--glr or --whiten-w" if self.run.options.whiten_w else "--glr"
        self.folder.say(
            f"Stopped: the metric went from {start:.3f} to {value:.3f}, beyond --stop-on-collapse={factor:g}. "
            f"Lower {causes}, or go on with --resume and a larger factor."
        )
        return True

    def _measure(self, generator: Generator, snapshot: str, kimg: float) -> Ranked | None:
        """Records all metrics of a generator; returns the first, which selects the best snapshot, None with --metrics=none."""
        started, run = time.time(), self.run
        results = run.measure(generator, self.clock.enter(EVALUATION, run.options.eval_images))
        for result in results:  # only now: a signal may come while they are measured
            record = {
                "results": result.values,
                "metric": result.metric,
                "better": result.better,
                "total_time": round(time.time() - started, 2),
                "snapshot": snapshot,
                "kimg": kimg,
                "left_out": list(result.left_out),
                "convention": result.convention | ({"images": str(run.measured_spec)} if run.bridged else {}),
            }
            self.folder.append(f"metric-{result.metric}.jsonl", record)
        if results:
            self._tell("  ".join(f"{name} {value:.3f}" for name, value in results[0].values.items()), kimg)
        return Ranked(results[0].value, results[0].left_out) if results else None
