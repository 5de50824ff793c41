"""Refine a pretrained GAN generator with a pretrained diffusion teacher and no data set.

python run_refine.py --gan=GAN.pkl --teacher=TEACHER.pkl --outdir=training-runs
"""

import math
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from tqdm import tqdm

from gan_refine import assets
from gan_refine.cli.running import run_command
from gan_refine.config import RefineOptions, parse_spec, require, to_json
from gan_refine.errors import MismatchError, OptionError
from gan_refine.generators import GENERATORS, write_original
from gan_refine.interfaces import Denoiser, Generator, ImageSpec, Objective
from gan_refine.metrics import Panel, Result
from gan_refine.noise import rng_for
from gan_refine.objectives import build_objective
from gan_refine.refine import PREPARE_STREAM, Progress, refine
from gan_refine.report import (
    Paired,
    Summary,
    TeacherFile,
    distance_of_teacher,
    grid_latents,
    measure,
    open_panel,
    render,
)
from gan_refine.report.panel import check_ranks
from gan_refine.runlog import RunLog, table
from gan_refine.teachers import TEACHERS

DEFAULT_PAIR = "fashion16"
DEFAULTS = RefineOptions()
# Between these levels of noise the score model is at its best, and one draw says most about an image.
DEFAULT_OBJECTIVE = "diff-instruct,sigma_mean=-0.7,sigma_std=0.5"


@dataclass(frozen=True)
class RunOptions:
    """Everything that a run depends on; written to options.json."""

    gan: str
    which: str
    teacher: str
    outdir: str
    desc: str | None
    objective: str
    metrics: str
    detector: str
    fid_ref: str
    fid_seeds: int
    eval_images: int
    teacher_steps: int
    snap: int
    device: str
    refine: RefineOptions

    def __post_init__(self) -> None:
        require("eval_images", self.eval_images, self.eval_images >= 2, "at least 2")
        require(
            "teacher_steps", self.teacher_steps, self.teacher_steps == 0 or self.teacher_steps >= 2, "0 or at least 2"
        )
        require("fid_seeds", self.fid_seeds, self.fid_seeds >= 0, "at least 0")
        require("snap", self.snap, self.snap > 0, "a positive number of ticks")


@dataclass
class Run:
    """The four objects of a run, wired, and where it writes."""

    options: RunOptions
    gan_path: Path
    teacher_path: Path
    generator: Generator
    teacher: Denoiser
    objective: Objective
    metric: Panel | None

    def measure(self, generator: Generator, seed: int | None = None) -> list[Result]:
        """All figures, with the latents of the run's seed by default; none without a metric."""
        if self.metric is None:
            return []
        return measure(generator, self.metric, self.options.refine.seed if seed is None else seed)


def wire(options: RunOptions, dry_run: bool = False) -> Run:
    """Reads both networks and builds objective and metric. Raises UserError; writes nothing, except
    that a reference of teacher samples goes to the cache; a dry run leaves that out."""
    device = torch.device(options.device)
    gan_path = assets.resolve("gan", options.gan)
    teacher_path = assets.resolve("teacher", options.teacher)
    generator = GENERATORS["stylegan2"](gan_path, options.which).to(device)
    teacher = TEACHERS["edm"](teacher_path).to(device)
    check_match(generator.spec, teacher.spec)
    objective = build_objective(options.objective, teacher, generator.critic)
    metric = (
        None
        if dry_run and options.fid_ref.startswith("teacher")
        else make_metric(options, generator.spec, TeacherFile(teacher_path, teacher))
    )
    return Run(options, gan_path, teacher_path, generator, teacher, objective, metric)


def check_match(gan: ImageSpec, teacher: ImageSpec) -> None:
    """Raises MismatchError unless the teacher can judge the generator's images."""
    if (gan.resolution, gan.channels) != (teacher.resolution, teacher.channels):
        raise MismatchError(
            f"the GAN makes {gan} images but the teacher denoises {teacher}; choose a teacher of the GAN's size"
        )
    if teacher.num_classes not in (0, gan.num_classes):
        raise MismatchError(
            f"the GAN makes {gan} but the teacher expects {teacher.num_classes} classes; choose a teacher with the same classes"
        )


def make_metric(options: RunOptions, spec: ImageSpec, teacher: TeacherFile) -> Panel | None:
    """The metrics named by --metrics, or None for 'none'."""
    if options.metrics == "none":
        return None
    with tqdm(unit="img", file=sys.stderr, desc="sampling the teacher", disable=None, leave=False) as bar:
        chosen = options.metrics, options.detector, options.fid_ref
        panel = open_panel(*chosen, spec, options.eval_images, teacher, options.device, bar.update)
    check_ranks(panel)
    return panel


class Driver:
    """Drives one run: evaluates, refines, keeps the best pickle, reports."""

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
        write_original(self.run.gan_path, self.best_path, self.run.options.which)
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
            generator = GENERATORS["stylegan2"](path).to(torch.device(options.device))
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


