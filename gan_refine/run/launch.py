"""One run from its options, to its end or until it is asked to stop: the folder, its lock, the ways to end."""

import json
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import filelock
import torch

from gan_refine.config import parse_spec, to_json
from gan_refine.errors import UserError
from gan_refine.files import atomic_file, require_writable
from gan_refine.foundation import distributed
from gan_refine.precision import float32_products
from gan_refine.refine import fit_batch
from gan_refine.run.build import TO_LEARN, TO_MEASURE, Run, build, give_learning_samples
from gan_refine.run.clock import Clock, say
from gan_refine.run.command import command_line
from gan_refine.run.folder import RunFolder, new_folder, numbered_folders
from gan_refine.run.hints import notices
from gan_refine.run.history import check_header
from gan_refine.run.options import RunOptions, description
from gan_refine.run.plan import Plan, make_plan, plan_lines
from gan_refine.run.ranks import PATHS, broadcast_from_rank0
from gan_refine.run.signals import Signals, StopRequested
from gan_refine.run.trackers import open_trackers
from gan_refine.run.trainer import Trainer

LAUNCH_FILE = "launch.json"


def launch(
    options: RunOptions, automatic: Collection[str] = (), dry_run: bool = False, fit_memory: bool = False
) -> str | None:
    """A new run. Returns the refined pickle's path or, if it was stopped, the command that resumes it.

    `automatic` are the fields that --preset=auto decides. With `fit_memory` the micro-batch is the largest
    that fits. options.json has what was resolved. Raises UserError before anything is written if the options are not right.
    """
    require_writable("--outdir", Path(options.outdir))
    run = build(options, automatic)
    introduce(run)
    with Clock(say, {}).running() as clock, arithmetic_of(run):
        clock.enter("trying small steps")
        if fit_memory:
            run.options = _fitted(run)
        plan = make_plan(run)
    lines = plan_lines(run, plan)
    if dry_run:
        lines = [
            to_json(run.options),
            *lines,
            *notices(run),
            f"command   {command_line(run.options)}",
            "Dry run: nothing was written.",
        ]
    say("\n".join(lines))
    if dry_run:
        return None
    name = options.desc or description(run.options)
    with clock_of(run, plan) as clock:
        made = broadcast_from_rank0(lambda: str(new_folder(Path(options.outdir), name)).encode(errors=PATHS))
        folder = Path(made.decode(errors=PATHS))
        with locked(folder):
            broadcast_from_rank0(lambda: _write_first_files(folder, run.options, "\n".join(lines) + "\n"))
            return drive(run, folder, None, clock)


def arithmetic_of(run: Run) -> AbstractContextManager[None]:
    """Inside, float32 products are computed as --precision says."""
    return float32_products(tf32=run.options.precision != "fp32")


def _fitted(run: Run) -> RunOptions:
    """The run's options with the largest --batch-gpu that fits."""
    size = fit_batch(run.generator, run.objective, run.options.refine)
    say(f"--batch-gpu={size} is the largest that fits.")
    return replace(run.options, refine=replace(run.options.refine, batch_gpu=size))


def introduce(run: Run) -> None:
    """Two lines: both networks and what their images are; what was chosen for them."""
    gan = f"{run.options.gan}, {run.generator.full_size().spec}"
    teacher = f"{run.options.teacher}, {run.teacher.denoiser.spec}"
    objective, precision = parse_spec(run.options.objective)[0], run.options.precision
    reason = f" ({run.preset_reason})" if run.preset_reason else ""
    say(f"GAN: {gan}. Teacher: {teacher}.")
    say(f"Preset: {run.options.preset}{reason}. Objective: {objective}. Precision: {precision}.")


@contextmanager
def clock_of(run: Run, plan: Plan, begins: bool = True) -> Iterator[Clock]:
    """A clock that runs inside, with the references made under it, and for a run that begins its samples. Raises UserError."""
    # A checkpoint has the samples to learn from.
    phases = {name: phase for name, phase in plan.phases.items() if begins or name != TO_LEARN}
    with Clock(say, phases).running() as clock:
        run.open_references(clock.enter(TO_MEASURE if TO_MEASURE in phases else "references"))
        if begins:
            give_learning_samples(run.objective, run.teacher, run.options.refine.total_images, clock.enter(TO_LEARN))
        measured = () if run.yardsticks is None else run.yardsticks.all
        for read in {reference.images_read for each in measured for reference in each.given} - {None}:
            say(f"Reference: {run.options.fid_ref}, {read}.")
        yield clock


