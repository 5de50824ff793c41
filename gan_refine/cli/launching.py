"""One run from its options, or from its folder: the lock, the checkpoint to go on from, the ways to end."""

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import filelock
import torch
from tqdm import tqdm

from gan_refine.checkpoint import Checkpoints, parse
from gan_refine.cli.driver import Driver
from gan_refine.cli.ranks import from_first
from gan_refine.cli.run_options import RunOptions, description, go_on_with, options_from_json, read_options
from gan_refine.cli.saving import check_header
from gan_refine.cli.signals import Signals, StopWish
from gan_refine.cli.wiring import Run, whole, wire
from gan_refine.config import to_json
from gan_refine.errors import FileFormatError, OptionError, UserError
from gan_refine.files import atomic_file, remove_leftovers
from gan_refine.refine import fit_batch
from gan_refine.runlog import RunLog, new_folder, numbered_folders
from torch_utils import distributed

LAUNCH_FILE = "launch.json"


def launch(options: RunOptions, dry_run: bool, fit_memory: bool = False) -> str | None:
    """A new run, to its end or until it is asked to stop. Returns the refined pickle's path, or the command that goes on.

    With `fit_memory` the micro-batch is the largest that fits, and options.json has what was found.
    Raises UserError before anything is written if the options are not right.
    """
    restarted = _folder_of_this_launch(Path(options.outdir))
    if restarted is not None:
        return go_on(restarted, options, ())
    run = wire(options, dry_run)
    _introduce(run)
    if fit_memory:
        options = run.options = _fitted(run)
    if dry_run:
        tqdm.write(to_json(options) + "\nDry run: nothing was written.", file=sys.stderr)
        return None
    name = options.desc or description(options)
    folder = Path(from_first(lambda: str(new_folder(Path(options.outdir), name)).encode()).decode())
    with _locked(folder):
        from_first(lambda: _write_first_files(folder, options))
        return _drive(run, folder, None)


def go_on(folder: Path, given: RunOptions, named: Iterable[str]) -> str:
    """Goes on with the run in `folder` from its newest whole checkpoint, from the start if there is none.

    `named` are the fields of `given` that the command line names. Raises UserError.
    """
    with _locked(folder):
        text = from_first(lambda: to_json(read_options(folder)).encode()).decode()
        saved = options_from_json(text, f"{folder}/options.json")
        if saved.trust_pickle and not given.trust_pickle:  # what a file of options says is no consent
            raise OptionError(f"the run in {folder} began with --trust-pickle; give it again to go on")
        options = go_on_with(saved, given, named)
        run = wire(replace(options, device=given.device))
        _introduce(run)
        from_first(lambda: _tidy(folder))
        return _drive(run, folder, _newest(folder))


def find_run(text: str, outdir: Path) -> Path:
    """The run folder that --resume names: a path, or `latest` for the newest below `outdir`. Raises UserError."""
    return Path(from_first(lambda: str(_find_run(text, outdir)).encode()).decode())


def _find_run(text: str, outdir: Path) -> Path:
    if text != "latest":
        if not Path(text).is_dir():
            raise FileFormatError(f"--resume={text} is not a folder; give a run folder, or latest")
        return Path(text)
    folders = [] if not outdir.is_dir() else [folder for _, folder in numbered_folders(outdir)]
    runs = [folder for folder in folders if (folder / "options.json").is_file()]
    if not runs:
        raise FileFormatError(f"--resume=latest finds no run below --outdir={outdir}; give the run folder")
    return runs[-1]


def _fitted(run: Run) -> RunOptions:
    """The run's options with the largest --batch-gpu that fits."""
    size = fit_batch(run.generator, run.objective, run.options.refine, frozen=run.frozen)
    if distributed.is_rank0():
        tqdm.write(f"--batch-gpu={size} is the largest that fits.", file=sys.stderr)
    return replace(run.options, refine=replace(run.options.refine, batch_gpu=size))