def description(options: RunOptions) -> str:
    """The run folder's name: the GAN's, the objective's, the batch."""
    name, _ = parse_spec(options.objective)
    return f"{Path(options.gan).stem}-{name}-batch{options.refine.batch}"


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _images(kimg: float, what: str, least: int = 1) -> int:
    allowed = "a positive number of thousands of images" if least else "a number of at least 0"
    require(what, kimg, math.isfinite(kimg) and (kimg > 0 or (kimg == 0 and not least)), allowed)
    return max(round(kimg * 1000), least)


@click.command(context_settings={"show_default": True, "max_content_width": 120})
@click.option(
    "--gan", default=DEFAULT_PAIR, help="StyleGAN2 network pickle or state dict, or the name of an embedded pair."
)
@click.option(
    "--which",
    type=click.Choice(["G_ema", "G"]),
    default="G_ema",
    help="The file's generator to refine; the result is written to both.",
)
@click.option(
    "--teacher", default=DEFAULT_PAIR, help="EDM network pickle or state dict, or the name of an embedded pair."
)
@click.option("--outdir", default="training-runs", help="Where to make the run folder.")
@click.option("--desc", default=None, help="Name of the run folder after its number.")
@click.option("--kimg", type=float, default=DEFAULTS.total_images / 1000, help="Thousands of images to refine for.")
@click.option("--batch", type=int, default=DEFAULTS.batch, help="Images a step.")
@click.option(
    "--batch-gpu", type=int, default=None, help="Images in memory at a time; divides --batch.  [default: --batch]"
)
@click.option(
    "--warmup-kimg",
    type=float,
    default=DEFAULTS.warmup_images / 1000,
    help="Fakes for the helpers to learn from first.",
)
@click.option(
    "--pool-kimg",
    type=float,
    default=None,
    help="Fakes that the generator learns to move at a time; 0 alternates as the paper does.  "
    f"[default: {DEFAULTS.pool_images / 1000} for diff-instruct, else 0]",
)
@click.option("--glr", type=float, default=DEFAULTS.glr, help="Learning rate of the generator.")
@click.option("--score-lr", type=float, default=DEFAULTS.score_lr, help="Learning rate of the score model.")
@click.option("--objective", default=DEFAULT_OBJECTIVE, help="Objective and its options: NAME,key=value,...")
@click.option(
    "--ema-kimg", type=float, default=DEFAULTS.ema_halflife_images / 1000, help="Half-life of the weight average."
)
@click.option("--metrics", default="auto", help="auto (fd), none, or a list of fd, kd, is, pr, dc; the first ranks.")
@click.option("--detector", default="auto", help="auto (the embedded one that fits), NAME, inception,path=FILE ...")
@click.option(
    "--fid-ref", default="auto", help="auto (the detector's), teacher[,steps=18], an .npz file, a folder, a zip."
)
@click.option(
    "--fid-seeds", type=int, default=0, help="At the end, repeat before and after with so many fresh latents."
)
@click.option("--eval-images", type=int, default=10_000, help="Images an evaluation.")
@click.option(
    "--teacher-steps", type=int, default=18, help="Sampler steps for the teacher's own distance; 0 to skip it."
)
@click.option(
    "--tick", type=float, default=DEFAULTS.tick_images / 1000, help="Thousands of images between progress records."
)
@click.option("--snap", type=int, default=1, help="Ticks between snapshots, each evaluated.")
@click.option("--seed", type=int, default=DEFAULTS.seed, help="Of all noise and latents.")
@click.option("--device", default=default_device, help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
@click.option("--dry-run", is_flag=True, help="Check everything, show the options, write nothing.")
def cli(dry_run: bool, **given) -> None:
    """Refine a pretrained GAN with a pretrained diffusion model of the same domain, without a data set."""
    pool_kimg = given.pop("pool_kimg")
    if pool_kimg is None:
        pool_kimg = DEFAULTS.pool_images / 1000 if parse_spec(given["objective"])[0] == "diff-instruct" else 0
    training = replace(
        DEFAULTS,
        pool_images=_images(pool_kimg, "pool-kimg", least=0),
        total_images=_images(given.pop("kimg"), "kimg"),
        warmup_images=_images(given.pop("warmup_kimg"), "warmup-kimg", least=0),
        batch=given["batch"],
        batch_gpu=given["batch"] if given["batch_gpu"] is None else given["batch_gpu"],
        glr=given.pop("glr"),
        score_lr=given.pop("score_lr"),
        ema_halflife_images=_images(given.pop("ema_kimg"), "ema-kimg"),
        tick_images=_images(given.pop("tick"), "tick"),
        seed=given.pop("seed"),
    )
    del given["batch"], given["batch_gpu"]
    try:
        torch.empty(0, device=given["device"])
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"--device={given['device']} cannot be used here; give cpu, or cuda on a machine with a GPU"
        ) from error
    summary = launch(RunOptions(refine=training, **given), dry_run)
    if summary is not None:
        print(summary.refined)


if __name__ == "__main__":
    sys.exit(run_command(cli))