def _write_first_files(folder: Path, options: RunOptions, plan: str) -> bytes:
    files = {LAUNCH_FILE: json.dumps(_this_launch()), "log.txt": plan, "options.json": to_json(options)}
    for name, text in files.items():
        with atomic_file(folder / name) as stream:
            stream.write(text.encode())
    return b""


def _this_launch() -> dict[str, str | int]:
    """What tells one torchrun from another; its processes have the same parent whenever they are started again."""
    return {"run_id": os.environ.get("TORCHELASTIC_RUN_ID", ""), "host": socket.gethostname(), "parent": os.getppid()}


def folder_of_this_launch(outdir: Path) -> Path | None:
    """The run folder of these processes if torchrun has restarted them, else None."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return None

    def find() -> bytes:
        for _, folder in reversed(numbered_folders(outdir) if outdir.is_dir() else []):
            path = folder / LAUNCH_FILE
            begun = path.is_file() and (folder / "options.json").is_file()
            if begun and json.loads(path.read_text()) == _this_launch():
                return str(folder).encode(errors=PATHS)
        return b""

    found = broadcast_from_rank0(find).decode(errors=PATHS)
    return Path(found) if found else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with the process however that ends. Raises UserError if another holds it."""
    lock = filelock.FileLock(folder / ".lock")

    def acquire() -> bytes:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(f"another process is at work in {folder}; wait for its end or start a new run") from error
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror}); make it writable, then resume") from error
        return b""

    broadcast_from_rank0(acquire)
    try:
        yield
    finally:
        lock.release()


def drive(run: Run, folder: Path, found: tuple[dict, str] | None, clock: Clock) -> str:
    """The run from a checkpoint (content and name) or from its start; returns what goes to standard output."""
    rank0 = distributed.is_rank0()
    trackers = open_trackers(run.options, folder, rank0)
    log = RunFolder(folder, rank0, trackers=trackers)
    clock.say = log.say
    with Signals().installed() as signals, _explained(folder, run.options), arithmetic_of(run):
        trainer = Trainer(run, log, signals, clock)
        try:
            if found is None:
                log.forget_after(-1)
                trainer.start()
            else:
                check_header(found[0], run, found[1])
                trainer.restore(*found)
            complete = trainer.refine()
        except StopRequested:
            complete = False
        summary = trainer.finish(complete)
    for tracker in trackers:
        tracker.close()
    to_resume = resume_command(folder, run.options)  # while it is known how many processes there are
    distributed.leave()
    if complete:
        return summary.refined
    log.say(f"Stopped by {signals.received} after {trainer.state.steps} steps, all of them saved. Resume with:")
    return to_resume


def resume_command(folder: Path, options: RunOptions) -> str:
    """The command line that resumes the run in `folder` on as many processes of this machine."""
    processes, python = distributed.get_world_size(), _python()
    several = "torchrun" if python == "python" else f"{python} -m torch.distributed.run"
    program = python if processes == 1 else f"{several} --nproc-per-node={processes}"
    trust = " --trust-pickle" if options.trust_pickle else ""
    return f"{program} -m gan_refine refine --resume={shlex.quote(str(folder))}{trust}"


def _python() -> str:
    """`python` where that is this interpreter, else its path."""
    found = shutil.which("python")
    same = found is not None and Path(found).parent.resolve() == Path(sys.executable).parent.resolve()
    return "python" if same else shlex.quote(sys.executable)


@contextmanager
def _explained(folder: Path, options: RunOptions) -> Iterator[None]:
    """Full disks and memories as user errors that say how to resume."""
    hint = f"every earlier file is intact: resume with {resume_command(folder, options)}"
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror or error}); make room or make it writable; {hint}"
        ) from error
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory; lower --batch-gpu, or give --batch-gpu=auto or --recompute in a new run ({hint})"
        ) from error