def _introduce(run: Run) -> None:
    if distributed.is_rank0():
        gan, teacher = (f"{run.options.gan}, {whole(run.generator).spec}", f"{run.options.teacher}, {run.teacher.spec}")
        tqdm.write(f"GAN: {gan}. Teacher: {teacher}.", file=sys.stderr)


def _write_first_files(folder: Path, options: RunOptions) -> bytes:
    for name, text in ((LAUNCH_FILE, json.dumps(_this_launch())), ("options.json", to_json(options))):
        with atomic_file(folder / name) as stream:
            stream.write(text.encode())
    return b""


def _tidy(folder: Path) -> bytes:
    remove_leftovers(folder)
    return b""


def _this_launch() -> dict[str, str | int]:
    """What tells one torchrun from another; its processes have the same parent whenever they are started again."""
    return {"run_id": os.environ.get("TORCHELASTIC_RUN_ID", ""), "host": socket.gethostname(), "parent": os.getppid()}


def _folder_of_this_launch(outdir: Path) -> Path | None:
    """The folder that these processes began in, if torchrun has started them again."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return None

    def find() -> bytes:
        for _, folder in reversed(numbered_folders(outdir) if outdir.is_dir() else []):
            path = folder / LAUNCH_FILE
            if (
                path.is_file()
                and (folder / "options.json").is_file()
                and json.loads(path.read_text()) == _this_launch()
            ):
                return str(folder).encode()
        return b""

    found = from_first(find).decode()
    return Path(found) if found else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with the process however that ends. Raises UserError if another holds it."""
    lock = filelock.FileLock(folder / ".lock")

    def acquire() -> bytes:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(f"another process is at work in {folder}; wait for its end or start a new run") from error
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror}); make it writable, then go on") from error
        return b""

    from_first(acquire)
    try:
        yield
    finally:
        lock.release()


def _newest(folder: Path) -> tuple[dict, str] | None:
    """Content and name of the newest whole checkpoint, read by the first process for all; damaged ones are named."""

    def read() -> bytes:
        checkpoints = Checkpoints(folder)
        step, skipped = checkpoints.newest()
        for text in skipped:
            tqdm.write(f"Skipped: {text}", file=sys.stderr)
        if step is None:
            return b""
        path = checkpoints.path(step)
        return path.name.encode() + b"\n" + path.read_bytes()

    name, _, data = from_first(read).partition(b"\n")
    return (parse(data, name.decode()), name.decode()) if name else None


def _drive(run: Run, folder: Path, found: tuple[dict, str] | None) -> str:
    """The run from a checkpoint or from its start; returns what goes to standard output."""
    log = RunLog(folder, distributed.is_rank0())
    with Signals().installed() as signals, _explained(folder, run.options):
        driver = Driver(run, log, signals)
        try:
            if found is None:
                log.forget_after(-1)
                driver.start()
            else:
                check_header(found[0], run, found[1])
                driver.restore(*found)
            complete = driver.refine()
        except StopWish:
            complete = False
        summary = driver.finish(complete)
    to_go_on = command_to_go_on(folder, run.options)  # while it is known how many processes there are
    distributed.leave()
    if complete:
        return summary.refined
    log.say(f"Stopped by {signals.received} after {driver.state.steps} steps, all of them saved. Go on with:")
    return to_go_on


def command_to_go_on(folder: Path, options: RunOptions) -> str:
    """The command line that continues the run in `folder` on as many processes of this machine."""
    processes = distributed.get_world_size()
    program = "python" if processes == 1 else f"torchrun --nproc-per-node={processes}"
    trust = " --trust-pickle" if options.trust_pickle else ""
    return f"{program} run_refine.py --resume={shlex.quote(str(folder))}{trust}"


@contextmanager
def _explained(folder: Path, options: RunOptions) -> Iterator[None]:
    """Full disks and memories as user errors that say how to go on."""
    hint = f"every earlier file is intact: go on with {command_to_go_on(folder, options)}"
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
